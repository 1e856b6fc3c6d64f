//! Who does not keep up hears it, and nobody else.

use std::time::{Duration, Instant};

use crate::books::{Workers, with};
use crate::support::eventually;
use crate::support::service::{LIMIT, signal_to, stat};
use nix::sys::signal::Signal;

/// Messages of the largest size.
const LARGE: &str = "size=65536&pause=100";

fn patient(threads: u32) -> String {
    format!("workers = 3\nthreads = {threads}\n[timeouts]\nheartbeat_serving = '10m'")
}

#[test]
fn a_slow_subscriber_in_a_fast_worker_hears_how_many_it_has_missed() {
    slow_subscriber("workers = 2");
}

#[test]
fn also_where_every_worker_has_several_threads() {
    slow_subscriber("workers = 2\nthreads = 4");
}

fn slow_subscriber(lines: &str) {
    let service = with(lines, "").serve();
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    workers.get(pids[0], "/mail/hold");
    eventually("it takes nothing", LIMIT, || {
        workers.heard(pids[0]).held.then_some(())
    });
    workers.publish_to(&pids, pids[1], (6, 500), "burst=50&pause=500");
    workers.get(pids[0], "/mail/go");
    let slow = workers.wait_for(pids[0], 3_000);
    assert_eq!((slow.missed, slow.lags), (3_000 - 1_024, 1), "{slow:#?}");
    workers.wait_for(pids[1], 3_000).is_complete();
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_frozen_worker_costs_only_its_own_subscribers_and_they_hear_how_many() {
    frozen_worker(1);
}

#[test]
fn a_frozen_worker_of_several_threads_costs_no_more() {
    frozen_worker(4);
}

fn frozen_worker(threads: u32) {
    const PIECES: (u64, u64) = (12, 500);
    const COUNT: u64 = PIECES.0 * PIECES.1;
    let service = with(&patient(threads), "").serve();
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    let (publisher, other, frozen) = (pids[0], pids[1], pids[2]);
    let run = "burst=20&pause=300&size=500";
    let before = workers.publish_to(&pids, publisher, PIECES, run);
    for pid in &pids {
        workers.wait_for(*pid, COUNT).is_complete();
    }
    signal_to(frozen, Signal::SIGSTOP);
    let during = workers.publish_to(&[publisher, other], publisher, PIECES, run);
    println!("a call of publish, ns: {before:?}; with a frozen worker: {during:?}");
    workers.wait_for(other, 2 * COUNT).is_complete();
    workers.wait_for(publisher, 2 * COUNT).is_complete();
    // One that waited for the frozen worker would take seconds.
    assert!(during.p99 < 4 * before.p99 + 100_000_000, "{during:?}");
    // It waits for room, and that must cost nothing.
    let ticks = || stat(publisher).unwrap().1.ticks + stat(other).unwrap().1.ticks;
    let (start, begun) = (ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let (used, waited) = (ticks() - start, begun.elapsed());
    // Ticks are hundredths of a second: this is a twentieth of the time.
    let most = waited.as_secs_f64() * 5.0;
    assert!(
        f64::from(u32::try_from(used).unwrap()) <= most,
        "{used} ticks in {waited:?} of waiting"
    );
    signal_to(frozen, Signal::SIGCONT);
    let late = workers.wait_for(frozen, 2 * COUNT);
    println!(
        "the frozen worker missed {} of {COUNT} in {} pieces",
        late.missed, late.lags
    );
    assert!(late.missed > 0 && late.missed < COUNT, "{late:#?}");
    let voice = late.from.values().next().unwrap();
    assert_eq!(
        (voice.first, voice.last),
        (0, 2 * COUNT - 1),
        "the newest are there"
    );
    // And it has caught up.
    workers.publish(other, "count=100&pause=300");
    let caught_up = workers.wait_for(frozen, 2 * COUNT + 100);
    assert_eq!(caught_up.missed, late.missed);
    assert_eq!(service.stop(), 0);
}

/// The last thing that it could be told is that it has missed something.
#[test]
fn what_was_missed_is_told_although_nothing_follows() {
    let service = with("workers = 2\n[timeouts]\nheartbeat_serving = '10m'", "").serve();
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    signal_to(pids[1], Signal::SIGSTOP);
    // More than its mailbox takes, and the outbox beside it.
    workers.publish(pids[0], "count=120&size=65536&pause=100");
    signal_to(pids[1], Signal::SIGCONT);
    let late = workers.wait_for(pids[1], 120);
    assert!(late.missed > 0, "{late:#?}");
    workers.wait_for(pids[0], 120);
    assert_eq!(service.stop(), 0);
}

/// It has nobody else to tell it: the arbiter does, when it runs again.
#[test]
fn a_frozen_worker_hears_how_many_messages_one_that_left_had_for_it() {
    let service = with(&format!("{}\ngraceful = '1s'", patient(1)), "").serve();
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    signal_to(pids[1], Signal::SIGSTOP);
    // More than its mailbox takes, and the outbox beside it; the third worker keeps up.
    workers.publish_to(&[pids[0], pids[2]], pids[0], (12, 10), LARGE);
    let publisher = workers.heard(pids[0]).worker;
    signal_to(pids[0], Signal::SIGTERM);
    let lost = service.message("messages to a worker that does not keep up are lost");
    service.wait_until_replaced(pids[0]);
    signal_to(pids[1], Signal::SIGCONT);
    assert_eq!(lost.worker(), Some(publisher));
    // With the one of its teardown.
    for pid in [pids[1], pids[2]] {
        let heard = workers.wait_for(pid, 121);
        let missed = if pid == pids[1] {
            u64::from(lost.number("messages"))
        } else {
            0
        };
        assert_eq!(heard.missed, missed, "{heard:#?}");
        assert!(heard.from[&publisher].first == 0, "{heard:#?}");
    }
    assert_eq!(service.stop(), 0);
}

/// How many, nobody knows any more.
#[test]
fn a_frozen_worker_hears_that_one_that_was_killed_had_messages_for_it() {
    let service = with(&patient(1), "").serve();
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    signal_to(pids[1], Signal::SIGSTOP);
    workers.publish_to(&[pids[0], pids[2]], pids[0], (12, 10), LARGE);
    workers.wait_for(pids[2], 120).is_complete();
    // It has come back from sending the last one, and knows that nothing waits for who has it.
    workers.heard(pids[0]);
    signal_to(pids[0], Signal::SIGKILL);
    service.wait_until_replaced(pids[0]);
    signal_to(pids[1], Signal::SIGCONT);
    let heard = eventually("a word of it", LIMIT, || {
        Some(workers.heard(pids[1])).filter(|heard| heard.lags > 0)
    });
    assert_eq!((heard.missed, heard.lags), (1, 1), "{heard:#?}");
    assert!((1..120).contains(&heard.count()), "{heard:#?}");
    heard.is_in_order();
    // It costs who kept up nothing.
    workers.publish(pids[2], "count=1");
    workers.wait_for(pids[2], 121).is_complete();
    assert_eq!(service.stop(), 0);
}
