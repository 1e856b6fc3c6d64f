//! What one worker publishes reaches the subscribers in all workers, with real processes: the probe numbers what it
//! says and keeps the books of what it hears.

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

mod books;
mod flood;
mod lag;
mod reload;
mod spread;
mod strange;
