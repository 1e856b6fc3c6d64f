//! `examples/hello.rs`.

use std::collections::BTreeSet;

use crate::support::service::{Service, Setup};

/// The workers that have said this, or of which it was said.
fn workers(service: &Service, count: usize, text: &str) -> BTreeSet<Option<u64>> {
    let records = service.count(text, count, |record| {
        record.text("message") == text || record.is(text)
    });
    assert_eq!(records.len(), count, "once each: {text}");
    records.iter().map(|record| record.worker()).collect()
}

#[test]
fn each_worker_starts_its_app_once_and_tears_it_down() {
    let service = Setup::example("hello", "workers = 2\n[reload]\ntrial = '200ms'").serve();
    assert_eq!(service.get("/"), "hello\n");
    assert!(service.reload().status.success());
    assert_eq!(service.get("/"), "hello\n");
    let alive = workers(&service, 4, "the payload is alive");
    assert_eq!(service.stop(), 0);
    assert_eq!(alive.len(), 4);
    for text in [
        "worker-forked",
        "this worker's app starts up",
        "this worker's app is torn down",
        "worker-exited",
    ] {
        assert_eq!(workers(&service, 4, text), alive, "{text}");
    }
}
