//! Connections that leave HTTP, and streams of events: served, and ended well when their worker goes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod deadline;
mod drain;
mod events;
mod serve;
