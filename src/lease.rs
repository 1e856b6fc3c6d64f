//! Leases: the right to run one payload, which at most one worker has. Plain words that the arbiter, which gives
//! and takes them, and the apps, which work under them, have in common.

use serde::{Deserialize, Serialize};

/// So many failures in a row are no accident: the first one moves a lease on at once, after the second it pauses, and
/// the service is degraded.
pub(crate) const FAILING: u32 = 2;

/// What comes with the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// Rises with every grant of any lease, never 0.
    pub(crate) epoch: u64,
    /// Among how many slots the work is shared. Everybody who holds a lease of the same payload has the same number.
    pub(crate) slots: u16,
}

/// What a holder has left to the next one, for those who do not look into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deposit {
    /// Which one it is. No other one of the service ever has this number.
    pub(crate) number: u64,
    /// How many bytes it has.
    pub(crate) length: u64,
}

/// How a payload came to give its lease back. It does not run any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Released {
    /// It was told to stop, or the lease came too late to be used. This worker can take it again.
    Stopped,
    /// The same, and this worker cannot: the payload can be started only once, or its app is on its way out.
    Spent,
    /// It had something to do once, and that is over, well or not.
    Finished,
    /// It failed, and takes its worker along.
    Failed,
    /// It was not begun: what comes along with the lease did not arrive, or the lease could not be sent. This worker can
    /// take it another time.
    #[serde(rename = "not_taken")]
    NotTaken,
    /// In a way that is not known here: a newer program says so. It counts as a failure, and nothing is known against
    /// the worker. Nobody sends it.
    #[default]
    #[serde(skip)]
    Unknown,
}

impl Released {
    /// It counts as a failure.
    pub(crate) fn is_failure(self) -> bool {
        matches!(
            self,
            Released::Failed | Released::NotTaken | Released::Unknown
        )
    }

    /// The word for logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Released::Stopped | Released::Spent => "stopped",
            Released::Finished => "finished",
            Released::Failed => "failed",
            Released::NotTaken => "not taken",
            Released::Unknown => "unknown",
        }
    }
}
