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

mod blocking;
mod clock;
mod instance;
mod limits;
mod payloads;
mod properties;
mod rules;
mod shutdown;
mod startup;
mod ways_out;

use support::life::{assert_torn_down, trace, worker_of};
