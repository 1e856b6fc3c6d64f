//! How the author's code can fail, in one sentence each.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// What a failed step was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Before the first request.
    Startup,
    /// At the beginning of the drain.
    Drain,
    /// After the last request.
    Teardown,
    /// A payload that was told to stop, or a critical one that was not and has ended.
    Payload,
    /// The drop of what is left, after everything else: steps and payloads that were never started, the service, the
    /// state.
    Release,
}

impl Stage {
    /// The word for logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Stage::Startup => "startup",
            Stage::Drain => "drain",
            Stage::Teardown => "teardown",
            Stage::Payload => "payload",
            Stage::Release => "release",
        }
    }
}

/// One step that failed, with its causes on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepError {
    name: Arc<str>,
    stage: Stage,
    fault: Fault,
}

/// What went wrong with one run of the author's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It returned this error; all causes in one line.
    Error(String),
    /// It panicked with this message.
    Panic(String),
    /// Its own limit passed.
    TimedOut(Duration),
    /// The deadline that all share passed.
    CutOff,
    /// It was dropped because the startup was given up.
    Cancelled,
    /// It was aborted and did not end: it blocks its thread.
    Blocked,
    /// A critical payload's: it ended, in these words, although nobody told it to.
    Unasked(String),
}

impl StepError {
    pub(super) fn new(stage: Stage, name: &Arc<str>, fault: Fault) -> Self {
        Self {
            name: Arc::clone(name),
            stage,
            fault,
        }
    }

    /// For those who are told everything at the end.
    pub(super) fn of(failure: PayloadFailure) -> Self {
        Self {
            name: failure.name,
            stage: Stage::Payload,
            fault: Fault::Unasked(failure.cause),
        }
    }

    /// The step's or the payload's name, as its author gave it; `app` for what belongs to no step, and `/admin: app` in
    /// an app that is [mounted](crate::AppBuilder::mount).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the step was for.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// It was given up with the whole startup and has done nothing wrong.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.fault == Fault::Cancelled
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Fault::Unasked(_) = self.fault {
            f.write_str("critical ")?;
        }
        match self.stage {
            Stage::Startup => write!(f, "startup step '{}' ", self.name)?,
            Stage::Drain => write!(f, "drain step '{}' ", self.name)?,
            Stage::Teardown => write!(f, "teardown step '{}' ", self.name)?,
            Stage::Payload => write!(f, "payload '{}' ", self.name)?,
            Stage::Release => write!(f, "dropping what '{}' holds ", self.name)?,
        }
        match &self.fault {
            Fault::TimedOut(limit) if self.stage == Stage::Payload => write!(
                f,
                "did not stop within {limit:?} and was aborted: end it on `stopped()` or raise its `stop_timeout`"
            ),
            Fault::CutOff if self.stage == Stage::Payload => {
                f.write_str("was aborted at the stop's deadline: end it on `stopped()`")
            }
            fault => fault.fmt(f),
        }
    }
}

impl std::error::Error for StepError {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Error(text) => write!(f, "failed: {text}"),
            Fault::Panic(message) => write!(f, "panicked: {message}"),
            Fault::TimedOut(limit) => write!(f, "did not finish within its limit of {limit:?}"),
            Fault::CutOff => f.write_str("was cut off at the stop's deadline"),
            Fault::Cancelled => f.write_str("was cancelled"),
            Fault::Unasked(text) => f.write_str(text),
            Fault::Blocked => f.write_str(
                "does not end although it was aborted: it blocks its thread, move that work to spawn_blocking",
            ),
        }
    }
}

/// A critical payload ended although nobody told it to. Any other one counts as critical where nobody looks after it any
/// more: the task beside it has panicked, or was aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadFailure {
    name: Arc<str>,
    cause: String,
}

impl PayloadFailure {
    pub(super) fn new(name: &Arc<str>, cause: String) -> Self {
        Self {
            name: Arc::clone(name),
            cause,
        }
    }

    /// Whether it is of the payload that this name was given to, and not of one with an equal name.
    pub(super) fn is_of(&self, name: &Arc<str>) -> bool {
        Arc::ptr_eq(&self.name, name)
    }

    /// The payload's name, as its author gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it ended, with all causes on one line.
    pub fn cause(&self) -> &str {
        &self.cause
    }
}

impl fmt::Display for PayloadFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "critical payload '{}' {}", self.name, self.cause)
    }
}

impl std::error::Error for PayloadFailure {}

/// A startup that did not come to its end. Everything that it had started is torn down again.
///
/// `Display` says what stopped it; what went wrong while tearing down is in [`unwinding`](Self::unwinding).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    cause: StartCause,
    unwinding: Vec<StepError>,
    /// The deadline of the unwinding.
    until: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StartCause {
    /// By the worker, in this step if any was running.
    Cancelled(Option<Arc<str>>),
    Step(StepError),
    Payload(PayloadFailure),
    /// The app was built wrongly.
    Invalid(String),
}

impl StartFailure {
    pub(super) fn new(
        cause: StartCause,
        unwinding: Vec<StepError>,
        until: Option<Instant>,
    ) -> Self {
        Self {
            cause,
            unwinding,
            until,
        }
    }

    /// When the unwinding had to be over; `None` is unlimited.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether the worker gave the startup up, so that nothing is wrong with the app.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.cause, StartCause::Cancelled(_))
    }

    /// The step or payload that failed, or that was running when the startup was given up.
    pub fn step(&self) -> Option<&str> {
        match &self.cause {
            StartCause::Cancelled(step) => step.as_deref(),
            StartCause::Step(error) => Some(error.name()),
            StartCause::Payload(failure) => Some(failure.name()),
            StartCause::Invalid(_) => None,
        }
    }

    /// What failed while the steps before were torn down, in the order in which it happened.
    pub fn unwinding(&self) -> &[StepError] {
        &self.unwinding
    }
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            StartCause::Cancelled(None) => f.write_str("the startup was cancelled"),
            StartCause::Cancelled(Some(step)) => {
                write!(f, "the startup was cancelled in step '{step}'")
            }
            StartCause::Step(error) => error.fmt(f),
            StartCause::Payload(failure) => write!(f, "{failure} during the startup"),
            StartCause::Invalid(text) => write!(f, "the app is not valid: {text}"),
        }
    }
}

impl std::error::Error for StartFailure {}
