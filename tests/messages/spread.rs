//! Who hears what.

use std::thread;

use crate::books::{Heard, Workers, ask, with};
use crate::support::service::{Service, signal_to, wait_for_end_of};
use nix::sys::signal::Signal;

/// Seldom enough that nobody misses anything who does not run for a second.
pub(crate) const SING: &str = "sing = 20000";

#[test]
fn what_one_worker_publishes_all_hear_in_order() {
    let service = with("workers = 3", "").serve();
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    let mut total = 0;
    for pid in &pids {
        workers.publish(*pid, "count=200&burst=20&pause=500");
        total += 200;
        for pid in &pids {
            workers.wait_for(*pid, total).is_complete();
        }
    }
    for pid in &pids {
        let heard = workers.heard(*pid);
        assert_eq!(heard.from.len(), 3, "{heard:#?}");
        let all = |first, last, count| (first, last, count) == (0, 199, 200);
        assert!(
            heard.from.values().all(|v| all(v.first, v.last, v.count)),
            "{heard:#?}"
        );
    }
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_message_of_the_largest_size_arrives_whole() {
    let service = with("workers = 2", "").serve();
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    for total in 1..=20 {
        workers.publish(pids[0], "size=65536");
        for pid in &pids {
            workers.wait_for(*pid, total).is_complete();
        }
    }
    assert_eq!(service.stop(), 0);
}

/// All wait for room in the same mailboxes.
#[test]
fn eight_publishers_at_full_speed_lose_nothing_that_is_not_told() {
    let service = with("workers = 8\n[timeouts]\nheartbeat_serving = '10m'", "").serve();
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    const EACH: u64 = 2_000;
    let singers: Vec<_> = pids
        .iter()
        .map(|pid| {
            let mut client = workers.take(*pid);
            thread::spawn(move || ask(&mut client, &format!("/mail/publish?count={EACH}&burst=8")))
        })
        .collect();
    singers
        .into_iter()
        .for_each(|singer| drop(singer.join().unwrap()));
    let mut workers = Workers::of(&service);
    let mut missed = 0;
    for pid in pids {
        let heard = workers.wait_for(pid, 8 * EACH);
        assert_eq!(heard.from.len(), 8);
        missed += heard.missed;
    }
    println!(
        "8 publishers, {EACH} messages each: {missed} of {} missed",
        64 * EACH
    );
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_worker_that_is_killed_costs_the_others_nothing() {
    let service = with("workers = 3", SING).serve();
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    let victim = pids[0];
    let gone = workers.heard(victim).worker;
    signal_to(victim, Signal::SIGKILL);
    wait_for_end_of(victim);
    service.wait_until_replaced(victim);
    // The new one has something to hear from all, and they from it.
    let mut workers = Workers::of(&service);
    for pid in workers.pids() {
        crate::support::eventually("three who sing", crate::support::service::LIMIT, || {
            let heard = workers.heard(pid);
            let loud = heard
                .from
                .iter()
                .filter(|(worker, v)| **worker != gone && v.count > 50);
            (loud.count() == 3).then_some(())
        });
    }
    assert_eq!(service.stop(), 0);
    let heard = last_words(&service);
    assert_eq!(heard.len(), 3);
    heard.iter().for_each(Heard::is_complete);
}

/// What is published by the last step of the teardown.
#[test]
fn the_last_words_of_a_worker_are_heard() {
    let service = with("workers = 2\n[reload]\ntrial = '50ms'", "").serve();
    assert_eq!(service.reload().status.code(), Some(0));
    service.count("the old ones are gone", 2, |record| {
        record.is("worker-exited")
    });
    let mut workers = Workers::of(&service);
    for pid in workers.pids() {
        let heard = workers.wait_for(pid, 2);
        heard.is_complete();
        assert_eq!(heard.from.keys().copied().collect::<Vec<_>>(), [1, 2]);
    }
    assert_eq!(service.stop(), 0);
}

/// What every worker said at its end that it had heard.
pub(crate) fn last_words(service: &Service) -> Vec<Heard> {
    let records = service.records().into_iter();
    records
        .filter(|record| record["probe"] == "mail")
        .map(|record| serde_json::from_str(record.text("heard")).unwrap())
        .collect()
}
