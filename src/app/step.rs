//! The entries of an app's one list.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::act::Act;
use super::context::Outlook;
use super::error::{Fault, Stage, StepError};
use super::event::{Observer, StepEvent, StepOutcome};
use super::payload::Payload;
use super::state::{MissingState, State};
use crate::events::Events;
use crate::messages::Messages;
use crate::status::Status;

/// What a lifecycle step is given. The two halves of an [`AppBuilder::step`](crate::AppBuilder::step) have the same:
/// what the first one is given, the second one may go on using.
#[derive(Clone, Debug)]
pub struct StepContext {
    pub(super) name: Arc<str>,
    common: Common,
    /// Of the run that has begun last.
    deadline: Arc<Mutex<Option<Instant>>>,
}

/// What the steps and payloads of one app have in common.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) state: State,
    pub(super) messages: Messages,
    pub(super) outlook: Outlook,
}

impl StepContext {
    pub(super) fn new(name: &Arc<str>, common: &Common) -> Self {
        Self {
            name: Arc::clone(name),
            common: common.clone(),
            deadline: Arc::default(),
        }
    }

    /// A run of the step begins.
    pub(super) fn begin(&self, deadline: Option<Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    /// The step's name, as logs and errors have it: in a [mounted](crate::AppBuilder::mount) app `/admin: pool`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When this run of the step is cut off, by its own [`timeout`](crate::AppBuilder::timeout) or by the worker: a
    /// startup step when the whole startup has to be over, a teardown step when its share of the cleanup is used up.
    /// A drain step knows only its own limit, since it has as much time as the requests need, and a share of the
    /// cleanup.
    ///
    /// In the second half of an [`AppBuilder::step`](crate::AppBuilder::step) it is the deadline of that half.
    ///
    /// `None` where all that is unlimited.
    pub fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The lifecycle events of the whole service: the last ones, and each as it happens.
    pub fn events(&self) -> Events {
        self.common.outlook.events.clone()
    }

    /// The whole service as it is now, as [`Context::service`](crate::Context::service) says it.
    pub fn service(&self) -> Status {
        (self.common.outlook.service)()
    }
}

/// Runs when everything that was started later has been torn down.
pub(super) type End = Box<dyn FnOnce(StepContext) -> Act<()> + Send>;
/// Runs at the startup; may leave an end behind.
pub(super) type Begin = Box<dyn FnOnce(StepContext) -> Act<Option<End>> + Send>;

/// One thing that starts or stops, and the app that it belongs to: a place in the list of apps.
pub(super) struct Entry {
    pub(super) of: usize,
    pub(super) item: Item,
}

pub(super) enum Item {
    Step(Step),
    Payload(Payload),
}

impl Item {
    pub(super) fn name(&self) -> &Arc<str> {
        match self {
            Item::Step(step) => &step.name,
            Item::Payload(payload) => &payload.name,
        }
    }

    /// As it is called when its app is mounted there: `/admin: pool`. What is mounted in that app has the rest of its
    /// path already.
    pub(super) fn under(mut self, path: &str, is_own: bool) -> Self {
        let name = match &mut self {
            Item::Step(step) => &mut step.name,
            Item::Payload(payload) => &mut payload.name,
        };
        let colon = if is_own { ": " } else { "" };
        *name = format!("{path}{colon}{name}").into();
        self
    }
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
