//! From a built app to a running one.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::act;
use super::builder::App;
use super::busy::Desk;
use super::context::Outlook;
use super::error::{Fault, Stage, StartCause, StartFailure, StepError};
use super::event::{AppState, Observer, PayloadEvent, Progress};
use super::leases::Leases;
use super::running::{Running, first_failure};
use super::stack::{Ending, Stack, after};
use super::step::{Action, Begin, Common, End, Entry, Item, Step, StepContext, observed};
use super::supervisor::{Supervised, Surroundings};
use super::token::{Tokens, earlier};
use crate::messages::Messages;
use crate::status::PayloadState;

/// What the worker hands to an app that it starts.
pub(crate) struct Launch {
    /// Gives the startup up: a stop was ordered, or the startup's deadline has passed.
    pub(crate) cancel: CancellationToken,
    /// The same pair as in the context that was given to `load`.
    pub(crate) tokens: Tokens,
    /// The same as in that context.
    pub(crate) desk: Desk,
    /// The same as in that context.
    pub(crate) messages: Messages,
    /// The same as in that context.
    pub(crate) outlook: Outlook,
    /// When the startup is going to be given up, for those who ask; `None` is never.
    pub(crate) deadline: Option<Instant>,
    /// How long the unwinding of a failed startup may take; `None` is unlimited.
    pub(crate) cleanup: Option<Duration>,
    pub(crate) observer: Arc<dyn Observer>,
    /// Where its payloads get their leases.
    pub(crate) leases: Arc<Leases>,
}

impl App {
    /// Runs the startup, in the runtime that is going to serve.
    ///
    /// Dropping the future aborts what it has started and skips the teardown: cancel by [`Launch::cancel`].
    ///
    /// # Errors
    /// A step failed, panicked or overran its limit, a critical payload ended, the startup was cancelled, or the
    /// app was built wrongly. All that had been started is torn down again by then, within [`Launch::cleanup`].
    pub(crate) async fn start(self, launch: Launch) -> Result<Running, StartFailure> {
        let Launch {
            cancel,
            tokens,
            desk,
            messages,
            outlook,
            deadline,
            cleanup,
            observer,
            leases,
        } = launch;
        let App {
            service,
            members,
            entries,
            faults,
        } = self;
        let mut running = Running {
            service,
            members,
            stack: Stack::default(),
            rest: entries.into_iter(),
            drain_steps: Vec::new(),
            drain_tasks: Vec::new(),
            shared: Surroundings {
                messages,
                outlook,
                drain: tokens.drain(),
                desk,
                failed: watch::Sender::new(None),
                observer: Arc::clone(&observer),
                leases,
            },
            tokens,
            progress: Progress::new(observer),
        };
        running.progress.advance(AppState::Starting);
        running.announce_payloads();
        let started = match faults.into_iter().next() {
            Some(fault) => Err(StartCause::Invalid(fault)),
            None => running.start_all(deadline, &cancel).await,
        };
        match started {
            Ok(()) => {
                running.progress.advance(AppState::Serving);
                Ok(running)
            }
            Err(cause) => {
                let deadline = after(cleanup);
                let clean = matches!(cause, StartCause::Cancelled(_));
                let stopped = running.give_up(deadline, clean).await;
                let unwinding = match cause {
                    // The failure is the cause.
                    StartCause::Payload(_) => stopped.errors,
                    _ => stopped.all_errors(),
                };
                Err(StartFailure::new(cause, unwinding, deadline))
            }
        }
    }
}

impl Running {
    fn announce_payloads(&self) {
        let entries = self.rest.as_slice().iter();
        let payloads = entries.filter_map(|entry| match &entry.item {
            Item::Payload(payload) => Some(payload),
            Item::Step(_) => None,
        });
        for (index, payload) in payloads.enumerate() {
            self.shared.observer.payload(&PayloadEvent {
                index,
                name: &payload.name,
                scope: payload.scope,
                once: payload.work.is_for_once(),
                epoch: 0,
                state: PayloadState::Waiting,
                restarts: 0,
                cause: None,
                attempt: false,
            });
        }
    }

    /// One entry after the other. Those behind one that fails stay where they are.
    async fn start_all(
        &mut self,
        deadline: Option<Instant>,
        cancel: &CancellationToken,
    ) -> Result<(), StartCause> {
        let mut payloads = 0;
        loop {
            self.check(cancel)?;
            let Some(Entry { of, item }) = self.rest.next() else {
                return Ok(());
            };
            let common = self.common_of(of);
            match item {
                Item::Payload(payload) => {
                    let payload = Supervised::start(payload, payloads, common, &self.shared);
                    self.stack.push_payload(payload);
                    payloads += 1;
                }
                Item::Step(Step {
                    name,
                    limit,
                    action,
                }) => {
                    let context = StepContext::new(&name, &common);
                    let ending = |context, end| Ending {
                        context,
                        limit,
                        end,
                    };
                    match action {
                        Action::Startup(begin) => {
                            context.begin(earlier(deadline, after(limit)));
                            let begun = self.start_one(context.clone(), limit, begin, cancel);
                            let end = begun.await?;
                            if let Some(end) = end {
                                self.stack.push_step(ending(context, end));
                            }
                        }
                        Action::Drain(end) => self.drain_steps.push(ending(context, end)),
                        Action::Teardown(end) => self.stack.push_step(ending(context, end)),
                    }
                }
            }
        }
    }

    fn common_of(&self, member: usize) -> Common {
        let member = self.members.get(member);
        Common {
            state: member
                .map(|member| member.state.clone())
                .unwrap_or_default(),
            messages: self.shared.messages.clone(),
            outlook: self.shared.outlook.clone(),
        }
    }

    /// Gives back its teardown.
    async fn start_one(
        &self,
        context: StepContext,
        limit: Option<Duration>,
        begin: Begin,
        cancel: &CancellationToken,
    ) -> Result<Option<End>, StartCause> {
        let name = Arc::clone(&context.name);
        let mut interrupted = None;
        let run = async {
            // The step comes first: one that has just succeeded has something to tear down.
            tokio::select! {
                biased;
                result = act::run(Box::pin(async { begin(context).await }), limit, pending()) => return result,
                failure = first_failure(&self.shared.failed) => interrupted = Some(StartCause::Payload(failure)),
                () = unconstrained(cancel.cancelled()) => interrupted = Some(StartCause::Cancelled(Some(Arc::clone(&name)))),
            }
            Err(Fault::Cancelled)
        };
        let result: Result<_, StepError> =
            observed(&*self.shared.observer, Stage::Startup, &name, run).await;
        result.map_err(|error| interrupted.unwrap_or(StartCause::Step(error)))
    }

    fn check(&self, cancel: &CancellationToken) -> Result<(), StartCause> {
        if let Some(failure) = self.shared.failed.borrow().clone() {
            return Err(StartCause::Payload(failure));
        }
        if cancel.is_cancelled() {
            return Err(StartCause::Cancelled(None));
        }
        Ok(())
    }
}
