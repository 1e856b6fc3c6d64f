//! The task beside every payload: sees its end, acts by its policy, and stops it.
//!
//! 1. One attempt runs at a time, as a task of its own, so that a payload which blocks a thread cannot keep its
//!    supervisor from seeing the clock.
//! 2. An end that nobody asked for is reported once, with its cause.
//! 3. After the stop was told, no attempt starts, and the running one is awaited, then aborted and awaited.
//! 4. Dropping the handle aborts both tasks.

use std::ops::ControlFlow::{self, Break, Continue};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::act::{Act, panic_message, sleep_until_some};
use super::busy::Desk;
use super::error::{Fault, PayloadFailure, Stage, StepError};
use super::event::{Observer, PayloadEvent};
use super::payload::{Payload, PayloadContext, Work};
use super::state::State;
use super::token::Token;
use crate::exit::chain;
use crate::status::PayloadState;

/// How long an aborted task may take until its next yield, before it is taken for blocked.
const ABORT_GRACE: Duration = Duration::from_secs(1);
/// What a payload gets to see that it is to stop, however late that is.
const NOTICE: Duration = Duration::from_millis(10);

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
    pub(super) desk: Desk,
    pub(super) failed: Failed,
    pub(super) observer: Arc<dyn Observer>,
}

impl Supervised {
    /// Starts the payload. Needs a tokio runtime around it.
    pub(super) fn start(payload: Payload, index: usize, shared: &Surroundings) -> Self {
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let Payload {
            name,
            work,
            before_requests,
            stop_timeout,
        } = payload;
        let supervisor = Supervisor {
            index,
            context: PayloadContext {
                name: Arc::clone(&name),
                restarts: 0,
                state: shared.state.clone(),
                drain: shared.drain.clone(),
                stop: Token::new(stop.clone()),
                desk: shared.desk.clone(),
            },
            stop: stop.clone(),
            abort: abort.clone(),
            stop_timeout,
            failed: shared.failed.clone(),
            observer: Arc::clone(&shared.observer),
        };
        supervisor.report(PayloadState::Running, None);
        let task = AbortOnDropHandle::new(tokio::spawn(supervisor.run(work)));
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

    /// Tells it to stop and waits until it has ended: by itself until `limit`, then by an abort.
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
    context: PayloadContext,
    stop: CancellationToken,
    abort: CancellationToken,
    stop_timeout: Duration,
    failed: Failed,
    observer: Arc<dyn Observer>,
}

/// One attempt of a payload's work.
type Attempt = AbortOnDropHandle<super::Result<()>>;

impl Supervisor {
    /// Until the payload is over for good. Fails only on the way out: what failed before was reported then.
    async fn run(mut self, work: Work) -> Result<(), StepError> {
        match work {
            Work::Critical(run) => match self.watch(attempt(run, &self.context)).await {
                Continue(end) => self.fail(&unasked(end)),
                Break(stopped) => return self.stopped(stopped),
            },
            Work::Once(run) => match self.watch(attempt(run, &self.context)).await {
                Continue(Ok(())) => self.report(PayloadState::Done, None),
                Continue(Err(fault)) => self.report(PayloadState::Failed, Some(&fault.to_string())),
                Break(stopped) => return self.stopped(stopped),
            },
            Work::Restarting(mut run, mut backoff) => loop {
                let begun = Instant::now();
                let end = match self.watch(attempt(&mut run, &self.context)).await {
                    Continue(end) => end,
                    Break(stopped) => return self.stopped(stopped),
                };
                self.report(PayloadState::Restarting, Some(&unasked(end)));
                let wait = backoff.wait(begun.elapsed());
                if timeout(wait, self.stop.cancelled()).await.is_ok() {
                    return self.stopped(Ok(()));
                }
                self.context.restarts = self.context.restarts.saturating_add(1);
                self.report(PayloadState::Running, None);
            },
        }
        Ok(())
    }

    /// Waits for the end of one attempt: `Continue` when nobody asked for it, `Break` when it was told to stop.
    async fn watch(
        &self,
        mut attempt: Attempt,
    ) -> ControlFlow<Result<(), Fault>, Result<(), Fault>> {
        tokio::select! {
            biased;
            end = &mut attempt => match self.stop.is_cancelled() {
                true => Break(outcome(end)),
                false => Continue(outcome(end)),
            },
            () = self.stop.cancelled() => Break(self.force(attempt).await),
        }
    }

    /// Waits as long as the payload may take to stop, then aborts it.
    async fn force(&self, mut attempt: Attempt) -> Result<(), Fault> {
        let overdue = tokio::select! {
            biased;
            end = &mut attempt => return outcome(end),
            () = self.cut_off() => Fault::CutOff,
            () = sleep(self.stop_timeout) => Fault::TimedOut(self.stop_timeout),
        };
        attempt.abort();
        match timeout(ABORT_GRACE, attempt).await {
            Ok(Err(error)) if error.is_cancelled() => Err(overdue),
            Ok(end) => outcome(end),
            Err(_) => Err(Fault::Blocked),
        }
    }

    async fn cut_off(&self) {
        self.abort.cancelled().await;
        sleep(NOTICE).await;
    }

    fn stopped(&self, outcome: Result<(), Fault>) -> Result<(), StepError> {
        let Err(fault) = outcome else {
            self.report(PayloadState::Done, None);
            return Ok(());
        };
        self.report(PayloadState::Failed, Some(&fault.to_string()));
        Err(StepError::new(Stage::Payload, &self.context.name, fault))
    }

    fn fail(&self, cause: &str) {
        self.report(PayloadState::Failed, Some(cause));
        self.failed.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| PayloadFailure::new(&self.context.name, cause.to_owned()));
            is_first
        });
    }

    fn report(&self, state: PayloadState, cause: Option<&str>) {
        self.observer.payload(&PayloadEvent {
            index: self.index,
            name: &self.context.name,
            state,
            restarts: self.context.restarts,
            cause,
        });
    }
}

/// Starts the author's code as a task. A panic before there is a future looks like any other panic of it.
fn attempt(run: impl FnOnce(PayloadContext) -> Act<()>, context: &PayloadContext) -> Attempt {
    let made = catch_unwind(AssertUnwindSafe(|| run(context.clone())));
    AbortOnDropHandle::new(tokio::spawn(async {
        match made {
            Ok(act) => act.await,
            Err(panic) => resume_unwind(panic),
        }
    }))
}

/// The sentence for an end that nobody asked for.
fn unasked(end: Result<(), Fault>) -> String {
    match end {
        Ok(()) => "returned although nobody told it to stop".to_owned(),
        Err(fault) => fault.to_string(),
    }
}

fn outcome(end: Result<super::Result<()>, JoinError>) -> Result<(), Fault> {
    match end {
        Ok(result) => result.map_err(|error| Fault::Error(chain(error.as_ref()))),
        Err(error) => Err(fault(error)),
    }
}

fn fault(error: JoinError) -> Fault {
    error.try_into_panic().map_or(Fault::Cancelled, |panic| {
        Fault::Panic(panic_message(panic.as_ref()))
    })
}
