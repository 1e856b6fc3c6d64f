//! Workers come and go under load, and no client loses a request or its connection.

use nix::sys::signal::Signal;

use crate::load::{Load, seed};
use crate::support::http::{Client, request};
use crate::support::service::{Record, Service, Setup};
use crate::support::status::workers_of;

#[test]
fn through_fewer_and_more_workers() {
    let service = Setup::new("workers = 2").serve();
    through_ten_turns(&service);
}

#[test]
fn through_fewer_and_more_workers_of_several_threads() {
    let service = Setup::new("workers = 2").args(&["--threads=4"]).serve();
    through_ten_turns(&service);
}

#[track_caller]
fn through_ten_turns(service: &Service) {
    let load = Load::start(service.address(), 30, seed());
    for turn in 1..=10 {
        load.advance(200);
        service.signal(Signal::SIGTTOU);
        service.count("one less", turn, |record| record.is("worker-exited"));
        load.advance(100);
        service.signal(Signal::SIGTTIN);
        service.wait_until_serving(2);
    }
    load.advance(200);
    let workers = load.finish();
    assert!(workers.iter().any(|count| *count > 1), "{workers:?}");
    for record in assert_nothing_is_left(service) {
        assert_eq!(record.number("taken_back"), 0, "{record}");
    }
    assert_eq!(service.stop(), 0);
}

#[test]
fn through_recycling() {
    let service = Setup::new("workers = 2")
        .args(&["--max-requests=300", "--max-requests-jitter=50"])
        .serve();
    let load = Load::start(service.address(), 30, seed());
    service.count("ten replacements", 10, |record| {
        record.is("worker-replaced")
    });
    let workers = load.finish();
    assert!(workers.iter().all(|count| *count > 1), "{workers:?}");
    // What comes back is seen by its client, who expects no announced close; but for what was to be given for balance to
    // somebody who has left meanwhile.
    assert_nothing_is_left(&service);
}

#[track_caller]
fn assert_nothing_is_left(service: &Service) -> Vec<Record> {
    let handed_on = service.events("connections-handed-on");
    assert!(!handed_on.is_empty());
    for record in &handed_on {
        assert_eq!(record.number("left"), 0, "{record}");
    }
    service.never("worker-failed");
    handed_on
}

/// A request that is there before the old worker has given the connection away is answered by it.
#[track_caller]
fn moves_to(client: &mut Client, worker: u32) {
    let moved = (0..20).any(|_| {
        let answer = client.get("/").unwrap();
        assert!(!answer.announces_close());
        answer.number() == worker
    });
    assert!(moved, "its connection stays where it was");
}

#[test]
fn a_slow_response_ends_on_the_old_worker_while_idle_connections_move() {
    let service = Setup::new("workers = 2").serve();
    let leaving = service.workers()[1];
    let (mut clients, mut slow) = (Vec::new(), None);
    while slow.is_none() || clients.len() < 8 {
        let mut client = service.client();
        if client.get("/").unwrap().number() == leaving {
            slow = Some(clients.len());
        }
        clients.push(client);
    }
    let slow = slow.unwrap();
    let gate = service.folder().join("gate");
    clients[slow]
        .send(&format!("/gate?file={}", gate.display()))
        .unwrap();
    service.wait_for_sum("in_flight", 1);
    service.signal(Signal::SIGTTOU);
    service.record("the drain", |record| record["phase"] == "draining");
    let stays = service.workers()[0];
    for (number, client) in clients.iter_mut().enumerate() {
        if number != slow {
            moves_to(client, stays);
        }
    }
    assert!(!clients[slow].has_ended());
    assert_eq!(
        service.status()["workers"].as_array().map(Vec::len),
        Some(2)
    );
    service.write("gate", "");
    let answer = clients[slow].answer().unwrap();
    assert_eq!(answer.number(), leaving);
    assert!(!answer.announces_close());
    moves_to(&mut clients[slow], stays);
    service.event("worker-exited");
}

#[test]
fn a_half_sent_head_is_completed_elsewhere() {
    let service = Setup::new("workers = 2\nhttp.header_read_timeout = '10m'").serve();
    let mut clients: Vec<Client> = (0..8).map(|_| service.client()).collect();
    let head = request("/");
    let (first, second) = head.split_at(9);
    for (number, client) in clients.iter_mut().enumerate() {
        if number % 2 == 0 {
            client.get("/").unwrap();
        }
        client.send_bytes(first).unwrap();
    }
    service.status_where("every half head was read", |status| {
        let read: u64 = workers_of(status)
            .iter()
            .filter_map(|w| w["bytes_in"].as_u64())
            .sum();
        read == 8 * 9 + 4 * request("/").len() as u64
    });
    service.signal(Signal::SIGTTOU);
    service.event("worker-exited");
    let stays = service.workers()[0];
    for client in &mut clients {
        client.send_bytes(second).unwrap();
        let answer = client.answer().unwrap();
        assert_eq!(answer.number(), stays);
        assert!(!answer.announces_close());
    }
}

#[test]
fn a_stop_closes_what_moved_and_what_is_on_its_way() {
    let service = Setup::new("workers = 2").serve();
    let mut clients: Vec<Client> = (0..20).map(|_| service.client()).collect();
    for client in &mut clients {
        client.get("/").unwrap();
    }
    service.signal(Signal::SIGTTOU);
    service.signal(Signal::SIGTERM);
    for client in &mut clients {
        client.expect_end();
    }
    assert_eq!(service.exit(), 0);
    service.never("worker-failed");
}
