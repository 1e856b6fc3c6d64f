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

#[allow(dead_code, reason = "what other tests use of it")]
#[path = "../restart/manager.rs"]
mod manager;

mod chat;
mod forwarded;
mod hello;
mod proxy;
mod queue;
mod schedule;
mod sqlite;
mod users;
