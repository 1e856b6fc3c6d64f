//! The way out, one thing after the other.

use nix::sys::signal::Signal;

use crate::support::service::Setup;
use crate::trace;

#[test]
fn each_thing_ends_in_its_turn() {
    let settings = "workers = 1\ntimeouts.graceful = '3s'\n[app]\npayload = 'run'";
    let service = Setup::new(settings).serve();
    let (mut idle, mut short, mut long, mut events) = (
        service.client(),
        service.client(),
        service.client(),
        service.client(),
    );
    idle.get("/").unwrap();
    short.send("/sleep?ms=1000").unwrap();
    long.send("/sleep?ms=600000").unwrap();
    events.send("/events?ms=20&drain=true").unwrap();
    service.wait_for_sum("in_flight", 3);
    service.signal(Signal::SIGTERM);
    // Nobody waits for what is idle, and who hears the drain token ends by itself.
    idle.expect_end();
    assert!(
        events
            .answer()
            .expect("a stream with an end")
            .body
            .ends_with("\n\n")
    );
    assert_eq!(short.answer().expect("it was accepted").status, 200);
    let so_far = trace(&service, 1);
    assert_eq!(
        so_far.last().unwrap(),
        "draining",
        "the long one is waited for"
    );
    // Until the deadline.
    assert!(long.answer().is_err());
    assert_eq!(service.exit(), 0);
    let trace = trace(&service, 1);
    let end = &trace[so_far.len()..];
    let expected = [
        "cancelled",
        "cleaning",
        "payload-ended",
        "teardown three",
        "teardown two",
        "teardown one",
        "exited",
    ];
    assert_eq!(end, expected);
}

#[test]
fn a_payload_that_is_dead_is_never_hidden_behind_green() {
    let settings = "workers = 1\ntimeouts.graceful = '20s'\n[app]\npayload = 'fail'";
    let service = Setup::new(settings).serve();
    let old = service.workers()[0];
    let mut busy = service.client();
    busy.send("/sleep?ms=2000").unwrap();
    service.wait_for_sum("in_flight", 1);
    let mut client = service.client();
    client.get("/payload").unwrap();
    service.event("payload-failed");
    // It finishes what it has, and is counted as serving no more.
    let draining = service.event_where("worker-phase", |event| event.text("phase") == "draining");
    assert_eq!(draining.worker(), Some(1));
    let status = service.status();
    let workers = status["workers"].as_array().unwrap();
    for worker in workers.iter().filter(|worker| worker["pid"] == old) {
        assert_eq!(worker["phase"], "draining", "{status:#}");
    }
    let text = status["arbiter"]["status"].as_str().unwrap();
    let replaced = workers.iter().any(|worker| worker["phase"] == "serving");
    assert!(text.contains("0/1 workers") || replaced, "{text}");
    assert_eq!(busy.answer().unwrap().number(), old);
    service.wait_until_replaced(old);
    let failed = service.event("worker-failed");
    assert!(failed.text("reason").contains("'task'"), "{failed}");
}
