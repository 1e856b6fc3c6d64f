//! What payload promises about the life of an app, one property after the other: the table that says which test shows
//! it (`properties.rs`), the tests that are nowhere else, and the proof that the rules which every service of every
//! test is read by (`support/trace.rs`) can fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod instance;
mod limits;
mod properties;
mod rules;
mod shutdown;
mod startup;
mod ways_out;

use support::service::{Record, Service};

/// What one worker did, in order: its phases by name, and what the probe and its payload said.
fn trace(service: &Service, worker: u64) -> Vec<String> {
    let word = |record: Record| match record.text("payload_event") {
        "" => {
            let (what, step) = (record.text("probe"), record.text("step"));
            (!what.is_empty()).then(|| format!("{what} {step}").trim_end().to_owned())
        }
        "worker-phase" => Some(record.text("phase").to_owned()),
        event => Some(event.to_owned()),
    };
    let records = service.records().into_iter();
    let of_worker =
        |record: &Record| record.text("process") == "worker" && record.worker() == Some(worker);
    records.filter(of_worker).filter_map(word).collect()
}

/// The steps that were torn down, in order.
fn torn_down(trace: &[String]) -> Vec<&str> {
    let steps = trace.iter();
    steps
        .filter_map(|word| word.strip_prefix("teardown "))
        .collect()
}

const ALL: [&str; 3] = ["three", "two", "one"];

/// The worker with this pid.
#[track_caller]
fn worker_of(service: &Service, pid: u32) -> u64 {
    let forked = service.event_where("worker-forked", |event| event.number("worker_pid") == pid);
    forked.worker().expect("its number")
}
