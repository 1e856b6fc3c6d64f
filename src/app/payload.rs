//! A supervised background task, as its author describes it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::act::Act;
use super::busy::{Busy, Desk};
use super::state::{MissingState, State};
use super::token::Token;

/// A background task of an app that is expected to run until it is told to stop.
///
/// It starts at its place among the startup steps and stops at its place in the teardown, which is after the
/// requests have drained. It runs as its own task; the supervisor sees its end at once, be it a return, an error
/// or a panic, and acts by its policy:
///
/// - **critical**, what [`new`](Self::new) makes: an end that nobody asked for makes the worker drain and be
///   replaced;
/// - **[`restarting`](Self::restarting)**: it is started again, with a backoff;
/// - **[`once`](Self::once)**: returning `Ok` is its normal end. An error or a panic is reported as a failure,
///   and the worker lives on.
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
    pub(super) before_requests: bool,
    pub(super) stop_timeout: Duration,
}

/// The author's code, and what an end of it means that nobody asked for.
pub(super) enum Work {
    Critical(Box<dyn FnOnce(PayloadContext) -> Act<()> + Send>),
    Once(Box<dyn FnOnce(PayloadContext) -> Act<()> + Send>),
    Restarting(Box<dyn FnMut(PayloadContext) -> Act<()> + Send>, Backoff),
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
            Work::Critical(Box::new(|context| Box::pin(run(context)))),
        )
    }

    /// A payload that may end by itself.
    pub fn once<F, Fut>(name: impl Into<String>, run: F) -> Self
    where
        F: FnOnce(PayloadContext) -> Fut + Send + 'static,
        Fut: Future<Output = super::Result<()>> + Send + 'static,
    {
        Self::of(
            name.into(),
            Work::Once(Box::new(|context| Box::pin(run(context)))),
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
    pub fn restarting<F, Fut>(name: impl Into<String>, mut run: F) -> Self
    where
        F: FnMut(PayloadContext) -> Fut + Send + 'static,
        Fut: Future<Output = super::Result<()>> + Send + 'static,
    {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        let run = Box::new(move |context| Box::pin(run(context)) as Act<()>);
        Self::of(name.into(), Work::Restarting(run, backoff))
    }

    fn of(name: String, work: Work) -> Self {
        Self {
            name: name.into(),
            work,
            before_requests: false,
            stop_timeout: Duration::from_secs(5),
        }
    }

    /// Tells it to stop when the drain begins, while requests are still being finished. For work that brings new
    /// work in, such as the consumer of a queue.
    pub fn stop_before_requests(mut self) -> Self {
        self.before_requests = true;
        self
    }

    /// How long it may take to stop before it is aborted: 5 s, if nothing else is said. The worker's own deadline
    /// for the teardown may end it sooner.
    pub fn stop_timeout(mut self, limit: Duration) -> Self {
        self.stop_timeout = limit;
        self
    }

    /// The waits before restarts of a [`restarting`](Self::restarting) payload: the first is about `initial`, each next one about twice as long, none longer
    /// than `max`. They are jittered by up to a half, and begin anew after an attempt that ran for longer than
    /// `max`. From 100 ms to 30 s, if nothing else is said.
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        if let Work::Restarting(_, backoff) = &mut self.work {
            *backoff = Backoff::new(initial, max);
        }
        self
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("name", &self.name)
            .field("before_requests", &self.before_requests)
            .field("stop_timeout", &self.stop_timeout)
            .finish_non_exhaustive()
    }
}

/// What one attempt of a payload is given.
#[derive(Clone, Debug)]
pub struct PayloadContext {
    pub(super) name: Arc<str>,
    pub(super) restarts: u32,
    pub(super) state: State,
    pub(super) drain: Token,
    pub(super) stop: Token,
    pub(super) desk: Desk,
}

impl PayloadContext {
    /// The payload's name.
    pub fn name(&self) -> &str {
        &self.name
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
        self.state.get()
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
