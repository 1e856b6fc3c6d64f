//! Reload and rollback, with the real processes: the probe is reloaded under load, into what works and into
//! everything that does not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod binary;
mod configuration;
mod exec;
mod listeners;
mod load;
mod preload;
mod stage;
mod stop;
mod triggers;
mod workers;
