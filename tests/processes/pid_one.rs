//! As the first process of a container, which inherits every orphan and has no default signal actions.

use nix::sys::signal::Signal;

use crate::is_root;
use crate::support::eventually;
use crate::support::service::{LIMIT, Process, Service, Setup, signal_to};

const UNSHARE: [&str; 6] = [
    "unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--",
];

fn contained(settings: &str) -> Option<(Service, u32)> {
    if !is_root("a PID namespace") {
        return None;
    }
    let service = Setup::new(settings).through(&UNSHARE).serve();
    let first = child_of(&service, service.pid()).pid;
    Some((service, first))
}

fn child_of(service: &Service, parent: u32) -> Process {
    let all = service.processes();
    let child = all.into_iter().find(|process| process.parent == parent);
    child.expect("a child")
}

#[test]
fn it_reaps_orphans() {
    let Some((service, first)) = contained("workers = 1") else {
        return;
    };
    assert_eq!(service.status()["arbiter"]["pid"], 1);
    service.get("/orphan");
    let orphan = || {
        let all = service.processes();
        all.into_iter()
            .find(|process| process.name == "sleep" && process.parent == first)
    };
    let orphan = eventually("the orphan is its child", LIMIT, orphan);
    signal_to(orphan.pid, Signal::SIGKILL);
    eventually("it is reaped", LIMIT, || {
        std::fs::read_to_string(format!("/proc/{}/stat", orphan.pid))
            .is_err()
            .then_some(())
    });
    assert_eq!(service.status()["arbiter"]["state"], "ready");
    signal_to(first, Signal::SIGTERM);
    assert_eq!(service.exit(), 0);
    assert!(
        !service
            .records()
            .iter()
            .any(|record| record.is("worker-failed"))
    );
}

#[test]
fn its_signals_work() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let Some((service, first)) = contained("workers = 2") else {
            return;
        };
        assert!(service.get("/").trim().parse::<u32>().unwrap() > 1);
        signal_to(first, signal);
        assert_eq!(service.exit(), 0);
    }
}

#[test]
fn a_killed_worker_is_replaced() {
    let Some((service, first)) = contained("workers = 1") else {
        return;
    };
    let worker = child_of(&service, first);
    signal_to(worker.pid, Signal::SIGKILL);
    service.event("worker-failed");
    service.count("it serves again", 2, |record| {
        record.is("worker-phase") && record.text("phase") == "serving"
    });
    signal_to(first, Signal::SIGTERM);
    assert_eq!(service.exit(), 0);
}

/// Where the kernel would drop it, were it not blocked.
#[test]
fn a_stop_during_the_preload_is_heard_after_it() {
    if !is_root("a PID namespace") {
        return;
    }
    let service = Setup::new("[app.preload]\ndelay = 1.0")
        .env("PROBE_PRELOAD", "1")
        .through(&UNSHARE)
        .start();
    service.record("it runs", |one| one.text("probe") == "preload");
    signal_to(child_of(&service, service.pid()).pid, Signal::SIGTERM);
    assert_eq!(service.exit(), 0);
    service.event("preloaded");
}
