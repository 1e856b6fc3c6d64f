//! Slots and the workers in them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::actions::Cause;
use super::policy::Limits;
use crate::ipc::orders::{Level, Recycle, Why};
use crate::moment::Moment;
use crate::worker::phase::Phase;

/// A worker process's number, unique in the service's life. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct WorkerId(pub(crate) u64);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A worker's stable place. A replacement takes over its predecessor's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Slot {
    pub(crate) serving: Option<WorkerId>,
    /// Being prepared to take over.
    pub(crate) incoming: Option<WorkerId>,
    /// Failures in a row, forgotten when a worker has served for a while.
    pub(crate) failures: u32,
    /// Not to be filled before.
    pub(crate) retry_at: Option<Moment>,
    /// Why it is to be filled next.
    pub(crate) cause: Cause,
    /// Replacements after a failure, in all.
    pub(crate) restarts: u32,
    /// Its healthy worker has reached this limit.
    pub(crate) recycle: Option<Recycle>,
}

impl Slot {
    pub(crate) fn new(cause: Cause) -> Self {
        Self {
            serving: None,
            incoming: None,
            failures: 0,
            retry_at: None,
            cause,
            restarts: 0,
            recycle: None,
        }
    }
}

/// One process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Worker {
    pub(crate) slot: u16,
    pub(crate) generation: u32,
    /// `None` until the fork has happened.
    pub(crate) pid: Option<u32>,
    pub(crate) phase: Phase,
    pub(crate) forked_at: Moment,
    pub(crate) phase_since: Moment,
    pub(crate) serving_since: Option<Moment>,
    /// The last sign that its executor runs.
    pub(crate) last_beat: Moment,
    pub(crate) serve_sent: Option<Moment>,
    pub(crate) stop_sent: Option<(Level, Moment)>,
    /// Why it was told to leave, the first time.
    #[serde(default)]
    pub(crate) leaves_for: Option<Why>,
    pub(crate) channel_closed: Option<Moment>,
    pub(crate) ending: Ending,
    /// What it said about its failure.
    pub(crate) reason: Option<String>,
    /// Which limit it had overrun when it was aborted.
    #[serde(default)]
    pub(crate) overdue: Option<String>,
    /// When it is to be replaced on account of its age.
    pub(crate) retire_at: Option<Moment>,
    /// It has reached this limit before it had a slot. It says so once.
    pub(crate) recycle: Option<Recycle>,
    /// Those of its own configuration: a reload changes them for its successors only.
    pub(crate) limits: Limits,
}

/// How far the forcible end of a worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ending {
    None,
    /// SIGABRT was sent; SIGKILL follows then.
    Aborted {
        kill_at: Moment,
    },
    /// SIGKILL was sent.
    Killed {
        at: Moment,
    },
}

impl Worker {
    pub(crate) fn new(slot: u16, generation: u32, now: Moment, limits: Limits) -> Self {
        Self {
            slot,
            generation,
            pid: None,
            phase: Phase::Forked,
            forked_at: now,
            phase_since: now,
            serving_since: None,
            last_beat: now,
            serve_sent: None,
            stop_sent: None,
            leaves_for: None,
            channel_closed: None,
            ending: Ending::None,
            reason: None,
            overdue: None,
            retire_at: None,
            recycle: None,
            limits,
        }
    }

    /// It was told to leave, by an order or by a signal.
    pub(crate) fn is_leaving(&self) -> bool {
        self.stop_sent.is_some()
    }
}
