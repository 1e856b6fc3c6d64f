//! How connections spread over the workers, and what a worker that is blocked does to them.

use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::http::{Client, get};
use crate::support::service::{Service, Setup};
use crate::support::{DEADLINE, eventually};

const LONG: usize = 512;
const SHORT: usize = 10_000;
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

/// Every worker serves within 25 % of the mean.
#[track_caller]
fn short_connections(workers: usize) {
    let service = Setup::new(&format!("workers = {workers}")).serve();
    at_a_rate(service.address(), SHORT);
    let counts = service.each("accepted");
    assert_eq!(counts.iter().sum::<u64>(), SHORT as u64);
    assert_even(&counts, 0.25);
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
    let service = Setup::new("workers = 4").serve();
    let address = service.address();
    let blocked = thread::spawn(move || {
        let answer = get(address, "/block?ms=3000").number();
        (answer, Instant::now())
    });
    let begun = wait_until_blocked(&service);
    let mut last = Instant::now();
    let mut others = Vec::new();
    for _ in 0..NEW {
        others.push(get(address, "/").number());
        last = Instant::now();
    }
    let (victim, end) = blocked.join().unwrap();
    assert!(!others.contains(&victim), "it was blocked all the time");
    assert!(last < end, "the last of them came after the block's end");
    let (took, whole) = (last - begun, end - begun);
    assert!(
        took < whole / 2,
        "{NEW} connections took {took:?} of a block of {whole:?}"
    );
}

/// The request that blocks has been read: its worker does nothing else from then on.
fn wait_until_blocked(service: &Service) -> Instant {
    service.wait_for_sum("in_flight", 1);
    Instant::now()
}

#[track_caller]
fn assert_even(counts: &[u64], share: f64) {
    assert!(
        is_even(counts, share),
        "{counts:?} differ by more than {share} of the mean"
    );
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn is_even(counts: &[u64], share: f64) -> bool {
    let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    let far = |count: &u64| (*count as f64 - mean).abs() > mean * share;
    !counts.iter().any(far)
}
