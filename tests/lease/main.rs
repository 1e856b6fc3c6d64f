//! Payloads of which there is one in the service, or one for each slot, with real processes: the probe keeps a
//! ledger, and the tests look whether two ever wrote at the same time, and for how long nobody did.

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

#[allow(dead_code, reason = "what other tests use of it")]
#[path = "../restart/manager.rs"]
mod manager;

mod failures;
mod forged;
mod gaps;
mod green;
mod judge;
mod kept;
mod ledger;
mod lives;
mod moves;
mod prompt;
mod slots;
mod stalls;
mod storm;
mod verdict;
