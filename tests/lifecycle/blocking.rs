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
        let limits = "timeouts.cleanup = '1m'\ntimeouts.heartbeat_stopping = '1s'";
        let service = serve(&format!("threads = {threads}\n{limits}"), "2500");
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
