//! How connections spread over the workers, and what a worker that is blocked does to them.

use std::fs;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;

use crate::support::http::{Client, get, last_request};
use crate::support::service::{Service, Setup, number};
use crate::support::status::workers_of;
use crate::support::{DEADLINE, eventually};

const LONG: usize = 512;
/// In each of [`ROUNDS`].
const SHORT: usize = 2_000;
const ROUNDS: usize = 5;
/// Short connections in a second.
const RATE: u32 = 2_000;

#[test]
fn long_connections_one_after_the_other_over_2_workers() {
    long_connections(2, 1);
}

#[test]
fn long_connections_one_after_the_other_over_4_workers() {
    long_connections(4, 1);
}

#[test]
fn long_connections_in_a_burst_over_2_workers() {
    long_connections(2, 16);
}

#[test]
fn long_connections_in_a_burst_over_4_workers() {
    long_connections(4, 16);
}

/// Every worker holds within 10 % of the mean: at once, or soon, by handing on.
#[track_caller]
fn long_connections(workers: usize, at_once: usize) {
    // Two of these at a time are more than the usual limit.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let service = Setup::new(&format!("workers = {workers}")).serve();
    let together = Barrier::new(at_once);
    let held: Vec<Client> = thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once)
            .map(|_| {
                scope.spawn(|| {
                    together.wait();
                    (0..LONG / at_once)
                        .map(|_| service.client())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(held.len(), LONG);
    eventually("every worker holds its share", DEADLINE, || {
        let counts = service.each("connections");
        let all = counts.iter().sum::<u64>() == LONG as u64;
        (all && is_even(&counts, 0.10)).then_some(())
    });
}

#[test]
fn short_connections_over_2_workers() {
    short_connections(2);
}

#[test]
fn short_connections_over_4_workers() {
    short_connections(4);
}

/// Every worker serves within 25 % of the mean, in most rounds: one that gets no processor for a while serves less in
/// that round, and a queue that deals unevenly does so in all of them.
#[track_caller]
fn short_connections(workers: usize) {
    let service = Setup::new(&format!("workers = {workers}")).serve();
    let mut before = service.each("accepted");
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        at_a_rate(service.address(), SHORT);
        let all = service.each("accepted");
        let counts: Vec<u64> = all
            .iter()
            .zip(&before)
            .map(|(all, old)| all - old)
            .collect();
        assert_eq!(counts.iter().sum::<u64>(), SHORT as u64);
        rounds.push(counts);
        before = all;
    }
    let even = rounds.iter().filter(|counts| is_even(counts, 0.25)).count();
    assert!(
        even > ROUNDS / 2,
        "{rounds:?} differ by more than a quarter of the mean"
    );
}

/// One connection after the other at [`RATE`], or as fast as the machine can.
fn at_a_rate(address: SocketAddr, count: usize) {
    const CLIENTS: usize = 4;
    let begun = Instant::now();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                for number in (client..count).step_by(CLIENTS) {
                    let due =
                        begun + Duration::from_secs(1) / RATE * u32::try_from(number).unwrap();
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    assert_eq!(get(address, "/").status, 200);
                }
            });
        }
    });
}

#[test]
fn a_blocked_worker_stalls_no_new_connection() {
    const NEW: usize = 300;
    // A stall without the block: the heartbeat of the listener's queue, and more.
    const STALL: Duration = Duration::from_millis(400);
    let service = Setup::new("workers = 4\ntimeouts.heartbeat_serving = '10m'").serve();
    let address = service.address();
    let gate = service.folder().join("gate");
    let mut blocked = service.client();
    let hold = format!("/hold?file={}", gate.display());
    blocked.send_bytes(last_request(&hold)).unwrap();
    let victim = blocked_worker(&service);
    let mut took = Vec::new();
    for _ in 0..NEW {
        let begun = Instant::now();
        assert_ne!(get(address, "/").number(), victim, "it is blocked");
        took.push(begun.elapsed());
    }
    assert!(!blocked.has_answer(), "and all that while it was blocked");
    fs::write(gate, "").unwrap();
    assert_eq!(blocked.answer().unwrap().number(), victim);
    // Some wait for a processor. Of a queue that dealt to the blocked one as well, a fourth would wait for it.
    let stalled = took.iter().filter(|took| **took > STALL).count();
    assert!(
        stalled < NEW / 20,
        "{stalled} of {NEW} were stalled: {took:?}"
    );
}

/// The request that blocks has been read: its worker does nothing else from then on.
#[track_caller]
fn blocked_worker(service: &Service) -> u32 {
    let status = service.status_where("a request is in flight", |status| busy(status).is_some());
    number(&busy(&status).expect("a busy worker")["pid"])
}

fn busy(status: &Value) -> Option<&Value> {
    workers_of(status).iter().find(|w| w["in_flight"] == 1)
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn is_even(counts: &[u64], share: f64) -> bool {
    let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    let far = |count: &u64| (*count as f64 - mean).abs() > mean * share;
    !counts.iter().any(far)
}
