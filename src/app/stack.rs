//! What was started, to be torn down last-in first-out within one deadline.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::act;
use super::budget::Budget;
use super::error::{Stage, StepError};
use super::event::Observer;
use super::step::{End, StepContext, observed};
use super::supervisor::Supervised;
use super::token::earlier;

/// Everything that has a teardown, in the order in which it was started.
#[derive(Default)]
pub(super) struct Stack(Vec<Item>);

enum Item {
    Step(Ending),
    Payload(Supervised),
}

/// A step's teardown, armed.
pub(super) struct Ending {
    /// The startup had the same.
    pub(super) context: StepContext,
    pub(super) limit: Option<Duration>,
    pub(super) end: End,
}

impl Ending {
    /// Runs it to its end, to its limit or until it is cut off, with the observer told. `cut_at` is when that will
    /// be, where it is known.
    pub(super) async fn run(
        self,
        stage: Stage,
        observer: &dyn Observer,
        cut_at: Option<Instant>,
        cut: impl Future<Output = ()>,
    ) -> Result<(), StepError> {
        let Self {
            context,
            limit,
            end,
        } = self;
        let name = Arc::clone(&context.name);
        context.begin(earlier(cut_at, after(limit)));
        let run = act::run(Box::pin(async { end(context).await }), limit, cut);
        observed(observer, stage, &name, run).await
    }
}

impl Stack {
    pub(super) fn push_step(&mut self, ending: Ending) {
        self.0.push(Item::Step(ending));
    }

    pub(super) fn push_payload(&mut self, payload: Supervised) {
        self.0.push(Item::Payload(payload));
    }

    /// Tells those payloads to stop that stop before the requests have drained.
    pub(super) fn tell_early(&self) {
        for payload in self.0.iter().filter_map(Item::early) {
            payload.tell();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Waits for the payloads that [`tell_early`](Self::tell_early) has told, the last one first.
    pub(super) async fn stop_early(&mut self, budget: &mut Budget) -> Vec<StepError> {
        let mut errors = Vec::new();
        while let Some(at) = self.last_early() {
            if let Item::Payload(payload) = self.0.remove(at) {
                errors.extend(payload.stop(budget.next()).await.err());
            }
        }
        errors
    }

    /// Its place.
    fn last_early(&self) -> Option<usize> {
        self.0.iter().rposition(|item| item.early().is_some())
    }

    /// Attempts every teardown that is left, last-in first-out, whatever the ones before it did. Returns what
    /// failed, in order. Dropping the future aborts the payloads and skips the teardowns behind it.
    pub(super) async fn unwind(
        &mut self,
        observer: &dyn Observer,
        budget: &mut Budget,
    ) -> Vec<StepError> {
        let mut errors = Vec::new();
        while let Some(item) = self.0.pop() {
            let limit = budget.next();
            let result = match item {
                Item::Step(ending) => {
                    let cut = act::sleep_until_some(limit);
                    ending.run(Stage::Teardown, observer, limit, cut).await
                }
                Item::Payload(payload) => payload.stop(limit).await,
            };
            errors.extend(result.err());
        }
        errors
    }
}

#[cfg(test)]
impl Stack {
    pub(super) fn payloads(&self) -> impl Iterator<Item = &Supervised> {
        self.0.iter().filter_map(|item| match item {
            Item::Payload(payload) => Some(payload),
            Item::Step(_) => None,
        })
    }
}

/// The end of a limit that begins now.
pub(super) fn after(limit: Option<Duration>) -> Option<Instant> {
    limit.and_then(|limit| Instant::now().checked_add(limit))
}

impl Item {
    fn early(&self) -> Option<&Supervised> {
        match self {
            Item::Payload(payload) if payload.before_requests => Some(payload),
            _ => None,
        }
    }
}
