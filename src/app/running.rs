//! An app that serves, and its way out.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use tokio::task::coop::unconstrained;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::act::{catch, sleep_until_some};
use super::budget::Budget;
use super::builder::Member;
use super::error::{PayloadFailure, Stage, StepError};
use super::event::{AppState, Progress};
use super::service::Service;
use super::stack::{Ending, Stack};
use super::step::Entry;
use super::supervisor::{Failed, Surroundings, lost};
use super::token::Tokens;

/// An app whose startup has succeeded. Dropping it without [`stop`](Self::stop) aborts its payloads and skips its
/// teardown.
pub(crate) struct Running {
    pub(super) service: Service,
    /// The app itself, and those that are mounted in it.
    pub(super) members: Vec<Member>,
    pub(super) stack: Stack,
    /// What is still to be started, if anything is: a startup that failed did not come to it.
    pub(super) rest: std::vec::IntoIter<Entry>,
    /// Waiting for the drain.
    pub(super) drain_steps: Vec<Ending>,
    /// Begun by the drain.
    pub(super) drain_tasks: Vec<DrainTask>,
    pub(super) shared: Surroundings,
    pub(super) tokens: Tokens,
    pub(super) progress: Progress,
}

/// How an app's life ended.
#[derive(Debug)]
pub(crate) struct Stopped {
    /// What failed on the way out, in order. Empty: the app stopped well.
    pub(crate) errors: Vec<StepError>,
    /// The critical payload that failed first, if any did before it was told to stop. It was reported then.
    pub(crate) failure: Option<PayloadFailure>,
}

impl Stopped {
    /// What a worker fails for: the critical payload as well.
    pub(crate) fn all_errors(self) -> Vec<StepError> {
        let failure = self.failure.map(StepError::of);
        failure.into_iter().chain(self.errors).collect()
    }
}

pub(super) struct DrainTask {
    name: Arc<str>,
    /// Its other end is dropped when the step has come as far as it does without waiting.
    begun: Option<oneshot::Receiver<()>>,
    cut: CancellationToken,
    task: AbortOnDropHandle<Result<(), StepError>>,
}

impl Running {
    /// What answers the requests.
    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    /// Resolves as soon as a critical payload has ended although nobody told it to, also if it did before.
    /// Borrows nothing and may be dropped and asked for again at will.
    pub(crate) fn failed(&self) -> impl Future<Output = PayloadFailure> + Send + use<> {
        let failed = self.shared.failed.clone();
        async move { first_failure(&failed).await }
    }

    /// Begins the drain: fires the drain token, starts the drain steps, tells the payloads that stop before the
    /// requests. Returns at once; [`stop`](Self::stop) waits for all of it. A second call does nothing.
    ///
    /// `deadline` is when what is still open will be cut off, for those who hear the token; `None` is unlimited.
    pub(crate) fn drain(&mut self, deadline: Option<Instant>) {
        if self.progress.state() >= AppState::Draining {
            return;
        }
        self.progress.advance(AppState::Draining);
        self.tokens.fire_drain(deadline);
        self.stack.tell_early();
        for step in self.drain_steps.drain(..) {
            let name = Arc::clone(&step.context.name);
            let observer = Arc::clone(&self.shared.observer);
            let cut = CancellationToken::new();
            let cutting = cut.clone().cancelled_owned();
            let (begins, begun) = oneshot::channel();
            let run = async move {
                let mut begins = Some(begins);
                let mut run = pin!(step.run(Stage::Drain, &*observer, None, cutting));
                poll_fn(|cx| {
                    let polled = run.as_mut().poll(cx);
                    drop(begins.take());
                    polled
                })
                .await
            };
            let task = AbortOnDropHandle::new(tokio::spawn(run));
            self.drain_tasks.push(DrainTask {
                name,
                begun: Some(begun),
                cut,
                task,
            });
        }
    }

    /// Resolves when each drain step has done what it does without waiting. Cancel-safe.
    pub(crate) async fn drain_begun(&mut self) {
        for task in &mut self.drain_tasks {
            if let Some(begun) = &mut task.begun {
                let _ = unconstrained(begun).await;
                task.begun = None;
            }
        }
    }

    /// Stops the app: the drain, if it has not begun yet; then what the drain began comes to its end; then
    /// payloads and teardown steps, last-in first-out; then service and state are dropped. Returns as soon as all
    /// is done. No task of the app is left, except a payload that blocks its thread, which is then an error.
    ///
    /// `deadline` is for all together, `None` is unlimited. Each step is attempted, also behind one that is stuck
    /// and when the deadline has passed; see [`Budget`]. A payload that is
    /// aborted at the deadline has 10 ms to see its notice, and up to a second to be gone.
    ///
    /// Dropping the future aborts the payloads and skips the steps that are left.
    pub(crate) async fn stop(mut self, deadline: Option<Instant>) -> Stopped {
        self.drain(deadline);
        self.progress.advance(AppState::Stopping);
        let mut budget = Budget::new(deadline, self.drain_tasks.len() + self.stack.len());
        let mut errors = Vec::new();
        for task in std::mem::take(&mut self.drain_tasks) {
            errors.extend(task.finish(budget.next()).await.err());
        }
        errors.extend(self.stack.stop_early(&mut budget).await);
        self.finish(errors, budget, deadline, true).await
    }

    /// Unwinds a startup that failed. Drain steps were never due.
    pub(super) async fn give_up(mut self, deadline: Option<Instant>, clean: bool) -> Stopped {
        self.progress.advance(AppState::Stopping);
        let budget = Budget::new(deadline, self.stack.len());
        self.finish(Vec::new(), budget, deadline, clean).await
    }

    async fn finish(
        mut self,
        mut errors: Vec<StepError>,
        mut budget: Budget,
        deadline: Option<Instant>,
        clean: bool,
    ) -> Stopped {
        self.tokens.fire_stop(deadline);
        let Surroundings {
            failed, observer, ..
        } = self.shared;
        errors.extend(self.stack.unwind(&*observer, &mut budget).await);
        // What is left of the author's values, each for itself: what was never started, the services, then the states,
        // last-in first-out.
        while let Some(entry) = self.rest.next_back() {
            let name = Arc::clone(entry.item.name());
            errors.extend(release(&name, entry).err());
        }
        while let Some(step) = self.drain_steps.pop() {
            let name = Arc::clone(&step.context.name);
            errors.extend(release(&name, step).err());
        }
        // It has each service of a member a second time, so that none goes along with another one.
        drop(self.service);
        let mut states = Vec::new();
        while let Some(member) = self.members.pop() {
            let name = member.name();
            errors.extend(release(&name, member.service).err());
            states.push((name, member.state));
        }
        for (name, state) in states {
            for value in state.into_values() {
                errors.extend(release(&name, value).err());
            }
        }
        let failure = failed.borrow().clone();
        let end = if clean && errors.is_empty() && failure.is_none() {
            AppState::Stopped
        } else {
            AppState::Failed
        };
        self.progress.advance(end);
        Stopped { errors, failure }
    }
}

/// A destructor of the author's may panic, and costs no other: neither what is left to be released, nor the worker. Two
/// that panic in the same value, such as two fields of one struct, are beyond that: Rust ends the process then.
fn release<T>(name: &Arc<str>, value: T) -> Result<(), StepError> {
    catch(|| drop(value)).map_err(|fault| StepError::new(Stage::Release, name, fault))
}

/// Never, while no critical payload fails. Whatever the task has done before in the same poll.
pub(super) async fn first_failure(failed: &Failed) -> PayloadFailure {
    let mut seen: watch::Receiver<_> = failed.subscribe();
    let first = unconstrained(seen.wait_for(Option::is_some)).await;
    match first.ok().and_then(|first| first.clone()) {
        Some(failure) => failure,
        None => pending().await,
    }
}

impl DrainTask {
    async fn finish(mut self, limit: Option<Instant>) -> Result<(), StepError> {
        let joined = tokio::select! {
            biased;
            joined = &mut self.task => joined,
            () = sleep_until_some(limit) => {
                self.cut.cancel();
                (&mut self.task).await
            }
        };
        joined.unwrap_or_else(|error| Err(StepError::new(Stage::Drain, &self.name, lost(error))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::app::event::{Observer, PayloadEvent, ReleaseEvent, StepEvent};
    use crate::app::leases::Leases;
    use crate::app::start::Launch;
    use crate::app::supervisor::Supervised;
    use crate::app::{App, AppBuilder, Desk, Payload, PayloadContext};
    use crate::status::{PayloadState, Scope};
    use crate::testing::Trace;

    async fn start(builder: AppBuilder, observer: impl Observer + 'static) -> Running {
        let launch = Launch {
            cancel: CancellationToken::new(),
            tokens: Tokens::default(),
            desk: Desk::default(),
            messages: crate::messages::Messages::alone(1),
            outlook: crate::testing::outlook(),
            cleanup: None,
            deadline: None,
            observer: Arc::new(observer),
            leases: Arc::new(Leases::new(0, 1)),
        };
        let app = builder.build(axum::Router::new());
        app.start(launch).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_critical_payload_that_fails_during_the_drain_is_known_when_the_app_has_stopped() {
        let payload = Payload::new("p", async |context| {
            context.drain_token().fired().await;
            Err("it broke".into())
        });
        let mut running = start(App::builder().payload(payload), Trace::default()).await;
        running.drain(None);
        let failed = running.failed().await;
        let stopped = running.stop(None).await;
        assert!(
            stopped.errors.is_empty(),
            "it was reported when it happened"
        );
        assert_eq!(stopped.failure, Some(failed));
    }

    /// Says when it is dropped.
    struct Gone(Arc<AtomicBool>);

    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }

    /// That runs until it is told to stop, by each policy; and one that waits for its lease.
    fn obedient(gone: &Arc<AtomicBool>) -> [Payload; 4] {
        let run = |gone: &Arc<AtomicBool>| {
            let gone = Arc::clone(gone);
            move |context: PayloadContext| {
                let gone = Gone(Arc::clone(&gone));
                async move {
                    let _gone = gone;
                    context.stopped().await;
                    Ok(())
                }
            }
        };
        [
            Payload::new("p", run(gone)),
            Payload::once("p", run(gone)),
            Payload::restarting("p", run(gone)),
            Payload::new("p", run(gone)).scope(Scope::Service),
        ]
    }

    #[tokio::test(start_paused = true)]
    async fn a_payload_that_has_lost_its_supervisor_fails_the_app() {
        let gone = Arc::default();
        for payload in obedient(&gone) {
            let has_begun = payload.scope == Scope::Worker;
            let running = start(App::builder().payload(payload), Trace::default()).await;
            tokio::task::yield_now().await;
            gone.store(false, Relaxed);
            running.stack.payloads().for_each(Supervised::lose);
            let failed = running.failed();
            let failed = timeout(Duration::from_secs(1), failed).await.unwrap();
            assert_eq!(
                failed.to_string(),
                "critical payload 'p' lost its supervisor, which was aborted"
            );
            let stopped = running.stop(None).await;
            assert!(stopped.errors.is_empty(), "it is reported once");
            assert_eq!(stopped.failure, Some(failed));
            assert_eq!(gone.load(Relaxed), has_begun, "it does not run on");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_loss_is_reported_at_the_stop() {
        let gone = Arc::default();
        let builder = obedient(&gone)
            .into_iter()
            .fold(App::builder(), AppBuilder::payload);
        let running = start(builder, Trace::default()).await;
        running.stack.payloads().take(2).for_each(Supervised::lose);
        let failed = running.failed();
        timeout(Duration::from_secs(1), failed).await.unwrap();
        tokio::task::yield_now().await;
        let errors = running.stop(None).await.all_errors();
        let texts = errors.iter().map(ToString::to_string);
        assert!(
            texts.eq([
                "critical payload 'p' lost its supervisor, which was aborted",
                "payload 'p' was cancelled"
            ]),
            "{errors:?}"
        );
    }

    /// Panics when a payload is to be started again.
    struct Wicked;

    impl Observer for Wicked {
        fn app_state(&self, _: AppState) {}
        fn step(&self, _: &StepEvent<'_>) {}
        fn payload(&self, event: &PayloadEvent<'_>) {
            assert!(event.state != PayloadState::Restarting, "boom");
        }
        fn released(&self, _: &ReleaseEvent<'_>) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_supervisor_that_panics_fails_the_app() {
        let payload = Payload::restarting("p", async |_| Ok(()));
        let running = start(App::builder().payload(payload), Wicked).await;
        let failed = timeout(Duration::from_secs(1), running.failed()).await;
        assert_eq!(
            failed.unwrap().to_string(),
            "critical payload 'p' lost its supervisor, which panicked: boom"
        );
        assert!(running.stop(None).await.errors.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_is_dropped_has_lost_nothing() {
        let gone = Arc::default();
        let builder = obedient(&gone)
            .into_iter()
            .fold(App::builder(), AppBuilder::payload);
        let running = start(builder, Trace::default()).await;
        let failed = running.failed();
        drop(running);
        let waited = timeout(Duration::from_secs(1), failed).await;
        assert!(waited.is_err(), "{waited:?}");
    }
}
