//! What the core is told.

use std::fmt;

use super::idle::Activity;
use super::lease::Want;
use super::reload::Trigger;
use super::roster::WorkerId;
use crate::ipc::orders::{Level, Recycle};
use crate::lease::{Deposit, Released};
use crate::moment::Moment;
use crate::worker::phase::Phase;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// Begin.
    Start,
    /// Go on in a new image, with the state adopted.
    Resume,
    /// The fork that was asked for has happened.
    Forked { worker: WorkerId, pid: u32 },
    /// It has not.
    ForkFailed { worker: WorkerId, error: String },
    /// The worker says that it entered a phase.
    Entered { worker: WorkerId, phase: Phase },
    /// The worker says why it is going to end; its exit follows.
    Failed { worker: WorkerId, reason: String },
    /// What the check of the binary on disk came to; an error has its reason in one line.
    Preflighted(Result<(), String>),
    /// This image is still here.
    ExecFailed { error: String },
    /// The last heartbeats, as the scoreboard has them.
    Beats(Vec<(WorkerId, Moment)>),
    /// How much the service is needed, as the scoreboard has it.
    Activity(Activity),
    /// The worker accepts nothing until it is told to resume: the answer to the pause of this number.
    Paused { worker: WorkerId, round: u64 },
    /// The worker closed its channel, or what it sent could not be read.
    ChannelClosed { worker: WorkerId },
    /// The worker is gone, since then; since the last sign of it, if nobody was there to see when.
    Exited {
        worker: WorkerId,
        exit: Exit,
        at: Moment,
    },
    /// The payloads of the worker's app that need a lease. Comes once, before it is Prepared.
    Wants { worker: WorkerId, wants: Vec<Want> },
    /// The payload of the worker that had the lease by this epoch does not run any more, since then. As not taken also
    /// where the grant could not be sent, for want of something that the arbiter or the machine has too little of.
    Released {
        worker: WorkerId,
        payload: u32,
        epoch: u64,
        how: Released,
        at: Moment,
    },
    /// That grant did not come to the worker, and nothing can any more: its channel is closed, or it is dead already.
    Undelivered {
        worker: WorkerId,
        payload: u32,
        epoch: u64,
    },
    /// That payload has left something for whoever has the lease next, and this process has it.
    Kept {
        worker: WorkerId,
        payload: u32,
        epoch: u64,
        deposit: Deposit,
    },
    /// No process of an earlier life of the service is left: the end of what [`Core::withhold_leases`] has begun.
    ///
    /// [`Core::withhold_leases`]: super::Core::withhold_leases
    Claimed,
    /// A healthy worker has reached a limit.
    Recycle { worker: WorkerId, cause: Recycle },
    /// A signal or a control command.
    Asked(Request),
    /// Time has passed.
    Tick,
}

/// What an operator or the manager can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Stop(Level),
    /// A graceful stop; the service is started again at once, and keeps its connections if it can.
    Restart,
    Reload(Trigger),
    /// This many workers.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the control command comes with reload")
    )]
    Scale(u16),
    OneMore,
    OneLess,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    pub(crate) fn is_clean(self) -> bool {
        self == Exit::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
        }
    }
}
