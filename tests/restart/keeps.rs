//! What clients see of a restart: nothing.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;

use crate::load::{Load, seed};
use crate::manager::Manager;
use crate::support::http::{Client, request};
use crate::support::service::{Record, Service, Setup};

const TWO: &str = "workers = 2";

fn probe() -> Setup {
    Setup::new(TWO)
}

/// How the last run's end and this one's start went, as the events tell it.
#[track_caller]
fn assert_kept(before: &Service, after: &Service, count: u32) {
    let kept = before.event("connections-kept");
    assert_eq!((kept.number("kept"), kept.number("closed")), (count, 0));
    let adopted = after.event("connections-adopted");
    assert_eq!(
        (adopted.number("adopted"), adopted.number("closed")),
        (count, 0)
    );
}

#[test]
fn idle_connections_go_on_in_the_next_life() {
    for manager in [Manager::new(100), Manager::silent(100)] {
        let first = manager.serve(probe());
        let mut clients: Vec<Client> = (0..10).map(|_| manager.client()).collect();
        for client in &mut clients {
            assert!(first.workers().contains(&client.get("/").unwrap().number()));
        }
        manager.end(&first);
        assert_eq!(manager.stored(), (10, 1, 0));
        assert!(!clients.iter_mut().any(Client::has_ended));

        let second = manager.serve(probe());
        let workers = second.workers();
        let mut served = BTreeMap::<u32, usize>::new();
        for client in &mut clients {
            let answer = client.get("/").unwrap();
            assert!(!answer.announces_close());
            *served.entry(answer.number()).or_default() += 1;
        }
        assert_eq!(served.keys().copied().collect::<Vec<_>>(), {
            let mut sorted = workers.clone();
            sorted.sort_unstable();
            sorted
        });
        assert!(served.values().all(|count| *count == 5), "{served:?}");
        assert_kept(&first, &second, 10);
        manager.emptied();

        // Nobody else has a copy: the end of the service is the end of its connections.
        assert_eq!(second.stop(), 0);
        for client in &mut clients {
            client.expect_end();
        }
    }
}

#[test]
fn the_manager_and_the_status_hear_of_it() {
    let manager = Manager::new(100);
    let service = manager.serve(Setup::new("workers = 1"));
    let mut client = manager.client();
    client.send(&service.gated()).unwrap();
    service.wait_for_sum("in_flight", 1);
    let mut idle = manager.client();
    idle.get("/environment")
        .map(|answer| {
            assert!(!answer.body.contains("FDSTORE"), "{}", answer.body);
        })
        .unwrap();
    service.signal(Signal::SIGUSR2);
    let stopping = service.event("service-stopping");
    assert_eq!(stopping["restart"], true);
    service.status_where("one connection is kept", |status| {
        let line = status["arbiter"]["status"].as_str().unwrap();
        line.starts_with("stopping for a restart: 1 worker left, 1 requests in flight")
            && line.ends_with("1 connections kept")
    });
    service.open_gate();
    assert!(!client.answer().unwrap().announces_close());
    assert_eq!(service.exit(), 0);
    assert_eq!(service.event("connections-kept").number("kept"), 2);
}

#[test]
fn a_response_in_flight_ends_first_and_its_connection_goes_on() {
    let manager = Manager::new(100);
    let first = manager.serve(probe());
    let workers = first.workers();
    let mut client = manager.client();
    client.send(&first.gated()).unwrap();
    first.wait_for_sum("in_flight", 1);
    manager.end_and_open(&first);
    let answer = client.answer().unwrap();
    assert!(!answer.announces_close());
    assert!(workers.contains(&answer.number()));
    let second = manager.serve(probe());
    assert!(
        second
            .workers()
            .contains(&client.get("/").unwrap().number())
    );
    assert_kept(&first, &second, 1);
}

#[test]
fn half_a_head_is_completed_in_the_next_life() {
    let manager = Manager::new(100);
    let first = manager.serve(probe());
    let head = request("/");
    let mut clients: Vec<Client> = (0..8).map(|_| manager.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        if number % 2 == 0 {
            client.get("/").unwrap();
        }
        client.send_bytes(&head[..9 + number]).unwrap();
    }
    let sent = (0..8).map(|number| 9 + number).sum::<u64>() + 4 * head.len() as u64;
    first.wait_for_sum("bytes_in", sent);
    manager.end(&first);
    let second = manager.serve(probe());
    let workers = second.workers();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send_bytes(&head[9 + number..]).unwrap();
        let answer = client.answer().unwrap();
        assert!(!answer.announces_close());
        assert!(workers.contains(&answer.number()));
    }
    assert_kept(&first, &second, 8);
}

#[test]
fn what_was_pipelined_is_answered_once_and_in_order() {
    let manager = Manager::new(100);
    let first = manager.serve(Setup::new("workers = 1"));
    let mut client = manager.client();
    let echo = |text: &str| {
        format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\n{text}")
    };
    // More than one poll of the connection takes, so that some are left to the next life.
    let texts: Vec<String> = (0..60).map(|number| (number % 10).to_string()).collect();
    let requests: String = texts.iter().map(|text| echo(text)).collect();
    client
        .send_bytes(request(&first.gated()) + &requests + &request("/")[..10])
        .unwrap();
    first.wait_for_sum("in_flight", 1);
    manager.end_and_open(&first);
    let second = manager.serve(Setup::new("workers = 1"));
    assert_eq!(client.answer().unwrap().status, 200);
    for text in &texts {
        let answer = client.answer().unwrap();
        assert_eq!(&answer.body, text);
        assert!(!answer.announces_close());
    }
    client.send_bytes(&request("/")[10..]).unwrap();
    assert_eq!(client.answer().unwrap().number(), second.workers()[0]);
    assert_kept(&first, &second, 1);
}

#[test]
fn a_connection_that_has_not_asked_yet_and_one_that_was_never_accepted_are_served() {
    let manager = Manager::new(100);
    let first = manager.serve(probe());
    let mut silent = manager.client();
    first.wait_for_sum("connections", 1);
    manager.end(&first);
    let mut waiting = manager.client();
    waiting.send("/").unwrap();
    let second = manager.serve(probe());
    let workers = second.workers();
    assert!(workers.contains(&silent.get("/").unwrap().number()));
    assert!(workers.contains(&waiting.answer().unwrap().number()));
    assert_kept(&first, &second, 1);
}

#[test]
fn a_client_that_has_left_meanwhile_is_forgotten() {
    let manager = Manager::new(100);
    let first = manager.serve(probe());
    let mut stays = manager.client();
    let mut leaves = manager.client();
    stays.get("/").unwrap();
    leaves.get("/").unwrap();
    manager.end(&first);
    drop(leaves);
    let second = manager.serve(probe());
    stays.get("/").unwrap();
    second.wait_for_sum("connections", 1);
    assert_kept(&first, &second, 2);
}

#[test]
fn restarts_under_load_lose_nothing() {
    let manager = Manager::new(1_000);
    let mut service = manager.serve(probe());
    let load = Load::start(manager.address(), 25, seed());
    service.wait_for_sum("connections", 25);
    for _ in 0..8 {
        load.advance(150);
        manager.end(&service);
        assert_eq!(manager.stored(), (25, 1, 0));
        let next = manager.serve(probe());
        assert_kept(&service, &next, 25);
        manager.emptied();
        service = next;
    }
    load.advance(150);
    let workers = load.finish();
    assert!(workers.iter().all(|count| *count > 1), "{workers:?}");
    service.never("worker-failed");
}

#[test]
fn a_reload_between_two_restarts_changes_nothing() {
    let manager = Manager::new(100);
    let first = manager.serve(Setup::new("workers = 2\n[reload]\ntrial = \"0s\""));
    let mut client = manager.client();
    client.get("/").unwrap();
    manager.end(&first);
    let second = manager.serve(Setup::new("workers = 2\n[reload]\ntrial = \"0s\""));
    // At once: the image is not changed before everything is with a worker.
    let reloaded = second.reload();
    assert!(reloaded.status.success(), "{reloaded:?}");
    client.get("/").unwrap();
    manager.end(&second);
    assert_eq!(manager.stored(), (1, 1, 0));
    let third = manager.serve(probe());
    assert!(third.workers().contains(&client.get("/").unwrap().number()));
}

#[test]
fn a_worker_that_drained_already_gives_what_it_has_to_the_next_life() {
    let manager = Manager::new(100);
    let first = manager.serve(probe());
    let (mut clients, mut slow) = (Vec::new(), None);
    let leaving = first.workers()[1];
    while slow.is_none() {
        let mut client = manager.client();
        if client.get("/").unwrap().number() == leaving {
            slow = Some(clients.len());
        }
        clients.push(client);
    }
    let slow = slow.unwrap();
    clients[slow].send(&first.gated()).unwrap();
    first.wait_for_sum("in_flight", 1);
    first.signal(Signal::SIGTTOU);
    let drains = |record: &Record| record["phase"] == "draining";
    first.record("the drain", drains);
    first.signal(Signal::SIGUSR2);
    // Of the other one.
    first.count("the end of both", 2, drains);
    first.open_gate();
    assert_eq!(first.exit(), 0);
    assert_eq!(clients[slow].answer().unwrap().number(), leaving);
    assert_eq!(manager.stored().0, clients.len());
    let _second = manager.serve(probe());
    for client in &mut clients {
        client.get("/").unwrap();
    }
}
