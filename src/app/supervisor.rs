//! The task beside every payload: sees its end, acts by its policy, and stops it.
//!
//! 1. One attempt runs at a time, as a task of its own, so that a payload which blocks a thread cannot keep its
//!    supervisor from seeing the clock.
//! 2. An end that nobody asked for is reported once, with its cause.
//! 3. After the stop was told, no attempt starts, and the running one is awaited, then aborted and awaited.
//! 4. Dropping the handle aborts both tasks.
//! 5. A payload that needs a lease runs only under a grant. The grant is given back once, when the attempt's future
//!    is gone, and not at all when that is not known.
//! 6. The author's code, his factory and his error among it, runs in the attempt's task and nowhere else.
//! 7. A supervisor that is lost before the stop was told, by a panic or an abort of its task, is a failure of its app,
//!    whatever the payload's policy.

use std::future::pending;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::act::{self, Act, panic_message, sleep_until_some};
use super::busy::Desk;
use super::context::Outlook;
use super::error::{Fault, PayloadFailure, Stage, StepError};
use super::event::{Observer, PayloadEvent, ReleaseEvent};
use super::leases::{Granted, Leases, Seat};
use super::payload::{Payload, PayloadContext, Run, Work};
use super::step::Common;
use super::token::{Notice, Token, earlier};
use crate::lease::{Grant, Released};
use crate::messages::Messages;
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
    stop: Notice,
    stop_timeout: Duration,
    abort: CancellationToken,
    failed: Failed,
    task: AbortOnDropHandle<Result<(), StepError>>,
    name: Arc<str>,
}

/// What every payload of one app shares.
pub(super) struct Surroundings {
    pub(super) messages: Messages,
    pub(super) outlook: Outlook,
    pub(super) drain: Token,
    pub(super) desk: Desk,
    pub(super) failed: Failed,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) leases: Arc<Leases>,
}

impl Supervised {
    /// Starts the payload, or lets it wait for its lease. Needs a tokio runtime around it.
    pub(super) fn start(
        payload: Payload,
        index: usize,
        common: Common,
        shared: &Surroundings,
    ) -> Self {
        let (stop, abort) = (Notice::default(), CancellationToken::new());
        let stop_timeout = payload.stop_timeout;
        let before_requests = payload.stops_before_requests();
        let needs_lease = payload.needs_lease();
        let (name, work) = (Arc::clone(&payload.name), payload.work);
        let mut supervisor = Supervisor {
            index,
            scope: payload.scope,
            once: work.is_for_once(),
            context: PayloadContext {
                name: Arc::clone(&name),
                slot: shared.leases.slot,
                slots: shared.leases.slots,
                epoch: 0,
                restarts: 0,
                common,
                drain: shared.drain.clone(),
                stop: stop.token(),
                desk: shared.desk.clone(),
                shelf: shared.leases.shelf(number_of(index), &name, payload.scope),
            },
            told: stop.clone(),
            stop: stop.clone(),
            abort: abort.clone(),
            stop_timeout,
            failed: shared.failed.clone(),
            observer: Arc::clone(&shared.observer),
            has_begun: false,
        };
        let run: Act<_> = if needs_lease {
            let seat = shared.leases.open(number_of(index), &name);
            Box::pin(async { Ok(supervisor.run_under_leases(work, seat).await) })
        } else {
            supervisor.report(PayloadState::Running, None);
            Box::pin(async { Ok(supervisor.run(work).await) })
        };
        let watch = Watch {
            name: Arc::clone(&name),
            stop: stop.clone(),
            abort: abort.clone(),
            failed: shared.failed.clone(),
            is_over: false,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(watched(run, watch)));
        Self {
            before_requests,
            stop,
            stop_timeout,
            abort,
            failed: shared.failed.clone(),
            task,
            name,
        }
    }

    /// Tells it to stop; does not wait.
    pub(super) fn tell(&self) {
        self.stop.fire(after(self.stop_timeout));
    }

    /// Tells it to stop and waits until it has ended: by itself until `limit`, then by an abort.
    ///
    /// # Errors
    /// It failed on its way out. An end that was reported before is none.
    pub(super) async fn stop(mut self, limit: Option<Instant>) -> Result<(), StepError> {
        self.stop.fire(earlier(limit, after(self.stop_timeout)));
        let joined = tokio::select! {
            biased;
            joined = &mut self.task => joined,
            () = sleep_until_some(limit) => {
                self.abort.cancel();
                match timeout(NOTICE + 2 * ABORT_GRACE, &mut self.task).await {
                    Ok(joined) => joined,
                    Err(_) => return Err(StepError::new(Stage::Payload, &self.name, Fault::Blocked)),
                }
            }
        };
        joined.unwrap_or_else(|error| {
            let first = self.failed.borrow();
            match first.as_ref().is_some_and(|first| first.is_of(&self.name)) {
                true => Ok(()),
                false => Err(StepError::new(Stage::Payload, &self.name, lost(error))),
            }
        })
    }

    /// As if somebody had aborted the supervisor's task.
    #[cfg(test)]
    pub(super) fn lose(&self) {
        self.task.abort();
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Let go on purpose, the task is not lost.
        self.abort.cancel();
    }
}

struct Supervisor {
    index: usize,
    scope: Scope,
    once: bool,
    context: PayloadContext,
    /// What the running attempt is told by: the stop, or the end of its lease as well.
    told: Notice,
    stop: Notice,
    abort: CancellationToken,
    stop_timeout: Duration,
    failed: Failed,
    observer: Arc<dyn Observer>,
    /// The beginning of an attempt was reported, and not its end.
    has_begun: bool,
}

/// One attempt of a payload's work.
type Attempt = AbortOnDropHandle<Result<(), Fault>>;

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
                    if !self.stop.is_fired() {
                        self.fail(&Fault::Blocked.to_string());
                        return Ok(());
                    }
                    return self.stopped(Err(Fault::Blocked));
                }
                Over::Told(outcome) => {
                    let (stopped, last) = (self.stopped(outcome), self.stop.is_fired());
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
            () = self.stop.fired() => None,
            grant = seat.granted() => Some(grant),
        }
    }

    /// From the grant until the payload is over or its lease is.
    async fn hold(&mut self, work: &mut Work, granted: Granted, seat: &Seat) -> Over {
        let Granted { grant, kept } = granted;
        self.told = self.stop.child();
        self.context.stop = self.told.token();
        self.context.epoch = grant.epoch;
        self.context.slots = u32::from(grant.slots);
        self.context.shelf.open(grant.epoch, kept);
        let (told, revoked) = (self.told.clone(), seat.revoked());
        let stop_timeout = self.stop_timeout;
        let mut working = std::pin::pin!(self.work_off(work));
        tokio::select! {
            // The end of the lease comes first: what was taken back already is not begun with.
            biased;
            () = revoked => told.fire(after(stop_timeout)),
            over = &mut working => return over,
        }
        working.await
    }

    /// Attempt after attempt, as the payload's policy has it.
    async fn work_off(&mut self, work: &mut Work) -> Over {
        loop {
            if self.told.is_fired() {
                return Over::Told(Ok(()));
            }
            if !self.has_begun {
                self.report(PayloadState::Running, None);
            }
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
                    if timeout(wait, self.told.fired()).await.is_ok() {
                        return Over::Told(Ok(()));
                    }
                    self.context.restarts = self.context.restarts.saturating_add(1);
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
            end = &mut attempt => match self.told.is_fired() {
                true => Break(outcome(end)),
                false => Continue(outcome(end)),
            },
            () = self.told.fired() => Break(self.force(attempt).await),
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

    fn stopped(&mut self, outcome: Result<(), Fault>) -> Result<(), StepError> {
        let Err(fault) = outcome else {
            self.report(PayloadState::Done, None);
            return Ok(());
        };
        self.report(PayloadState::Failed, Some(&fault.to_string()));
        Err(StepError::new(Stage::Payload, &self.context.name, fault))
    }

    fn fail(&mut self, cause: &str) {
        self.report(PayloadState::Failed, Some(cause));
        note(&self.failed, &self.context.name, cause);
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

    fn report(&mut self, state: PayloadState, cause: Option<&str>) {
        let attempt = match state {
            PayloadState::Waiting => false,
            PayloadState::Running => true,
            _ => self.has_begun,
        };
        self.has_begun = state == PayloadState::Running;
        self.observer.payload(&PayloadEvent {
            index: self.index,
            name: &self.context.name,
            scope: self.scope,
            once: self.once,
            epoch: self.context.epoch,
            state,
            restarts: self.context.restarts,
            cause,
            attempt,
        });
    }
}

impl Work {
    /// Starts the author's code as a task. `None`: it could be started once, and was.
    fn attempt(&mut self, context: &PayloadContext) -> Option<Attempt> {
        let context = context.clone();
        Some(AbortOnDropHandle::new(match self {
            Work::Critical(run) | Work::Once(run) => {
                let run = run.take()?;
                tokio::spawn(async { run(context).await.map_err(act::fault) })
            }
            Work::Restarting(run, _) => {
                let run = Arc::clone(run);
                tokio::spawn(async move {
                    let act = begin(&run, context);
                    drop(run);
                    act.await.map_err(act::fault)
                })
            }
        }))
    }
}

/// One attempt has it at a time: the next one begins when that has ended.
fn begin(run: &Mutex<Run>, context: PayloadContext) -> Act<()> {
    let mut run = run.lock().unwrap_or_else(PoisonError::into_inner);
    run(context)
}

/// A supervisor that dies looks after nothing any more, so the worker must not go on as if it did. Its task has this,
/// so that it is heard of also when the task is not polled again.
struct Watch {
    name: Arc<str>,
    stop: Notice,
    abort: CancellationToken,
    failed: Failed,
    is_over: bool,
}

impl Watch {
    /// Whether that is what the app fails for.
    fn lost(&self, how: &str) -> bool {
        let cause = format!("lost its supervisor, which {how}");
        note(&self.failed, &self.name, &cause)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !(self.is_over || self.stop.is_fired() || self.abort.is_cancelled()) {
            self.lost(match thread::panicking() {
                true => "panicked",
                false => "was aborted",
            });
        }
    }
}

async fn watched(run: Act<Result<(), StepError>>, mut watch: Watch) -> Result<(), StepError> {
    let end = act::run(run, None, pending()).await;
    watch.is_over = true;
    end.unwrap_or_else(|fault| {
        if !watch.stop.is_fired() && watch.lost(&fault.to_string()) {
            return Ok(());
        }
        Err(StepError::new(Stage::Payload, &watch.name, fault))
    })
}

/// The first one counts. Whether this is the first one.
fn note(failed: &Failed, name: &Arc<str>, cause: &str) -> bool {
    failed.send_if_modified(|first| {
        let is_first = first.is_none();
        first.get_or_insert_with(|| PayloadFailure::new(name, cause.to_owned()));
        is_first
    })
}

fn number_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// `None`: later than there is time.
fn after(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}

/// The sentence for an end that nobody asked for.
fn unasked(end: Result<(), Fault>) -> String {
    match end {
        Ok(()) => "returned although nobody told it to stop".to_owned(),
        Err(fault) => fault.to_string(),
    }
}

fn outcome(end: Result<Result<(), Fault>, JoinError>) -> Result<(), Fault> {
    end.unwrap_or_else(|error| Err(lost(error)))
}

/// How a task ended that has no outcome.
pub(super) fn lost(error: JoinError) -> Fault {
    error
        .try_into_panic()
        .map_or(Fault::Cancelled, |panic| Fault::Panic(panic_message(panic)))
}
