//! Work that holds a thread of its own outlives no worker that ends well.

use crate::support::service::{Service, Setup};
use crate::{assert_torn_down, trace};

/// A worker whose request has left such work behind.
fn serve(settings: &str, work: &str) -> Service {
    let service = Setup::new(&format!("workers = 1\n{settings}")).serve();
    service.get(&format!("/blocking?ms={work}"));
    service
}

#[test]
fn it_is_awaited_as_long_as_the_cleanup_may_take() {
    for threads in [1, 2] {
        // Nobody takes the worker for stuck meanwhile.
        let limits = "timeouts.cleanup = '1m'\ntimeouts.heartbeat_stopping = '4s'";
        let service = serve(&format!("threads = {threads}\n{limits}"), "8000");
        assert_eq!(service.stop(), 0);
        let trace = trace(&service, 1);
        assert_torn_down(&trace);
        let end = &trace[trace.len() - 3..];
        assert_eq!(end, ["released", "unblocked", "exited"], "{trace:?}");
        service.never("worker-stuck");
    }
}

#[test]
fn if_it_takes_longer_the_worker_fails_and_says_why() {
    let why =
        "blocking work did not end by the deadline: raise timeouts.cleanup if it needs longer";
    let service = serve("timeouts.cleanup = '1s'", "600000");
    assert_eq!(service.stop(), 70);
    let trace = trace(&service, 1);
    assert_torn_down(&trace);
    assert!(
        trace.ends_with(&["released".into(), "failed".into()]),
        "{trace:?}"
    );
    assert_eq!(service.event("worker-failed").text("reason"), why);
    let by_itself = service.record("the worker's own word", |record| {
        record.text("process") == "worker" && record.text("message") == why
    });
    assert_eq!(by_itself.worker(), Some(1));
}

#[test]
fn what_load_has_left_behind_is_awaited_when_the_startup_does_not_succeed() {
    let limit = "workers = 1\ntimeouts.cleanup = '1m'\n[app]\nblocking = 4";
    let awaited = |trace: &[String], end: &str| {
        let last = trace.iter().map(String::as_str).rev().take(2);
        assert!(last.eq([end, "unblocked"]), "{trace:?}");
    };
    for conduct in ["load = 'fail'", "startup = 'fail'"] {
        let service = Setup::new(&format!("{limit}\n{conduct}")).start();
        assert_eq!(service.exit(), 70, "{conduct}");
        awaited(&trace(&service, 1), "failed");
    }
    for conduct in ["load = 'hang'", "startup = 'hang'"] {
        let service = Setup::new(&format!("{limit}\n{conduct}")).start();
        service.record("it has begun", |record| record.text("probe") == "blocked");
        assert_eq!(service.stop(), 0, "{conduct}");
        awaited(&trace(&service, 1), "exited");
    }
}

/// The startup's limit is over by then; who unwinds is not taken for one that does not come to an end.
#[test]
fn so_is_it_when_the_startup_takes_too_long() {
    for conduct in ["load = 'hang'", "startup = 'hang'"] {
        let settings = "workers = 1\ntimeouts.startup = '1s'\ntimeouts.cleanup = '1m'";
        let service = Setup::new(&format!("{settings}\n[app]\nblocking = 5\n{conduct}")).start();
        assert_eq!(service.exit(), 70, "{conduct}");
        let trace = trace(&service, 1);
        let last = trace.iter().map(String::as_str).rev().take(2);
        assert!(last.eq(["failed", "unblocked"]), "{trace:?}");
        service.never("worker-stuck");
    }
}

#[test]
fn nor_does_that_take_longer_than_the_cleanup() {
    for conduct in [
        "load = 'fail'",
        "startup = 'fail'",
        "load = 'hang'",
        "startup = 'hang'",
    ] {
        let settings = "workers = 1\ntimeouts.cleanup = '1s'\n[app]\nblocking = 600";
        let service = Setup::new(&format!("{settings}\n{conduct}")).start();
        service.record("it has begun", |record| record.text("probe") == "blocked");
        let code = if conduct.ends_with("'hang'") {
            service.stop()
        } else {
            service.exit()
        };
        assert_eq!(code, 70, "{conduct}");
        let trace = trace(&service, 1);
        assert_eq!(trace.last().unwrap(), "failed", "{conduct}: {trace:?}");
        assert!(!trace.contains(&"unblocked".to_owned()), "{conduct}");
    }
}
