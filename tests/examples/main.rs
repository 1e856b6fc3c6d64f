//! The services of `examples/` do what they promise: as real processes, reloaded under use, with workers that are
//! killed, and stopped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../../examples/behind_proxy/forwarded.rs"]
mod rules;

mod chat;
mod forwarded;
mod proxy;
mod queue;
mod schedule;
mod sqlite;
mod users;
