//! TTIN and TTOU: one worker more, one worker less.

use nix::sys::signal::Signal;

use crate::client::{Client, request};
use crate::launch::Launch;

#[test]
fn one_more_and_one_less() {
    let mut service = Launch::probe().workers(1).serve();
    let first = service.pids();
    service.signal(Signal::SIGTTIN);
    service.wait_until_serving(2);
    let two = service.pids();
    assert_eq!(two.len(), 2);
    assert_eq!(two[0], first[0], "the first one stays");
    assert_eq!(service.status()["arbiter"]["workers"], 2);
    let changed = service.wait_for_event("slot-count-changed");
    assert_eq!((&changed["from"], &changed["to"]), (&1.into(), &2.into()));

    service.signal(Signal::SIGTTOU);
    service.wait_for_events("slot-count-changed", 2);
    service.wait_for_events("worker-exited", 1);
    assert_eq!(service.pids(), first);

    service.signal(Signal::SIGTTOU);
    service.wait_for_event("slot-count-refused");
    assert_eq!(service.pids(), first, "there is always one");
    assert_eq!(service.events("worker-failed").len(), 0);
    service.signal(Signal::SIGTERM);
    assert_eq!(service.exit_code(), 0);
}

#[test]
fn the_one_that_leaves_finishes_what_it_has() {
    let service = Launch::probe().workers(2).serve();
    // Connections are dealt out in turn, so among four each worker has some.
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(service.address())).collect();
    for client in &mut clients {
        client.send(request("/sleep?ms=1000")).unwrap();
    }
    service.wait_for_sum("in_flight", 4);
    service.signal(Signal::SIGTTOU);
    service.wait_for_event("slot-count-changed");
    let leaving = service.wait_for_record("a worker that drains", |record| {
        record["phase"] == "draining"
    })["payload_worker"]
        .clone();
    assert!(leaving.is_u64());
    for client in &mut clients {
        assert_eq!(client.response().unwrap().unwrap().status, 200);
    }
    service.wait_for_event("worker-exited");
    service.wait_until_serving(1);
}
