//! The service from outside: the real processes, their sockets, signals, logs and answers.

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
mod cli;
mod control;
mod drain;
mod events;
mod first_use;
mod limits;
mod logs;
mod mount;
mod notify;
mod processes;
mod recycle;
mod scale;
mod status;
mod threads;
mod vitals;
