//! Workers with a runtime of several threads.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::http::{Client, get};
use crate::support::service::{Setup, signal_to};

#[test]
fn two_threads_serve_at_the_same_time_and_drain() {
    let service = Setup::new("workers = 1").args(&["--threads=2"]).serve();
    let address = service.address();
    // One blocked thread leaves the other one.
    let gates = ["one", "two"].map(|name| service.folder().join(name));
    let mut blocked = service.client();
    blocked
        .send(&format!("/hold?file={}", gates[0].display()))
        .unwrap();
    service.wait_for_sum("in_flight", 1);
    let answered = (0..100)
        .map(|_| get(address, "/").status)
        .filter(|status| *status == 200)
        .count();
    assert_eq!(answered, 100);
    assert!(
        !blocked.has_answer() && !blocked.has_ended(),
        "and all that while the other thread was blocked"
    );
    fs::write(&gates[0], "").unwrap();
    assert_eq!(blocked.answer().unwrap().status, 200);
    drop(blocked);
    service.wait_for_sum("in_flight", 0);

    let mut slow = service.client();
    slow.send(&format!("/gate?file={}", gates[1].display()))
        .unwrap();
    service.wait_for_sum("in_flight", 1);
    service.signal(Signal::SIGTERM);
    service.record("the drain", |record| record["phase"] == "draining");
    fs::write(&gates[1], "").unwrap();
    let response = slow.answer().unwrap();
    assert_eq!(response.status, 200);
    assert!(response.announces_close());
    assert_eq!(service.exit(), 0);
    service.never("worker-failed");
}

#[test]
fn a_worker_whose_every_thread_is_blocked_is_found_and_replaced() {
    let service = Setup::new("workers = 1")
        .args(&[
            "--threads=2",
            // Longer than a busy machine keeps it waiting before it is blocked.
            "--heartbeat-serving=4s",
            "--abort-grace=500ms",
        ])
        .serve();
    let address = service.address();
    let stuck = service.workers()[0];
    // More than there are threads: which of them takes a connection is the runtime's choice. All of them are
    // this worker's before the first one blocks, so that the next worker inherits none.
    let mut clients: Vec<Client> = (0..8).map(|_| service.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").unwrap().number(), stuck);
    }
    for client in &mut clients {
        client.send("/block?ms=60000").unwrap();
    }
    let found = service.event("worker-stuck");
    assert_eq!(found["payload_worker"], 1, "{found}");
    service.wait_until_replaced(stuck);
    assert_ne!(get(address, "/").number(), stuck);
    assert!(!service.each("pid").contains(&stuck.into()));
}

/// Time stands still for an app whose every thread is blocked. What it leaves undone is known all the same.
#[test]
fn a_worker_whose_every_thread_is_blocked_says_that_it_drains() {
    let service = Setup::new("workers = 1").args(&["--threads=2"]).serve();
    let blocked = service.workers()[0];
    let gate = service.folder().join("gate");
    // More than there are threads: which of them takes a connection is the runtime's choice.
    let mut clients: Vec<Client> = (0..8).map(|_| service.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").unwrap().number(), blocked);
    }
    for client in &mut clients {
        client
            .send(&format!("/hold?file={}", gate.display()))
            .unwrap();
    }
    service.wait_for_sum("in_flight", 2);
    // It is told by another than its arbiter, and hears it by the thread that it has beside the app's.
    signal_to(blocked, Signal::SIGTERM);
    service.event_where("worker-phase", |event| event.text("phase") == "draining");
    assert!(clients.iter_mut().all(|client| !client.has_answer()));
    fs::write(&gate, "").unwrap();
    drop(clients);
    service.wait_until_replaced(blocked);
    assert_eq!(service.stop(), 0);
}
