//! Old and new workers hear each other, everything and once.

use std::collections::BTreeMap;
use std::fs;

use crate::books::{Workers, with};
use crate::spread::{SING, last_words};
use crate::support::program::copy_program;
use crate::support::service::{LIMIT, Service, Setup, probe};
use crate::support::{eventually, within};

const QUICK: &str = "workers = 3\n[reload]\ntrial = '100ms'";

#[test]
fn both_generations_hear_everything_once() {
    let service = with(QUICK, SING).serve();
    for _ in 0..3 {
        assert_eq!(service.reload().status.code(), Some(0));
    }
    everybody_heard_everything(&service, 12);
}

#[test]
fn the_old_and_the_new_binary_hear_each_other() {
    let setup: Setup = with(QUICK, SING).copied();
    let service = setup.serve();
    for _ in 0..2 {
        let new = service.folder().join("new-probe");
        copy_program(&probe(), &new);
        fs::rename(new, service.program()).unwrap();
        assert_eq!(service.reload().status.code(), Some(0));
    }
    everybody_heard_everything(&service, 9);
}

#[test]
fn a_reload_that_fails_leaves_the_old_ones_in_touch() {
    let service = with(QUICK, SING).steered().serve();
    service.steer("mail = true\nsing = 20000\nstartup = 'fail'");
    assert_eq!(service.reload().status.code(), Some(70));
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    let before = workers.heard(pids[0]);
    workers.publish(pids[1], "count=100&pause=200");
    eventually("messages after it", LIMIT, || {
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
    service.count(
        "the old ones are gone",
        usize::try_from(workers).unwrap() - 3,
        |record| record.is("worker-exited"),
    );
    let mut now = Workers::of(service);
    let pids = now.pids();
    let old = workers - 3;
    let said = said(service);
    for pid in pids {
        let mut last = None;
        let heard = within(LIMIT, || {
            let heard = now.heard(pid);
            let mut others = heard.from.iter().filter(|(worker, _)| **worker <= old);
            let all = others.all(|(worker, voice)| voice.last + 1 == said[worker]);
            last = Some(heard.clone());
            all.then_some(heard)
        });
        let heard = heard.unwrap_or_else(|| panic!("the last words of {said:?}: {last:#?}"));
        let before = (old - 2..=old).all(|worker| heard.from.contains_key(&worker));
        assert!(before, "the generation before: {heard:#?}");
    }
    assert_eq!(service.stop(), 0);
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
}

/// How many messages those workers have published that are gone.
fn said(service: &Service) -> BTreeMap<u64, u64> {
    let records = service.records().into_iter();
    records
        .filter(|record| record["probe"] == "mail")
        .map(|record| (record.worker().unwrap(), record["said"].as_u64().unwrap()))
        .collect()
}
