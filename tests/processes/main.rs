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
mod early;
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

use support::life::{assert_torn_down, trace, worker_of};

/// Whether this is root; else says what is skipped. A failure in CI, where nothing may be skipped.
fn is_root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        support::skip(&format!("only root can do this: {what}"));
    }
    root
}
