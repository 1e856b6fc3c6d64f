//! Old and new workers hear each other, everything and once.

use std::collections::BTreeMap;
use std::fs;

use crate::books::{Workers, with};
use crate::spread::last_words;
use crate::support::service::{Service, Setup, probe};

const QUICK: &str = "workers = 3\n[reload]\ntrial = '100ms'";

#[test]
fn both_generations_hear_everything_once() {
    let service = with(QUICK, "sing = 1000").serve();
    for _ in 0..3 {
        assert_eq!(service.reload().status.code(), Some(0));
    }
    everybody_heard_everything(&service, 12);
}

#[test]
fn the_old_and_the_new_binary_hear_each_other() {
    let setup: Setup = with(QUICK, "sing = 1000").copied();
    let service = setup.serve();
    for _ in 0..2 {
        let new = service.folder().join("new-probe");
        fs::copy(probe(), &new).unwrap();
        fs::rename(new, service.program()).unwrap();
        assert_eq!(service.reload().status.code(), Some(0));
    }
    everybody_heard_everything(&service, 9);
}

#[test]
fn a_reload_that_fails_leaves_the_old_ones_in_touch() {
    let service = with(QUICK, "sing = 1000").steered().serve();
    service.steer("mail = true\nsing = 1000\nstartup = 'fail'");
    assert_eq!(service.reload().status.code(), Some(70));
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    let before = workers.heard(pids[0]);
    workers.publish(pids[1], "count=100&pause=200");
    crate::support::eventually("messages after it", crate::support::service::LIMIT, || {
        (workers.heard(pids[0]).count() > before.count() + 100).then_some(())
    });
    service.stop();
    let heard = last_words(&service);
    assert!(heard.len() >= 3);
    heard.iter().for_each(|heard| heard.is_complete());
}

/// Of every worker that began after this one, from its first message on; of every worker that ended before this one,
/// to its last.
#[track_caller]
fn everybody_heard_everything(service: &Service, workers: u64) {
    let mut now = Workers::of(service);
    let pids = now.pids();
    service.count(
        "the old ones are gone",
        usize::try_from(workers).unwrap() - 3,
        |record| record.is("worker-exited"),
    );
    // These have heard the last of the others.
    let living: Vec<_> = pids.iter().map(|pid| now.heard(*pid)).collect();
    assert_eq!(service.stop(), 0);
    let said: BTreeMap<u64, u64> = service
        .records()
        .iter()
        .filter(|record| record["probe"] == "mail")
        .map(|record| (record.worker().unwrap(), record["said"].as_u64().unwrap()))
        .collect();
    assert_eq!(said.len() as u64, workers);
    let all = last_words(service);
    assert_eq!(all.len() as u64, workers);
    for heard in &all {
        heard.is_complete();
        for (worker, voice) in &heard.from {
            assert!(
                *worker < heard.worker || voice.first == 0,
                "{worker} of {heard:#?}"
            );
        }
    }
    let old = workers - 3;
    for heard in living {
        for worker in (1..=old).filter(|worker| heard.from.contains_key(worker)) {
            let last = heard.from[&worker].last;
            assert_eq!(last + 1, said[&worker], "{worker} in {heard:#?}");
        }
        let before = (old - 2..=old).all(|worker| heard.from.contains_key(&worker));
        assert!(before, "the generation before: {heard:#?}");
    }
}
