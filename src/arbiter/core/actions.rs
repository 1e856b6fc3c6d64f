//! What the core wants done.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::events::Exit;
use super::lease::LeaseName;
use super::reload::Trigger;
use super::roster::WorkerId;
use crate::exit::ExitCode;
use crate::ipc::orders::{Level, Order, Recycle};
use crate::worker::phase::Phase;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Fork a worker. Answered by `Forked` or `ForkFailed`.
    Fork {
        worker: WorkerId,
        slot: u16,
        generation: u32,
        /// How often this slot's worker was replaced after a failure.
        restarts: u32,
        cause: Cause,
    },
    /// Tell a worker. What the order names is passed with it.
    Send { worker: WorkerId, order: Order },
    /// Nobody will ever get the deposit of this number.
    Discard { deposit: u64 },
    /// Find out what a stuck worker is doing, log it, and send it SIGABRT.
    Abort {
        worker: WorkerId,
        phase: Phase,
        overdue: Overdue,
    },
    /// SIGKILL.
    Kill { worker: WorkerId },
    /// READY=1.
    Ready,
    /// RELOADING=1. READY=1 follows, whatever happens.
    Reloading,
    /// Try the binary on disk, in a child that serves nothing. Answered by `Preflighted`.
    Preflight,
    /// End that child; no answer is wanted any more.
    EndPreflight,
    /// The reload is over: nothing of the other image is needed any more, neither its program nor the listeners
    /// that only its generation has.
    Release,
    /// Tell who asked for the reload: the generation that serves now, or why it failed.
    Answer {
        trigger: Trigger,
        outcome: Result<u32, String>,
    },
    /// No worker is left, and the service is started again: bring to an end what is kept of it.
    Settle,
    /// STOPPING=1.
    Stopping,
    /// WATCHDOG=1.
    Watchdog,
    /// EXTEND_TIMEOUT_USEC=.
    ExtendTimeout(Duration),
    /// One structured event.
    Log(Notice),
    /// End the arbiter.
    Leave(ExitCode),
}

/// An executable, seen from the one that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Image {
    /// The one that was just checked.
    Next,
    /// The one that ran before this.
    Last,
}

/// Why a worker is forked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// The service starts.
    Boot,
    /// There are to be more workers.
    Scale,
    /// The slot's worker crashed or could not start.
    Failure,
    /// The slot's worker is healthy and has reached a limit.
    Recycle(Recycle),
    /// It belongs to the next generation.
    Reload,
}

impl Cause {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Cause::Boot => "boot",
            Cause::Scale => "scale",
            Cause::Failure => "failure",
            Cause::Recycle(recycle) => recycle.name(),
            Cause::Reload => "reload",
        }
    }
}

/// Which limit a stuck worker has overrun, and by its own clock how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// No heartbeat for this long: its executor is blocked.
    Heartbeat(Duration),
    /// It beats, and has not come to the next phase.
    Startup(Duration),
    /// It was told to serve, and does not.
    Serve(Duration),
    /// It was told to stop, and has not.
    Stop(Duration),
    /// It closed its channel, and has not left.
    Channel(Duration),
}

impl Overdue {
    pub(crate) fn limit_name(self) -> &'static str {
        match self {
            Overdue::Heartbeat(_) => "heartbeat",
            Overdue::Startup(_) => "startup",
            Overdue::Serve(_) => "serve",
            Overdue::Stop(_) => "stop",
            Overdue::Channel(_) => "channel",
        }
    }

    pub(crate) fn took(self) -> Duration {
        match self {
            Overdue::Heartbeat(took)
            | Overdue::Startup(took)
            | Overdue::Serve(took)
            | Overdue::Stop(took)
            | Overdue::Channel(took) => took,
        }
    }
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.took().as_secs_f64();
        match self {
            Overdue::Heartbeat(_) => write!(f, "no heartbeat for {took:.1} s"),
            Overdue::Startup(_) => write!(f, "not prepared after {took:.1} s"),
            Overdue::Serve(_) => write!(f, "not serving {took:.1} s after it was told to"),
            Overdue::Stop(_) => write!(f, "not gone {took:.1} s after it was told to leave"),
            Overdue::Channel(_) => write!(f, "without a channel for {took:.1} s"),
        }
    }
}

/// Why the service ends although nobody asked it to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fatal {
    /// A worker could not start, the first time.
    Boot {
        worker: WorkerId,
        slot: u16,
        reason: String,
    },
    /// The operating system refused a fork, the first time.
    Fork { slot: u16, error: String },
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Notice {
    BootFailed(Fatal),
    ForkFailed {
        slot: u16,
        error: String,
    },
    WorkerExited {
        worker: WorkerId,
        slot: u16,
        generation: u32,
        phase: Phase,
        exit: Exit,
        /// It had been told to stop.
        expected: bool,
        reason: Option<String>,
    },
    /// The slot's next worker has to wait.
    BackingOff {
        slot: u16,
        failures: u32,
        delay: Duration,
    },
    Recycling {
        worker: WorkerId,
        slot: u16,
        cause: Recycle,
    },
    Replaced {
        slot: u16,
        old: WorkerId,
        new: WorkerId,
    },
    /// A worker runs the payload now. `gap`: nobody did for this long, whatever the reason. `kept`: so many bytes of its
    /// last holder go along.
    LeaseGranted {
        lease: LeaseName,
        worker: WorkerId,
        epoch: u64,
        gap: Duration,
        kept: Option<u64>,
    },
    /// It was told to stop it, and serves on.
    LeaseRevoked {
        lease: LeaseName,
        worker: WorkerId,
        epoch: u64,
    },
    /// It runs it no more.
    LeaseReleased {
        lease: LeaseName,
        worker: WorkerId,
        epoch: u64,
        how: &'static str,
        held: Duration,
    },
    /// It has failed in several workers: the next one has to wait.
    LeasePauses {
        lease: LeaseName,
        failures: u32,
        delay: Duration,
    },
    SlotCount {
        from: usize,
        to: usize,
    },
    /// A wish that cannot be granted.
    SlotCountRefused {
        wanted: u16,
    },
    Ready {
        workers: usize,
    },
    ReloadStarted,
    Reloaded {
        workers: usize,
        took: Duration,
    },
    /// The generation before serves on.
    ReloadFailed {
        reason: String,
        took: Duration,
    },
    Degraded {
        serving: usize,
        workers: usize,
        crashes: usize,
        /// More than the budget allows.
        too_many: bool,
        /// A payload that nobody runs, how often it has failed in a row, and for how long it pauses.
        failing: Option<(LeaseName, u32, Option<Duration>)>,
        /// Payloads wait for the end of an earlier life of the service.
        withheld: bool,
    },
    Recovered {
        workers: usize,
    },
    /// Nobody has needed the service for so long.
    Idle {
        idle: Duration,
    },
    Stopping {
        level: Level,
        restarts: bool,
        workers: usize,
    },
    /// A further signal: what was going on is cut short.
    StopHurried {
        level: Level,
        workers: usize,
    },
    Stopped {
        code: ExitCode,
    },
}
