//! The task beside every payload: sees its end, acts by its policy, and stops it.
//!
//! 1. One attempt runs at a time, as a task of its own, so that a payload which blocks a thread cannot keep its
//!    supervisor from seeing the clock.
//! 2. An end that nobody asked for is reported once, with its cause.
//! 3. After the stop was told, no attempt starts, and the running one is awaited, then aborted and awaited.
//! 4. Dropping the handle aborts both tasks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::act::{panic_message, sleep_until_some};
use super::error::{Fault, PayloadFailure, Stage, StepError};
use super::event::{Observer, PayloadEvent};
use super::payload::{Payload, PayloadContext, Policy};
use super::state::State;
use super::token::Token;
use crate::exit::chain;
use crate::status::PayloadState;

/// How long an aborted task may take until its next yield, before it is taken for blocked.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// The first critical payload that failed.
pub(super) type Failed = watch::Sender<Option<PayloadFailure>>;

/// A payload that was started.
pub(super) struct Supervised {
    pub(super) before_requests: bool,
    stop: CancellationToken,
    abort: CancellationToken,
    task: AbortOnDropHandle<Result<(), StepError>>,
    name: Arc<str>,
}

/// What every payload of one app shares.
pub(super) struct Surroundings {
    pub(super) state: State,
    pub(super) drain: Token,
    pub(super) failed: Failed,
    pub(super) observer: Arc<dyn Observer>,
}

impl Supervised {
    /// Starts the payload. Needs a tokio runtime around it.
    pub(super) fn start(payload: Payload, index: usize, shared: &Surroundings) -> Self {
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let (name, before_requests) = (Arc::clone(&payload.name), payload.before_requests);
        let supervisor = Supervisor {
            index,
            restarts: 0,
            context: PayloadContext {
                name: Arc::clone(&name),
                restarts: 0,
                state: shared.state.clone(),
                drain: shared.drain.clone(),
                stop: Token::new(stop.clone()),
            },
            stop: stop.clone(),
            abort: abort.clone(),
            failed: shared.failed.clone(),
            observer: Arc::clone(&shared.observer),
            payload,
        };
        supervisor.report(PayloadState::Running, None);
        let task = AbortOnDropHandle::new(tokio::spawn(supervisor.run()));
        Self {
            before_requests,
            stop,
            abort,
            task,
            name,
        }
    }

    /// Tells it to stop; does not wait.
    pub(super) fn tell(&self) {
        self.stop.cancel();
    }

    /// Tells it to stop and waits until it has ended, until `limit` willingly.
    ///
    /// # Errors
    /// It failed on its way out. An end that was reported before is none.
    pub(super) async fn stop(mut self, limit: Option<Instant>) -> Result<(), StepError> {
        self.stop.cancel();
        let joined = tokio::select! {
            biased;
            joined = &mut self.task => joined,
            () = sleep_until_some(limit) => {
                self.abort.cancel();
                (&mut self.task).await
            }
        };
        joined.unwrap_or_else(|error| Err(StepError::new(Stage::Payload, &self.name, fault(error))))
    }
}

struct Supervisor {
    index: usize,
    restarts: u32,
    context: PayloadContext,
    stop: CancellationToken,
    abort: CancellationToken,
    failed: Failed,
    observer: Arc<dyn Observer>,
    payload: Payload,
}

/// How an attempt ended: by itself, or with a panic.
type End = Result<super::Result<()>, JoinError>;

impl Supervisor {
    async fn run(mut self) -> Result<(), StepError> {
        loop {
            let begun = Instant::now();
            let mut attempt = self.attempt();
            let end = tokio::select! {
                biased;
                end = &mut attempt => end,
                () = self.stop.cancelled() => return self.stop_attempt(attempt).await,
            };
            if self.stop.is_cancelled() {
                return self.stopped(outcome(end));
            }
            match self.payload.policy {
                Policy::Restart => {
                    let wait = self.payload.backoff.wait(begun.elapsed());
                    self.report(PayloadState::Restarting, Some(&cause(end)));
                    if timeout(wait, self.stop.cancelled()).await.is_ok() {
                        return self.stopped(Ok(()));
                    }
                    self.restarts = self.restarts.saturating_add(1);
                    self.report(PayloadState::Running, None);
                }
                Policy::Once if matches!(end, Ok(Ok(()))) => {
                    self.report(PayloadState::Done, None);
                    return Ok(());
                }
                Policy::Once => {
                    self.report(PayloadState::Failed, Some(&cause(end)));
                    return Ok(());
                }
                Policy::Critical => {
                    let cause = cause(end);
                    self.report(PayloadState::Failed, Some(&cause));
                    let failure = PayloadFailure::new(&self.payload.name, cause);
                    self.failed.send_if_modified(|first| {
                        let is_first = first.is_none();
                        first.get_or_insert(failure);
                        is_first
                    });
                    return Ok(());
                }
            }
        }
    }

    fn attempt(&mut self) -> AbortOnDropHandle<super::Result<()>> {
        self.context.restarts = self.restarts;
        let context = self.context.clone();
        let run = &mut self.payload.run;
        // A panic before there is a future must look like any other panic of the attempt.
        let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(context)));
        AbortOnDropHandle::new(tokio::spawn(async {
            match attempt {
                Ok(attempt) => attempt.await,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }))
    }

    async fn stop_attempt(
        self,
        mut attempt: AbortOnDropHandle<super::Result<()>>,
    ) -> Result<(), StepError> {
        let limit = self.payload.stop_timeout;
        let forced = tokio::select! {
            biased;
            end = &mut attempt => return self.stopped(outcome(end)),
            () = self.abort.cancelled() => Fault::CutOff,
            () = sleep(limit) => Fault::TimedOut(limit),
        };
        attempt.abort();
        let outcome = match timeout(ABORT_GRACE, attempt).await {
            Ok(Err(error)) if error.is_cancelled() => Err(forced),
            Ok(end) => outcome(end),
            Err(_) => Err(Fault::Blocked),
        };
        self.stopped(outcome)
    }

    fn stopped(&self, outcome: Result<(), Fault>) -> Result<(), StepError> {
        let result = outcome.map_err(|fault| {
            (
                fault.to_string(),
                StepError::new(Stage::Payload, &self.payload.name, fault),
            )
        });
        match result {
            Ok(()) => {
                self.report(PayloadState::Done, None);
                Ok(())
            }
            Err((cause, error)) => {
                self.report(PayloadState::Failed, Some(&cause));
                Err(error)
            }
        }
    }

    fn report(&self, state: PayloadState, cause: Option<&str>) {
        self.observer.payload(&PayloadEvent {
            index: self.index,
            name: &self.payload.name,
            state,
            restarts: self.restarts,
            cause,
        });
    }
}

/// The sentence for an end that nobody asked for.
fn cause(end: End) -> String {
    match outcome(end) {
        Ok(()) => "returned although nobody told it to stop".to_owned(),
        Err(fault) => fault.to_string(),
    }
}

fn outcome(end: End) -> Result<(), Fault> {
    match end {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Fault::Error(chain(error.as_ref()))),
        Err(error) => Err(fault(error)),
    }
}

fn fault(error: JoinError) -> Fault {
    error.try_into_panic().map_or(Fault::Cancelled, |panic| {
        Fault::Panic(panic_message(panic.as_ref()))
    })
}
