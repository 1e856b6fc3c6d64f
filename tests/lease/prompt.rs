//! A move waits for nothing but what it is made of: a death that is seen, a word to the arbiter and one from it.
//!
//! Other processes have their share of the machine, so that no time in seconds can be asked for. But what they take from
//! a move they take as well from the boot of a worker, which is more work. A poll in the handover makes the move alone
//! longer.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;

use crate::gaps::Scene;
use crate::support::service::{Service, signal_to};

const TIMES: usize = 9;
/// How many boots a move may take. The fastest one by the fastest boot: what is waited for each time cannot hide. And the
/// middle one by the middle boot: a poll is over at once now and then, not every other time.
const MOST: f64 = 6.0;

/// How long each worker that serves took from its fork to that, in seconds.
fn boots(service: &Service) -> Vec<f64> {
    let forked: BTreeMap<_, _> = service
        .events("worker-forked")
        .into_iter()
        .map(|record| (record.worker(), record))
        .collect();
    let phases = service.events("worker-phase").into_iter();
    phases
        .filter(|record| record.text("phase") == "serving")
        .map(|record| record.seconds_after(&forked[&record.worker()]))
        .collect()
}

#[track_caller]
fn takes_no_longer_than_boots(what: &str, act: impl Fn(&Scene)) {
    let (mut moves, mut all_boots) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let scene = Scene::new();
        all_boots.extend(boots(&scene.service));
        act(&scene);
        moves.push(scene.gap().as_secs_f64());
    }
    moves.sort_by(f64::total_cmp);
    // The log is exact to the millisecond.
    all_boots.sort_by(f64::total_cmp);
    let at = |times: &[f64], index: usize| times[index].max(0.001);
    let fastest = moves[0] / at(&all_boots, 0);
    let middle = moves[TIMES / 2] / at(&all_boots, all_boots.len() / 2);
    let measured =
        format!("{what}: {fastest:.2} and {middle:.2} boots; {moves:?} and {all_boots:?} s");
    println!("{measured}");
    assert!(fastest < MOST, "what is waited for each time; {measured}");
    assert!(middle < MOST, "what is waited for now and then; {measured}");
}

#[test]
fn when_its_holder_is_killed() {
    takes_no_longer_than_boots("killed", |scene| {
        signal_to(scene.holder(), Signal::SIGKILL);
    });
}

#[test]
fn when_its_holder_drains() {
    takes_no_longer_than_boots("drained", |scene| {
        signal_to(scene.holder(), Signal::SIGTERM);
    });
}

#[test]
fn when_a_reload_is_committed() {
    takes_no_longer_than_boots("reload", |scene| {
        assert_eq!(scene.service.reload().status.code(), Some(0));
    });
}
