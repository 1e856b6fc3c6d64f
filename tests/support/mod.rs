//! What black-box tests share: a service to start and to watch, a client, waiting with a deadline.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::print_stderr, reason = "a test that fails shows the log")]

pub(crate) mod http;
pub(crate) mod service;

use std::thread::sleep;
use std::time::{Duration, Instant};

/// For what happens at once, on a machine that is busy with something else.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How often a probe that cannot wait for its event looks again.
const PAUSE: Duration = Duration::from_millis(20);

/// Probes until there is an answer, and gives it back. Panics with `what` when `limit` is over first.
#[track_caller]
pub(crate) fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        sleep(PAUSE);
    }
}
