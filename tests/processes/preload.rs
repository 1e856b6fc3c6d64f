//! The preload at the start: once, in the arbiter, shared by all workers; and every way in which it can fail.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::http::get;
use crate::support::notify::Manager;
use crate::support::service::{Service, Setup, signal_to};
use crate::support::status::workers_of;

const MIB: u64 = 1 << 20;

fn setup(configuration: &str) -> Setup {
    Setup::new(configuration).env("PROBE_PRELOAD", "1")
}

/// How often it has run, in this log.
fn runs(service: &Service) -> usize {
    let records = service.records();
    let own = records.iter().filter(|one| one.text("probe") == "preload");
    own.inspect(|one| assert_eq!(one.text("process"), "arbiter", "{one}"))
        .count()
}

#[test]
fn one_table_for_all_workers() {
    let service = setup("workers = 3\n[app.preload]\nmib = 128").serve();
    assert_eq!(runs(&service), 1);
    let expected = format!("{}  {}", service.pid(), 128 * 256);
    assert_eq!(service.get_of_each("/preloaded"), vec![expected; 3]);
    service.event("preloaded");

    let status = service.status();
    let memory = workers_of(&status).iter().map(|one| one["memory"].as_u64());
    let memory: u64 = memory.map(|bytes| bytes.expect("a number")).sum();
    // A quarter of it is the arbiter's, and the rest is the workers' together.
    assert!(
        (90 * MIB..128 * MIB).contains(&memory),
        "{} MiB",
        memory / MIB
    );
}

#[test]
fn a_worker_that_is_replaced_gets_the_same() {
    let service = setup("workers = 2\n[app.preload]\nmib = 1").serve();
    let [victim, _] = service.workers()[..] else {
        panic!("two workers");
    };
    let before = service.get_of_each("/preloaded");
    signal_to(victim, Signal::SIGKILL);
    service.wait_until_replaced(victim);
    assert_eq!(service.get_of_each("/preloaded"), before);
    assert_eq!(runs(&service), 1);
    assert_eq!(service.stop(), 0);
}

/// It cannot start, says why once, and leaves nothing behind.
#[track_caller]
fn fails(conduct: &str, reason: &str) {
    let configuration = format!(
        "listen = ['127.0.0.1:0', 'unix:@FOLDER@/http']\n[app.preload]\nconduct = '{conduct}'"
    );
    let service = setup(&configuration).listen(None).filled_in().start();
    assert_eq!(service.exit(), 70, "{}", service.text());
    let records = service.records();
    let told: Vec<_> = records
        .iter()
        .filter(|one| one.to_string().contains(reason))
        .collect();
    assert_eq!(told.len(), 1, "{reason:?} in {}", service.text());
    assert_eq!(told[0].text("message"), "the service cannot start");
    service.never("worker-forked");
    for left in ["http", "control"] {
        assert!(!service.folder().join(left).exists(), "{left} is left");
    }
}

#[test]
fn an_error() {
    fails("fail", "preload failed: read the table: no such table");
}

#[test]
fn a_panic() {
    fails(
        "panic",
        "preload panicked: asked to panic (tests/support/preloading.rs:",
    );
}

#[test]
fn a_thread_that_it_leaves() {
    fails(
        "thread",
        "preload has started a thread and left it running ('indexer'): a process with threads cannot be forked; \
         join it before it returns, or start it in load",
    );
}

#[test]
fn threads_that_it_has_joined_are_fine() {
    let service = setup("workers = 1\n[app.preload]\nconduct = 'joined'").serve();
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_stop_does_not_wait_for_it() {
    let service = setup("[app.preload]\nconduct = 'hang'").start();
    service.record("it runs", |one| one.text("probe") == "preload");
    // Its socket is there, and a connection waits.
    assert!(UnixStream::connect(service.control()).is_ok());
    let begun = Instant::now();
    service.signal(Signal::SIGTERM);
    assert_eq!(service.exit(), 128 + Signal::SIGTERM as i32);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn connections_wait_for_it() {
    let service = setup("[app.preload]\ndelay = 1.0").start();
    assert_eq!(get(service.address(), "/").status, 200);
}

#[test]
fn the_manager_is_told_to_wait() {
    let manager = Manager::on_path();
    let service = setup("[timeouts]\nstartup = '90s'\n[app.preload]\ndelay = 0.1")
        .notify(&manager)
        .env("WATCHDOG_USEC", "20000000")
        .serve();
    let told = manager.hear_until("READY=1");
    let texts: Vec<String> = told.iter().map(|one| one.lines.join(" ")).collect();
    assert_eq!(
        texts[..3],
        [
            "STATUS=starting: the preload runs",
            "EXTEND_TIMEOUT_USEC=90000000",
            "WATCHDOG=1",
        ]
    );
    assert_eq!(service.stop(), 0);
}
