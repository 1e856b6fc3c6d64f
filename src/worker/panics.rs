//! A panic is a record like any other, not a text on standard error that no journal field belongs to.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

/// From here on, every panic of this process is logged where it happens, with its place and, where
/// `RUST_BACKTRACE` asks for it, its backtrace. What follows from it (a 500, a payload's policy, a failed step) is
/// said by whoever caught it.
pub(super) fn log() {
    std::panic::set_hook(Box::new(record));
}

fn record(panic: &PanicHookInfo<'_>) {
    let place = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("(no text)");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("(unnamed)");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(place, thread, backtrace = %backtrace, panic = message, "panic");
    } else {
        tracing::error!(place, thread, panic = message, "panic");
    }
}
