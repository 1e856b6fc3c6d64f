//! TTIN and TTOU: one worker more, one worker less.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::http::Client;
use crate::support::service::Setup;

#[test]
fn one_more_and_one_less() {
    let service = Setup::new("workers = 1").serve();
    let first = service.workers();
    service.signal(Signal::SIGTTIN);
    service.wait_until_serving(2);
    let two = service.workers();
    assert_eq!(two.len(), 2);
    assert_eq!(two[0], first[0], "the first one stays");
    assert_eq!(service.status()["arbiter"]["workers"], 2);
    let changed = service.event("slot-count-changed");
    assert_eq!((&changed["from"], &changed["to"]), (&1.into(), &2.into()));

    service.signal(Signal::SIGTTOU);
    service.count("two changes", 2, |record| record.is("slot-count-changed"));
    service.event("worker-exited");
    assert_eq!(service.workers(), first);

    service.signal(Signal::SIGTTOU);
    service.event("slot-count-refused");
    assert_eq!(service.workers(), first, "there is always one");
    service.never("worker-failed");
    assert_eq!(service.stop(), 0);
}

#[test]
fn the_one_that_leaves_finishes_what_it_has() {
    let service = Setup::new("workers = 2").serve();
    // Connections are dealt out in turn, so among four each worker has some.
    let mut clients: Vec<Client> = (0..4).map(|_| service.client()).collect();
    let gate = service.folder().join("gate");
    for client in &mut clients {
        client
            .send(&format!("/gate?file={}", gate.display()))
            .unwrap();
    }
    service.wait_for_sum("in_flight", 4);
    service.signal(Signal::SIGTTOU);
    service.event("slot-count-changed");
    let leaving = service.record("a worker that drains", |record| {
        record["phase"] == "draining"
    })["payload_worker"]
        .clone();
    assert!(leaving.is_u64());
    fs::write(gate, "").unwrap();
    for client in &mut clients {
        assert_eq!(client.answer().unwrap().status, 200);
    }
    service.event("worker-exited");
    service.wait_until_serving(1);
}
