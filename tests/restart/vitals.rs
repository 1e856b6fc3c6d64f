//! The built-in app's history outlives a restart.

use serde_json::Value;

use crate::manager::Manager;
use crate::support::eventually;
use crate::support::service::{LIMIT, Setup};

fn times(manager: &Manager) -> Option<Vec<f64>> {
    let body = manager.client().get("/api/vitals").ok()?.body;
    let vitals: Value = serde_json::from_str(&body).expect("JSON");
    let samples = vitals["samples"].as_array().expect("a list").iter();
    Some(
        samples
            .map(|sample| sample["time"].as_f64().unwrap())
            .collect(),
    )
}

#[test]
fn the_history_of_vitals_goes_on_in_the_next_life() {
    let manager = Manager::new(100);
    let setup = || Setup::shipped("workers = 2\n[app]\nsample_interval = '100ms'");
    let first = manager.serve(setup());
    let before = eventually("a history", LIMIT, || {
        times(&manager).filter(|times| times.len() >= 20)
    });
    manager.end(&first);
    let second = manager.serve(setup());
    let last = before[before.len() - 1];
    let after = eventually("more of it", LIMIT, || {
        // A worker without the sampler hears of the past a moment later than of the present.
        times(&manager).filter(|times| {
            let new = times.iter().filter(|at| **at > last + 1.0).count();
            new >= 5 && times.len() >= before.len() + new
        })
    });
    assert_eq!(after[..before.len()], before[..]);
    let gap = after
        .windows(2)
        .map(|two| two[1] - two[0])
        .fold(0.0, f64::max);
    assert!(gap < LIMIT.as_secs_f64(), "{gap} s: {after:?}");

    // A stop is an end.
    assert_eq!(second.stop(), 0);
    let third = manager.serve(setup());
    let anew = eventually("new samples", LIMIT, || {
        times(&manager).filter(|times| !times.is_empty())
    });
    assert!(anew[0] > after[after.len() - 1]);
    drop(third);
}
