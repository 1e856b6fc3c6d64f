//! One app in each worker, and none anywhere else.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use crate::support::eventually;
use crate::support::service::{LIMIT, Setup, signal_to, wait_for_end_of};
use crate::worker_of;

#[test]
fn load_runs_once_in_every_worker_and_never_in_the_arbiter() {
    let service = Setup::new("workers = 2\nreload.trial = '0s'").serve();
    // A death, a reload, one worker more.
    let killed = service.workers()[0];
    signal_to(killed, Signal::SIGKILL);
    service.wait_until_replaced(killed);
    assert!(service.reload().status.success());
    service.signal(Signal::SIGTTIN);
    service.wait_until_serving(3);
    for worker in service.status()["workers"].as_array().unwrap() {
        for (count, wanted) in [("loads", 1), ("starts", 1), ("stops", 0)] {
            assert_eq!(worker[count], wanted, "{count} of {worker}");
        }
    }
    assert_eq!(service.stop(), 0);
    let of = |what: &str| {
        let records = service.records().into_iter();
        let mut workers: Vec<_> = records
            .filter(|record| record.is(what) || record.text("probe") == what)
            .map(|record| record.worker())
            .collect();
        workers.sort_unstable();
        workers
    };
    let forked = of("worker-forked");
    assert_eq!(forked.len(), 6);
    assert_eq!(
        of("load"),
        forked,
        "no load without a worker, and none of a worker without"
    );
    let mut records = service.records().into_iter();
    assert!(records.all(|record| record.text("probe").is_empty() || record["process"] == "worker"));
}

/// With one thread for all that the author has written.
#[test]
fn load_runs_in_the_runtime_that_answers() {
    let service = Setup::new("workers = 2\nthreads = 1").serve();
    let mut seen = 0;
    for pid in service.workers() {
        let worker = worker_of(&service, pid);
        let load = service.record("its load", |record| {
            record.text("probe") == "load" && record.worker() == Some(worker)
        });
        let thread = load.number("thread");
        assert_ne!(thread, pid, "the first one keeps the worker");
        eventually("an answer of this worker", LIMIT, || {
            let mut client = service.client();
            let this = client.get("/").ok()?.number() == pid;
            this.then(|| assert_eq!(client.get("/thread").unwrap().number(), thread))
        });
        seen += 1;
    }
    assert_eq!(seen, 2);
    assert_eq!(service.stop(), 0);
}

/// Between its fork and its first line, where nothing of it could handle a signal.
#[test]
fn a_worker_that_a_signal_meets_at_its_birth_leaves_in_order() {
    let setup = Setup::new("workers = 2\nrestart.backoff_initial = '1ms'");
    let hold = setup.folder().join("hold");
    let service = setup.env("PROBE_BIRTH", hold.to_str().unwrap()).serve();
    service.write("hold", "");
    signal_to(service.workers()[1], Signal::SIGKILL);
    let born = service.event_where("worker-forked", |event| event.worker() > Some(2));
    let (pid, worker) = (born.number("worker_pid"), born.worker());
    signal_to(pid, Signal::SIGTERM);
    std::fs::remove_file(hold).unwrap();
    wait_for_end_of(pid);
    let end = service.record("its end", |record| {
        record.worker() == worker && (record.is("worker-failed") || record.is("worker-exited"))
    });
    assert_eq!(end.text("exit"), "exit code 0", "{end}");
    service.wait_until_serving(2);
    assert_eq!(service.stop(), 0);
}

/// Whatever ends one, the socket's file stays the one that it was, and is answered on.
#[test]
fn a_worker_takes_no_listener_along() {
    let settings = "workers = 2\nreload.trial = '0s'\nlisten = ['unix:@FOLDER@/http']";
    let service = Setup::new(settings).filled_in().listen(None).serve();
    let path = service.folder().join("http");
    let file = || std::fs::metadata(&path).expect("the socket's file").ino();
    let ask = || -> u32 {
        let mut stream = UnixStream::connect(&path).expect("no connection is refused");
        let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.rsplit_once("\r\n\r\n").expect("an answer");
        body.trim().parse().expect("a pid")
    };
    let before = file();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let pid = service.workers()[0];
        signal_to(pid, signal);
        service.wait_until_replaced(pid);
        assert_ne!(ask(), pid);
    }
    assert!(service.reload().status.success());
    service.signal(Signal::SIGTTOU);
    service.wait_until_serving(1);
    assert_eq!([ask()], service.workers()[..]);
    assert_eq!(file(), before);
    assert_eq!(service.stop(), 0);
    assert!(!path.exists(), "the arbiter has removed what it had bound");
}
