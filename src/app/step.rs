//! The entries of an app's one list.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::act::Act;
use super::error::{Fault, Stage, StepError};
use super::event::{Observer, StepEvent, StepOutcome};
use super::payload::Payload;
use super::state::{MissingState, State};
use crate::messages::Messages;

/// What a lifecycle step is given.
#[derive(Clone, Debug)]
pub struct StepContext {
    name: Arc<str>,
    common: Common,
}

/// What all steps and payloads of one app have in common.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) state: State,
    pub(super) messages: Messages,
}

impl StepContext {
    pub(super) fn new(name: &Arc<str>, common: &Common) -> Self {
        Self {
            name: Arc::clone(name),
            common: common.clone(),
        }
    }

    /// The step's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of type `T` that the app registered.
    ///
    /// # Errors
    /// There is none; the error names the type.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<Arc<T>, MissingState> {
        self.common.state.get()
    }

    /// Publishes to all workers of the service, and subscribes to what they publish. What is published in the
    /// teardown is still sent.
    pub fn messages(&self) -> Messages {
        self.common.messages.clone()
    }
}

/// Runs when everything that was started later has been torn down.
pub(super) type End = Box<dyn FnOnce(StepContext) -> Act<()> + Send>;
/// Runs at the startup; may leave an end behind.
pub(super) type Begin = Box<dyn FnOnce(StepContext) -> Act<Option<End>> + Send>;

pub(super) enum Entry {
    Step(Step),
    Payload(Payload),
}

pub(super) struct Step {
    pub(super) name: Arc<str>,
    /// For each run of it.
    pub(super) limit: Option<Duration>,
    pub(super) action: Action,
}

pub(super) enum Action {
    Startup(Begin),
    Drain(End),
    Teardown(End),
}

impl Action {
    pub(super) fn startup<F, Fut>(code: F) -> Self
    where
        F: FnOnce(StepContext) -> Fut + Send + 'static,
        Fut: Future<Output = super::Result<()>> + Send + 'static,
    {
        Self::Startup(Box::new(|context| {
            Box::pin(async {
                code(context).await?;
                Ok(None)
            })
        }))
    }

    pub(super) fn pair<F, Fut, T, TFut>(code: F) -> Self
    where
        F: FnOnce(StepContext) -> Fut + Send + 'static,
        Fut: Future<Output = super::Result<T>> + Send + 'static,
        T: FnOnce() -> TFut + Send + 'static,
        TFut: Future<Output = super::Result<()>> + Send + 'static,
    {
        Self::Startup(Box::new(|context| {
            Box::pin(async {
                let after = code(context).await?;
                Ok(Some(end(|_| after())))
            })
        }))
    }

    pub(super) fn drain<F, Fut>(code: F) -> Self
    where
        F: FnOnce(StepContext) -> Fut + Send + 'static,
        Fut: Future<Output = super::Result<()>> + Send + 'static,
    {
        Self::Drain(end(code))
    }

    pub(super) fn teardown<F, Fut>(code: F) -> Self
    where
        F: FnOnce(StepContext) -> Fut + Send + 'static,
        Fut: Future<Output = super::Result<()>> + Send + 'static,
    {
        Self::Teardown(end(code))
    }
}

/// The closure is called inside the future, where a panic of it is caught.
fn end<F, Fut>(code: F) -> End
where
    F: FnOnce(StepContext) -> Fut + Send + 'static,
    Fut: Future<Output = super::Result<()>> + Send + 'static,
{
    Box::new(|context| Box::pin(async { code(context).await }))
}

/// Tells the observer of both ends of one run.
pub(super) async fn observed<T>(
    observer: &dyn Observer,
    stage: Stage,
    name: &Arc<str>,
    run: impl Future<Output = Result<T, Fault>>,
) -> Result<T, StepError> {
    observer.step(&StepEvent {
        name,
        stage,
        outcome: StepOutcome::Begun,
    });
    let begun = Instant::now();
    let result = run
        .await
        .map_err(|fault| StepError::new(stage, name, fault));
    let outcome = match &result {
        Ok(_) => StepOutcome::Done(begun.elapsed()),
        Err(error) => StepOutcome::Failed(begun.elapsed(), error),
    };
    observer.step(&StepEvent {
        name,
        stage,
        outcome,
    });
    result
}
