//! A supervised background task, as its author describes it.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::act::Act;
use super::busy::{Busy, Desk};
use super::shelf::{KeepError, Shelf};
use super::state::MissingState;
use super::step::Common;
use super::token::Token;
use crate::events::Events;
use crate::messages::Messages;
use crate::status::{Scope, Status};

/// A background task of an app that is expected to run until it is told to stop.
///
/// It starts at its place among the startup steps and stops at its place in the teardown, which is after the
/// requests have drained; [`stop_before_requests`](Self::stop_before_requests) changes that. One that needs a lease, by its
/// [`scope`](Self::scope), starts when its worker gets that, and stops when the drain begins. It runs as its own task; the
/// supervisor sees its end at once, be it a return, an error or a panic, and acts by its policy:
///
/// - **critical**, what [`new`](Self::new) makes: an end that nobody asked for makes the worker drain and be
///   replaced;
/// - **[`restarting`](Self::restarting)**: it is started again, with a backoff;
/// - **[`once`](Self::once)**: returning `Ok` is its normal end. An error or a panic is reported as a failure,
///   and the worker lives on.
///
/// It runs in every worker, or where its [`scope`](Self::scope) says.
///
/// At its stop it is told through [`PayloadContext::stopped`], awaited for [`stop_timeout`](Self::stop_timeout),
/// then aborted. A payload that blocks its thread cannot be aborted: blocking work belongs into
/// `tokio::task::spawn_blocking`. An error that it returns after it was told to stop makes the teardown fail.
///
/// ```
/// use std::time::Duration;
/// use payload::Payload;
///
/// let sampler = Payload::new("sampler", async |context| {
///     let mut ticks = tokio::time::interval(Duration::from_secs(1));
///     loop {
///         tokio::select! {
///             () = context.stopped() => return Ok(()),
///             _ = ticks.tick() => { /* take a sample */ }
///         }
///     }
/// });
/// ```
#[must_use = "a payload runs only when it is given to AppBuilder::payload"]
pub struct Payload {
    pub(super) name: Arc<str>,
    pub(super) work: Work,
    pub(super) scope: Scope,
    /// `None`: as its scope has it.
    before_requests: Option<bool>,
    pub(super) stop_timeout: Duration,
    /// What is wrong with it.
    pub(super) fault: Option<String>,
}

/// The author's code, and what an end of it means that nobody asked for.
pub(super) enum Work {
    Critical(Option<RunOnce>),
    Once(Option<RunOnce>),
    Restarting(Arc<Mutex<Run>>, Backoff),
}

pub(super) type RunOnce = Box<dyn FnOnce(PayloadContext) -> Act<()> + Send>;
pub(super) type Run = Box<dyn FnMut(PayloadContext) -> Act<()> + Send>;

impl Work {
    /// Whether an attempt can still begin.
    pub(super) fn can_start(&self) -> bool {
        !matches!(self, Work::Critical(None) | Work::Once(None))
    }

    /// Whether one attempt is all there is.
    pub(super) fn is_for_once(&self) -> bool {
        !matches!(self, Work::Restarting(..))
    }
}

impl Payload {
    /// A critical payload.
    pub fn new<F, Fut>(name: impl Into<String>, run: F) -> Self
    where
        F: FnOnce(PayloadContext) -> Fut + Send + 'static,
        Fut: Future<Output = super::Result<()>> + Send + 'static,
    {
        Self::of(
            name.into(),
            Work::Critical(Some(Box::new(|context| Box::pin(run(context))))),
        )
    }

    /// A payload that may end by itself: when it returns `Ok`, its work is done.
    ///
    /// Unless it was told to stop before: then `Ok` means that it has stopped, not that it is done, since that is what a
    /// payload returns that leaves its work when it is told to. With a lease ([`scope`](Self::scope)) it therefore begins
    /// anew in the next holder, also where the work had just come to its end when the notice came. Work that must not be
    /// done twice notes how far it is: for its successor ([`PayloadContext::keep`]), or where its result goes, by the
    /// [`epoch`](PayloadContext::epoch).
    ///
    /// ```
    /// use payload::{Payload, PayloadContext, Scope};
    ///
    /// # async fn move_row(row: u64) -> payload::Result<()> { Ok(()) }
    /// async fn migrate(context: PayloadContext) -> payload::Result<()> {
    ///     let kept = context.kept().and_then(|kept| kept[..].try_into().ok());
    ///     for row in kept.map_or(0, u64::from_le_bytes)..1_000 {
    ///         if context.stop_token().is_fired() {
    ///             return Ok(()); // the next holder goes on with this row
    ///         }
    ///         move_row(row).await?;
    ///         context.keep((row + 1).to_le_bytes())?;
    ///     }
    ///     Ok(()) // no worker of this generation begins it again
    /// }
    ///
    /// let migration = Payload::once("migration", migrate).scope(Scope::Service);
    /// ```
    pub fn once<F, Fut>(name: impl Into<String>, run: F) -> Self
    where
        F: FnOnce(PayloadContext) -> Fut + Send + 'static,
        Fut: Future<Output = super::Result<()>> + Send + 'static,
    {
        Self::of(
            name.into(),
            Work::Once(Some(Box::new(|context| Box::pin(run(context))))),
        )
    }

    /// A payload that is started again whenever it ends before it is told to stop, however it ends. `run` is
    /// called for every attempt, so each one gets its own clone of what it needs:
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # struct Queue;
    /// # async fn consume(queue: Arc<Queue>) -> payload::Result<()> { Ok(()) }
    /// # let queue = Arc::new(Queue);
    /// payload::Payload::restarting("consumer", move |_| consume(queue.clone()));
    /// ```
    ///
    /// An async closure (`async |context| …`) will do where it captures nothing. One that captures something would lend
    /// it to its future, and an attempt outlives the call that has begun it: clone in a plain closure, and move the clone
    /// into an `async` block.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use payload::{Payload, PayloadContext};
    /// use tokio::sync::{Mutex, mpsc};
    ///
    /// let (jobs, queue) = mpsc::channel::<String>(16);
    /// let queue = Arc::new(Mutex::new(queue));
    /// let consumer = Payload::restarting("consumer", move |context: PayloadContext| {
    ///     let queue = Arc::clone(&queue);
    ///     async move {
    ///         let mut queue = queue.lock().await;
    ///         loop {
    ///             tokio::select! {
    ///                 () = context.stopped() => return Ok(()),
    ///                 job = queue.recv() => tracing::info!(job = job.ok_or("nobody sends any more")?, "to do"),
    ///             }
    ///         }
    ///     }
    /// });
    /// # drop(jobs);
    /// ```
    pub fn restarting<F, Fut>(name: impl Into<String>, mut run: F) -> Self
    where
        F: FnMut(PayloadContext) -> Fut + Send + 'static,
        Fut: Future<Output = super::Result<()>> + Send + 'static,
    {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        let run: Run = Box::new(move |context| Box::pin(run(context)));
        let run = Arc::new(Mutex::new(run));
        Self::of(name.into(), Work::Restarting(run, backoff))
    }

    fn of(name: String, work: Work) -> Self {
        Self {
            name: name.into(),
            work,
            scope: Scope::Worker,
            before_requests: None,
            stop_timeout: Duration::from_secs(5),
            fault: None,
        }
    }

    /// Where it runs: [`Scope::Worker`], if nothing else is said.
    ///
    /// One of [`Scope::Service`] runs in one worker of the whole service, one of [`Scope::Slot`] in the worker of
    /// each slot. The right to run it is a *lease*, which the arbiter gives to workers that serve. What it
    /// promises:
    ///
    /// - **Never two.** A lease is given only when its last holder has given it back, with the payload's future
    ///   dropped, or when that process is gone. A worker that is frozen or stuck keeps it until it was killed. A
    ///   payload that cannot be stopped, since it blocks its thread, keeps it until its worker has ended.
    /// - **It moves on** when its holder drains, dies or is replaced. At a reload the old generation keeps it until
    ///   the new one has proved itself; then the old payload is stopped, and when that is confirmed, the new one
    ///   starts. A payload that fails again and again, or kills its workers, is given on with growing pauses.
    /// - **Everybody agrees on [`slots`](PayloadContext::slots).** When the number changes, all of a payload's slots
    ///   are stopped, and start with the new number when none is left with the old one. A
    ///   [`restarting`](Self::restarting) payload starts again in place; for another one the worker is replaced, and the
    ///   old number stays until all replacements are ready to serve.
    ///
    /// A restarting payload keeps its lease over its restarts. One by [`once`](Self::once) that has ended, well or
    /// not, does not run again before the next generation; one whose worker has died under it does. A worker is
    /// ready without its leases, and a payload that waits for one is not started: its name and scope are the same
    /// in every worker, and that is how they are matched.
    ///
    /// What the arbiter cannot see is what the payload leaves behind: tasks that it has spawned, blocking work,
    /// child processes. They have to end with it; a `tokio::task::JoinSet` and `kill_on_drop` see to that. A service
    /// that is started again while workers of its last life still drain, since their arbiter was killed, waits with
    /// its leases for their end; it knows them by the address that both listen on, in one network namespace. A
    /// service that runs twice on other addresses is two services, and needs more than a lease. For that, and for
    /// work that is already on its way to another machine, there is the [`epoch`](PayloadContext::epoch).
    ///
    /// ```
    /// use payload::{Payload, Scope};
    ///
    /// # async fn next_job() -> payload::Result<()> { Ok(()) }
    /// let scheduler = Payload::restarting("scheduler", async |context| {
    ///     tracing::info!(epoch = context.epoch(), "this worker schedules now");
    ///     loop {
    ///         tokio::select! {
    ///             () = context.stopped() => return Ok(()),
    ///             job = next_job() => job?,
    ///         }
    ///     }
    /// })
    /// .scope(Scope::Service);
    /// ```
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Tells it to stop when the drain begins, while requests are still being finished. For work that brings new
    /// work in, such as the consumer of a queue. A payload that needs a lease does so anyway, so that it moves on
    /// early.
    pub fn stop_before_requests(mut self) -> Self {
        self.before_requests = Some(true);
        self
    }

    /// Tells it to stop when the requests are over. That is so for every payload that needs no lease.
    pub fn stop_after_requests(mut self) -> Self {
        self.before_requests = Some(false);
        self
    }

    /// How long it may take to stop before it is aborted: 5 s, if nothing else is said; zero aborts it as soon as it was
    /// told. The worker's own deadline for the teardown may end it sooner.
    pub fn stop_timeout(mut self, limit: Duration) -> Self {
        self.stop_timeout = limit;
        self
    }

    /// The waits before restarts of a [`restarting`](Self::restarting) payload: the first is about `initial`, each next
    /// one about twice as long, none longer than `max`. They are jittered by up to a half, and begin anew after an
    /// attempt that ran for longer than `max`. From 100 ms to 30 s, if nothing else is said.
    ///
    /// Another payload is never started again: with a backoff it makes the startup fail.
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        match &mut self.work {
            Work::Restarting(_, backoff) => *backoff = Backoff::new(initial, max),
            Work::Critical(_) | Work::Once(_) => {
                self.fault = Some(format!(
                    "payload '{}' has a backoff and is never started again: make it by Payload::restarting",
                    self.name
                ));
            }
        }
        self
    }

    pub(super) fn needs_lease(&self) -> bool {
        self.scope != Scope::Worker
    }

    pub(super) fn stops_before_requests(&self) -> bool {
        self.before_requests.unwrap_or(self.needs_lease())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("name", &self.name)
            .field("scope", &self.scope)
            .field("stop_timeout", &self.stop_timeout)
            .finish_non_exhaustive()
    }
}

/// What one attempt of a payload is given.
#[derive(Clone, Debug)]
pub struct PayloadContext {
    pub(super) name: Arc<str>,
    pub(super) slot: u32,
    pub(super) slots: u32,
    pub(super) epoch: u64,
    pub(super) restarts: u32,
    pub(super) common: Common,
    pub(super) drain: Token,
    pub(super) stop: Token,
    pub(super) desk: Desk,
    pub(super) shelf: Shelf,
}

impl PayloadContext {
    /// So many bytes [`keep`](Self::keep) takes: 16 MiB.
    pub const MOST_KEPT: usize = crate::kept::MOST;

    /// The payload's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The slot of the worker that it runs in, `0..slots()`. With [`Scope::Slot`] it is the number of its share.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// How many slots there are: with [`Scope::Slot`] the number of shares, which does not change while this
    /// attempt runs; else as many as there were when it began.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// The number of the lease that it runs under, the *fencing token* for what it writes elsewhere: whoever runs
    /// this payload later has a greater one, so a store that refuses a smaller number than it has seen is safe from
    /// a writer that was overtaken. 0 with [`Scope::Worker`].
    ///
    /// It rises over reloads and, as it begins with the time in microseconds, over restarts of the service and of the
    /// machine, as long as the clock is not set back.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How often it was started again: 0 in the first attempt.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// The value of type `T` that the app registered.
    ///
    /// # Errors
    /// There is none; the error names the type.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<Arc<T>, MissingState> {
        self.common.state.get()
    }

    /// Publishes to all workers of the service, and subscribes to what they publish.
    pub fn messages(&self) -> Messages {
        self.common.messages.clone()
    }

    /// The lifecycle events of the whole service: the last ones, and each as it happens.
    pub fn events(&self) -> Events {
        self.common.outlook.events.clone()
    }

    /// The whole service as it is now, as [`Context::service`](crate::Context::service) says it.
    pub fn service(&self) -> Status {
        (self.common.outlook.service)()
    }

    /// Leaves these bytes to whoever has the lease next, in place of what was kept before. For payloads of
    /// [`Scope::Slot`] and [`Scope::Service`].
    ///
    /// They are the arbiter's when this returns: from then on it does not matter how this payload, its worker or its
    /// generation ends. Keep what the successor should go on with as it changes, or once a second, not only at the end,
    /// which may be a SIGKILL. It takes a copy of the bytes and a few system calls, and does not wait; each time
    /// all of it is written anew, so it is not meant for every request.
    ///
    /// What was kept survives a restart of the payload, the end of its worker in every way, a reload, a rollback, a new
    /// binary, and `systemctl restart`, if the unit has `FileDescriptorStoreMax=` and
    /// `RestartKillSignal=SIGUSR2` as the shipped one does. It is in memory, and gone after a stop, after the service
    /// has left for idleness, when the arbiter is killed, and at a reboot: what must not be lost belongs into a file or
    /// a database.
    ///
    /// It belongs to the payload's name and scope, and with [`Scope::Slot`] to the slot's number: when the number of
    /// slots changes, slot n goes on with what slot n has kept, so keep [`slots`](Self::slots) along with it where
    /// that matters; what a slot has kept that was given up is dropped. A payload that is not there any more in a new
    /// generation leaves nothing: that is dropped when the reload has succeeded, and not if it was rolled back.
    ///
    /// # Errors
    /// More than [`MOST_KEPT`](Self::MOST_KEPT) bytes, no lease, or the arbiter does not take it now. What was kept
    /// before stays then.
    pub fn keep(&self, bytes: impl AsRef<[u8]>) -> Result<(), KeepError> {
        self.shelf.keep(self.epoch, bytes.as_ref())
    }

    /// What was kept last: by this payload itself, in this attempt or before its restart, or by the last holder of the
    /// lease. `None`: nothing was, or the lease was given back by now. Makes a copy each time.
    pub fn kept(&self) -> Option<Bytes> {
        self.shelf.kept(self.epoch)
    }

    /// Declares the service busy, until the value is dropped: it does not leave for idleness, although no client is
    /// connected.
    pub fn busy(&self) -> Busy {
        Busy::at(&self.desk)
    }

    /// Resolves when this payload is to stop.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        self.stop.fired()
    }

    /// The same notice, to keep or to hand on.
    pub fn stop_token(&self) -> Token {
        self.stop.clone()
    }

    /// Fires when the worker begins to drain.
    pub fn drain_token(&self) -> Token {
        self.drain.clone()
    }
}

/// The waits between attempts.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    initial: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    fn new(initial: Duration, max: Duration) -> Self {
        let initial = initial.min(max);
        Self {
            initial,
            max,
            next: initial,
        }
    }

    /// The wait after an attempt that ran for `ran`.
    pub(super) fn wait(&mut self, ran: Duration) -> Duration {
        if ran > self.max {
            self.next = self.initial;
        }
        let full = self.next;
        self.next = full.saturating_mul(2).min(self.max);
        full.mul_f64(1.0 - fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backoff_doubles_up_to_its_cap_and_begins_anew_after_a_good_run() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
        for full in [1, 2, 4, 8, 10, 10, 10] {
            let wait = backoff.wait(Duration::from_secs(10));
            let full = Duration::from_secs(full);
            assert!(
                wait <= full && wait >= full / 2,
                "{wait:?} is not within a half of {full:?}"
            );
        }
        assert!(backoff.wait(Duration::from_secs(11)) <= Duration::from_secs(1));
    }

    #[test]
    fn the_first_wait_never_exceeds_the_cap() {
        let mut backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(1));
        assert!(backoff.wait(Duration::ZERO) <= Duration::from_secs(1));
    }
}
