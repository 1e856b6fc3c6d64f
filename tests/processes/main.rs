//! A service as processes, seen from outside: its log, its status, its answers, its exit code and /proc, while
//! its processes are killed, stopped, starved and blocked.
//!
//! Needs no more than Linux, except where a test says that it needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it measured"
)]

#[path = "../support/mod.rs"]
mod support;

mod boot;
mod crash;
mod idle;
mod idle_exit;
mod limits;
mod manager_lost;
mod orphans;
mod payloads;
mod pid_one;
mod preload;
mod replacement;
mod signals;
mod slow_connections;
mod stop;
mod stuck;
mod trace;
mod watchdog;

use support::service::{Record, Service};

/// What one worker did, in order: its phases by name, and what the probe and its payload said.
fn trace(records: &[Record], worker: u64) -> Vec<String> {
    let own = records
        .iter()
        .filter(|record| record.text("process") == "worker" && record.worker() == Some(worker));
    own.filter_map(|record| match record.text("payload_event") {
        "" if record.text("probe").is_empty() => None,
        "" => Some(format!("{} {}", record.text("probe"), record.text("step"))),
        "worker-phase" => Some(record.text("phase").to_owned()),
        event => Some(event.to_owned()),
    })
    .map(|word| word.trim_end().to_owned())
    .collect()
}

/// The number of the worker with this pid.
#[track_caller]
fn worker_of(service: &Service, pid: u32) -> u64 {
    let forked = service.event_where("worker-forked", |event| event.number("worker_pid") == pid);
    forked.worker().unwrap()
}

/// The teardown of the probe's three steps is in this trace, once and in order.
#[track_caller]
fn assert_torn_down(trace: &[String]) {
    let steps: Vec<&str> = trace
        .iter()
        .filter_map(|word| word.strip_prefix("teardown "))
        .collect();
    assert_eq!(steps, ["three", "two", "one"], "{trace:?}");
}

/// Whether this is root; else says what is skipped. A failure in CI, where nothing may be skipped.
fn is_root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        support::skip(&format!("only root can do this: {what}"));
    }
    root
}
