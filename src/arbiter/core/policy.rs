//! The numbers that the core decides by.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Config, Timeouts};

/// How long a worker may take. It goes by them itself as well, so they are those that it was forked with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Limits {
    pub(super) startup: Option<Duration>,
    pub(super) graceful: Option<Duration>,
    pub(super) cleanup: Option<Duration>,
    pub(super) heartbeat_boot: Option<Duration>,
    pub(super) heartbeat_serving: Option<Duration>,
    pub(super) heartbeat_stopping: Option<Duration>,
}

/// Limits and intervals. `None` is "no limit".
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) workers: u16,
    /// From the fork to Prepared.
    pub(crate) startup: Option<Duration>,
    /// From the order to stop to the end of the last request.
    pub(crate) graceful: Option<Duration>,
    /// After that, for payloads and teardown.
    pub(crate) cleanup: Option<Duration>,
    /// How long the executor may be silent, by phase.
    pub(crate) heartbeat_boot: Option<Duration>,
    pub(crate) heartbeat_serving: Option<Duration>,
    pub(crate) heartbeat_stopping: Option<Duration>,
    /// From SIGABRT to SIGKILL.
    pub(crate) abort_grace: Duration,
    /// A worker keeps its own deadlines; the arbiter steps in this much later.
    pub(crate) margin: Duration,
    pub(crate) backoff_initial: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) crash_budget: u32,
    pub(crate) crash_window: Duration,
    /// A worker that served this long starts its slot's count of failures anew.
    pub(crate) stable_after: Duration,
    pub(crate) max_age: Option<Duration>,
    /// How long nobody must have needed the service before it leaves. Only with sockets that somebody keeps.
    pub(crate) idle_exit: Option<Duration>,
    /// How long the check of a new binary may take.
    pub(crate) preflight: Duration,
    /// How long a new generation must serve before the old one is retired.
    pub(crate) trial: Duration,
    /// How often WATCHDOG=1 is due.
    pub(crate) watchdog: Option<Duration>,
    /// How often EXTEND_TIMEOUT_USEC= goes out during boot and stop, and how far it reaches.
    pub(crate) extension_interval: Duration,
    pub(crate) extension: Duration,
}

impl Policy {
    pub(crate) fn new(config: &Config, watchdog: Option<Duration>) -> Self {
        Self {
            workers: config.workers,
            startup: config.timeouts.startup,
            graceful: config.timeouts.graceful,
            cleanup: config.timeouts.cleanup,
            heartbeat_boot: config.timeouts.heartbeat_boot,
            heartbeat_serving: config.timeouts.heartbeat_serving,
            heartbeat_stopping: config.timeouts.heartbeat_stopping,
            abort_grace: config.timeouts.abort_grace,
            margin: Timeouts::MARGIN,
            backoff_initial: config.restart.backoff_initial,
            backoff_max: config.restart.backoff_max,
            crash_budget: config.restart.crash_budget,
            crash_window: config.restart.crash_window,
            stable_after: Duration::from_secs(10),
            max_age: config.recycle.max_age,
            idle_exit: config.idle_exit,
            preflight: config.reload.preflight,
            trial: config.reload.trial,
            watchdog,
            extension_interval: Duration::from_secs(10),
            extension: Duration::from_secs(30),
        }
    }

    /// For a worker that is forked now.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            startup: self.startup,
            graceful: self.graceful,
            cleanup: self.cleanup,
            heartbeat_boot: self.heartbeat_boot,
            heartbeat_serving: self.heartbeat_serving,
            heartbeat_stopping: self.heartbeat_stopping,
        }
    }
}
