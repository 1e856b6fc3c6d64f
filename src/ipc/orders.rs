//! What the arbiter and its workers say to each other, beside phases: plain data.

use serde::{Deserialize, Serialize};

use crate::lease::{Deposit, Grant};

/// The arbiter's number as an end of a link: no worker has it.
pub(crate) const ARBITER: u64 = 0;

/// What the arbiter tells a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    /// Accept connections.
    Serve,
    /// Take the connections that come over the link which is passed with this order, from that worker or from
    /// [`ARBITER`], which has them from the service's last life.
    Receive { from: u64 },
    /// Give connections to that worker, over the link which is passed with this order; or to [`ARBITER`], which keeps
    /// them for the service's next life. What that refuses nobody takes, and it takes no more then.
    Give {
        to: u64,
        /// Where it sits on the scoreboard.
        seat: u32,
        /// At most so many, at once; `None`: whatever is there when this worker is told to stop.
        count: Option<u32>,
    },
    /// The service stops: nobody will take connections any more, so close them.
    Close,
    /// There is another worker: the end of its mailbox that messages are written to is passed with this order. `late`:
    /// it was there before, and this worker was not told in time. Only older programs have to know that: this one has
    /// seen it on the scoreboard, and kept what was for it.
    Peer {
        worker: u64,
        #[serde(default)]
        late: bool,
    },
    /// Run this payload of its app, by its number in the order of registration. Answered by one
    /// [`Report::Released`](crate::ipc::channel::Report::Released), or by the worker's end. What the last holder has
    /// kept is passed with this order.
    Grant {
        payload: u32,
        grant: Grant,
        kept: Option<Deposit>,
    },
    /// Stop it, and give the lease back.
    Revoke { payload: u32, epoch: u64 },
    /// Accept nothing until [`Resume`](Self::Resume), and say so with the same number when no accept is under way.
    Pause { round: u64 },
    /// Accept again.
    Resume,
    /// Why it is going to be told to leave, for its log. A worker of an older binary does not know this.
    Because { why: Why },
    /// Leave.
    Stop(Level),
}

/// Why a worker is told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    /// The service stops: asked for, with its connections kept for the next one, for idleness, or since it could not
    /// start.
    Stop,
    Restart,
    Idle,
    BootFailed,
    /// The next generation serves.
    Reload,
    /// It is of a generation that was not to be.
    ReloadFailed,
    /// Its replacement serves.
    Recycle,
    /// Its slot was given up.
    Scale,
}

impl Why {
    /// The word for logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Why::Stop => "stop",
            Why::Restart => "restart",
            Why::Idle => "idle",
            Why::BootFailed => "boot-failed",
            Why::Reload => "reload",
            Why::ReloadFailed => "reload-failed",
            Why::Recycle => "recycle",
            Why::Scale => "scale",
        }
    }
}

/// How much time a stop takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Requests finish first.
    Graceful,
    /// Requests are cancelled; cleanup runs.
    Quick,
    /// SIGKILL: nothing runs.
    Kill,
}

impl Level {
    /// What a further signal makes of it.
    pub(crate) fn next(self) -> Level {
        match self {
            Level::Graceful => Level::Quick,
            Level::Quick | Level::Kill => Level::Kill,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Graceful => "graceful",
            Level::Quick => "quick",
            Level::Kill => "kill",
        }
    }
}

/// Why a healthy worker is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Recycle {
    Requests,
    Age,
    Memory,
    /// Its payload is to share the work among another number of slots, and cannot be started again.
    Slots,
}

impl Recycle {
    /// The configuration key, where there is one.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Recycle::Requests => "max_requests",
            Recycle::Age => "max_age",
            Recycle::Memory => "max_memory",
            Recycle::Slots => "slots",
        }
    }
}
