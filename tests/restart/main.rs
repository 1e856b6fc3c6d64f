//! The service is restarted, and its connections outlive it in the manager's file descriptor store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../handoff/load.rs"]
mod load;

#[allow(dead_code, reason = "what other tests use of it")]
#[path = "../lease/judge.rs"]
mod judge;

#[allow(dead_code, reason = "what other tests use of it")]
#[path = "../lease/ledger.rs"]
mod ledger;

mod closes;
mod crashes;
mod keeps;
mod kept;
mod manager;
mod vitals;
