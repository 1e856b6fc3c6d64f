//! Connections that move between workers, open, as their clients see it: they do not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod balance;
mod deaths;
mod kinds;
mod load;
mod moves;
