//! What black-box tests share: a service to start and to watch, clients, a service manager, waiting with a deadline.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]
#![allow(clippy::print_stderr, reason = "a test that fails shows the log")]

pub(crate) mod activation;
pub(crate) mod http;
pub(crate) mod http2;
pub(crate) mod life;
pub(crate) mod log;
pub(crate) mod notify;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod service;
pub(crate) mod status;
pub(crate) mod trace;
pub(crate) mod websocket;

use std::io::{Write as _, stderr};
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For what happens at once, on a machine that is busy with something else.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How often a probe that cannot wait for its event looks again.
const PAUSE: Duration = Duration::from_millis(20);

/// While this is held, nobody else who holds it has a child between its fork and its exec, where that has a copy of every
/// descriptor. For whoever starts one, and for whoever closes a descriptor and must be the last to have it.
pub(crate) fn no_birth() -> MutexGuard<'static, ()> {
    static BIRTH: Mutex<()> = Mutex::new(());
    BIRTH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Probes until there is an answer, and gives it back. Panics with `what` when `limit` is over first.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, limit: Duration, probe: impl FnMut() -> Option<T>) -> T {
    within(limit, probe).unwrap_or_else(|| panic!("not within {limit:?}: {what}"))
}

/// The same without the panic.
pub(crate) fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        let answer = probe();
        if answer.is_some() || Instant::now() >= end {
            return answer;
        }
        sleep(PAUSE);
    }
}

/// An address of this machine that nobody but this test program uses: a port that is free there stays free.
pub(crate) fn own_loopback() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    // Pids have 22 bits at most, see proc(5).
    Ipv4Addr::new(127, 64 | high, middle, low)
}

/// Says on the real stderr, past the test runner's capture, that a test is skipped and why. A failure with `CI`
/// in the environment: there nothing is skipped.
#[track_caller]
pub(crate) fn skip(reason: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "CI must run this test: {reason}"
    );
    // In one write, since other tests talk as well.
    let line = format!("\n*** SKIPPED: {reason}\n\n");
    stderr().write_all(line.as_bytes()).expect("stderr");
}
