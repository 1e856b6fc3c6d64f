//! The task beside every payload: sees its end, acts by its policy, and stops it.
//!
//! 1. One attempt runs at a time, as a task of its own, so that a payload which blocks a thread cannot keep its
//!    supervisor from seeing the clock.
//! 2. An end that nobody asked for is reported once, with its cause.
//! 3. After the stop was told, no attempt starts, and the running one is awaited, then aborted and awaited.
//! 4. Dropping the handle aborts both tasks.
//! 5. A payload that needs a lease runs only under a grant. The grant is given back once, when the attempt's future
//!    is gone, and not at all when that is not known.

use std::ops::ControlFlow::{self, Break, Continue};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::act::{panic_message, sleep_until_some};
use super::busy::Desk;
use super::error::{Fault, PayloadFailure, Stage, StepError};
use super::event::{Observer, PayloadEvent, ReleaseEvent};
use super::leases::{Granted, Leases, Seat};
use super::payload::{Payload, PayloadContext, Work};
use super::step::Common;
use super::token::Token;
use crate::exit::chain;
use crate::lease::{Grant, Released};
use crate::status::{PayloadState, Scope};

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
    pub(super) common: Common,
    pub(super) drain: Token,
    pub(super) desk: Desk,
    pub(super) failed: Failed,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) leases: Arc<Leases>,
}

impl Supervised {
    /// Starts the payload, or lets it wait for its lease. Needs a tokio runtime around it.
    pub(super) fn start(payload: Payload, index: usize, shared: &Surroundings) -> Self {
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let before_requests = payload.stops_before_requests();
        let needs_lease = payload.needs_lease();
        let name = Arc::clone(&payload.name);
        let supervisor = Supervisor {
            index,
            scope: payload.scope,
            context: PayloadContext {
                name: Arc::clone(&name),
                slot: shared.leases.slot,
                slots: shared.leases.slots,
                epoch: 0,
                restarts: 0,
                common: shared.common.clone(),
                drain: shared.drain.clone(),
                stop: Token::new(stop.clone()),
                desk: shared.desk.clone(),
                shelf: shared.leases.shelf(number_of(index), &name, payload.scope),
            },
            told: stop.clone(),
            stop: stop.clone(),
            abort: abort.clone(),
            stop_timeout: payload.stop_timeout,
            failed: shared.failed.clone(),
            observer: Arc::clone(&shared.observer),
        };
        let task = AbortOnDropHandle::new(if needs_lease {
            let seat = shared.leases.open(number_of(index), &name);
            tokio::spawn(supervisor.run_under_leases(payload.work, seat))
        } else {
            supervisor.report(PayloadState::Running, None);
            tokio::spawn(supervisor.run(payload.work))
        });
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
    scope: Scope,
    context: PayloadContext,
    /// What the running attempt is told by: the stop, or the end of its lease as well.
    told: CancellationToken,
    stop: CancellationToken,
    abort: CancellationToken,
    stop_timeout: Duration,
    failed: Failed,
    observer: Arc<dyn Observer>,
}

/// One attempt of a payload's work.
type Attempt = AbortOnDropHandle<super::Result<()>>;

/// How a payload came to its end.
enum Over {
    /// By itself, with all that its policy has to say about it.
    Done(Released),
    /// It was told to.
    Told(Result<(), Fault>),
}

impl Supervisor {
    /// Until the payload is over for good. Fails only on the way out: what failed before was reported then.
    async fn run(mut self, mut work: Work) -> Result<(), StepError> {
        match self.work_off(&mut work).await {
            Over::Done(_) => Ok(()),
            Over::Told(outcome) => self.stopped(outcome),
        }
    }

    /// The same, each time that there is a grant.
    async fn run_under_leases(mut self, mut work: Work, mut seat: Seat) -> Result<(), StepError> {
        let mut result = Ok(());
        while let Some(granted) = self.next_grant(&mut seat).await {
            let grant = granted.grant;
            match self.hold(&mut work, granted, &seat).await {
                Over::Done(released) => {
                    self.release(grant, released);
                    break;
                }
                // It still runs somewhere: only the end of this process can free the lease.
                Over::Told(Err(Fault::Blocked)) => {
                    if !self.stop.is_cancelled() {
                        self.fail(&Fault::Blocked.to_string());
                        return Ok(());
                    }
                    return self.stopped(Err(Fault::Blocked));
                }
                Over::Told(outcome) => {
                    let (stopped, last) = (self.stopped(outcome), self.stop.is_cancelled());
                    let again = work.can_start() && !last;
                    seat.clear();
                    self.release(
                        grant,
                        if again {
                            Released::Stopped
                        } else {
                            Released::Spent
                        },
                    );
                    if last {
                        result = stopped;
                    }
                    if !again {
                        break;
                    }
                    // What it failed with on its way out was reported, and the worker serves on.
                    self.report(PayloadState::Waiting, None);
                }
            }
        }
        if let Some(unused) = seat.close() {
            self.release(unused, Released::Spent);
        }
        result
    }

    async fn next_grant(&self, seat: &mut Seat) -> Option<Granted> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            grant = seat.granted() => Some(grant),
        }
    }

    /// From the grant until the payload is over or its lease is.
    async fn hold(&mut self, work: &mut Work, granted: Granted, seat: &Seat) -> Over {
        let Granted { grant, kept } = granted;
        self.told = self.stop.child_token();
        self.context.stop = Token::new(self.told.clone());
        self.context.epoch = grant.epoch;
        self.context.slots = u32::from(grant.slots);
        self.context.shelf.open(grant.epoch, kept);
        self.report(PayloadState::Running, None);
        let (told, revoked) = (self.told.clone(), seat.revoked());
        let mut working = std::pin::pin!(self.work_off(work));
        tokio::select! {
            biased;
            over = &mut working => return over,
            () = revoked => told.cancel(),
        }
        working.await
    }

    /// Attempt after attempt, as the payload's policy has it.
    async fn work_off(&mut self, work: &mut Work) -> Over {
        loop {
            let begun = Instant::now();
            let Some(attempt) = work.attempt(&self.context) else {
                return Over::Told(Ok(()));
            };
            let end = match self.watch(attempt).await {
                Continue(end) => end,
                Break(outcome) => return Over::Told(outcome),
            };
            match work {
                Work::Critical(_) => {
                    self.fail(&unasked(end));
                    return Over::Done(Released::Failed);
                }
                Work::Once(_) => {
                    match end {
                        Ok(()) => self.report(PayloadState::Done, None),
                        Err(fault) => self.report(PayloadState::Failed, Some(&fault.to_string())),
                    }
                    return Over::Done(Released::Finished);
                }
                Work::Restarting(_, backoff) => {
                    self.report(PayloadState::Restarting, Some(&unasked(end)));
                    let wait = backoff.wait(begun.elapsed());
                    if timeout(wait, self.told.cancelled()).await.is_ok() {
                        return Over::Told(Ok(()));
                    }
                    self.context.restarts = self.context.restarts.saturating_add(1);
                    self.report(PayloadState::Running, None);
                }
            }
        }
    }

    /// Waits for the end of one attempt: `Continue` when nobody asked for it, `Break` when it was told to stop.
    async fn watch(
        &self,
        mut attempt: Attempt,
    ) -> ControlFlow<Result<(), Fault>, Result<(), Fault>> {
        tokio::select! {
            biased;
            end = &mut attempt => match self.told.is_cancelled() {
                true => Break(outcome(end)),
                false => Continue(outcome(end)),
            },
            () = self.told.cancelled() => Break(self.force(attempt).await),
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

    /// Only when nothing of the attempt is left.
    fn release(&self, grant: Grant, how: Released) {
        // First: what is kept after this belongs to nobody.
        self.context.shelf.close();
        self.observer.released(&ReleaseEvent {
            index: number_of(self.index),
            name: &self.context.name,
            epoch: grant.epoch,
            how,
        });
    }

    fn report(&self, state: PayloadState, cause: Option<&str>) {
        self.observer.payload(&PayloadEvent {
            index: self.index,
            name: &self.context.name,
            scope: self.scope,
            epoch: self.context.epoch,
            state,
            restarts: self.context.restarts,
            cause,
        });
    }
}

impl Work {
    /// Starts the author's code as a task. `None`: it could be started once, and was.
    fn attempt(&mut self, context: &PayloadContext) -> Option<Attempt> {
        let context = context.clone();
        // A panic before there is a future looks like any other panic of it.
        let made = catch_unwind(AssertUnwindSafe(|| match self {
            Work::Critical(run) | Work::Once(run) => run.take().map(|run| run(context)),
            Work::Restarting(run, _) => Some(run(context)),
        }));
        let made = match made {
            Ok(None) => return None,
            Ok(Some(act)) => Ok(act),
            Err(panic) => Err(panic),
        };
        Some(AbortOnDropHandle::new(tokio::spawn(async {
            match made {
                Ok(act) => act.await,
                Err(panic) => resume_unwind(panic),
            }
        })))
    }
}

fn number_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
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
