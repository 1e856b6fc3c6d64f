//! What `load` is given.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use tokio::time::Instant;

use super::busy::{Busy, Desk};
use super::token::{Token, Tokens};
use crate::events::Events;
use crate::messages::Messages;
use crate::status::Status;

/// Where an app is being built: its settings, its worker, and the notices of that worker's end.
///
/// `S` is the author's own type for the `[app]` table of the configuration file; it is parsed before anything is
/// forked, and a key that no field of it has taken is an error, as in the other tables. A map or a `toml::Value` takes
/// every key. With `flatten`, `tag`, `untagged` or a `toml::Spanned` struct serde does not tell what is left over:
/// `deny_unknown_fields` does where it can be had. Cloning is one reference count.
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct Settings {
///     greeting: String,
/// }
///
/// async fn load(context: payload::Context<Settings>) -> payload::Result<payload::App> {
///     let greeting = context.settings().greeting.clone();
///     let service = payload::service_fn(move |_request| {
///         let greeting = greeting.clone();
///         async move { Ok(http::Response::new(payload::Body::from(greeting))) }
///     });
///     Ok(payload::App::builder().build(service))
/// }
/// ```
pub struct Context<S = NoSettings>(Arc<ContextParts<S>>);

/// Everything that a context is made of. The worker fills it in.
pub(crate) struct ContextParts<S> {
    pub(crate) settings: S,
    pub(crate) worker: u64,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) workers: u32,
    pub(crate) tokens: Tokens,
    pub(crate) startup_deadline: Option<Instant>,
    pub(crate) desk: Desk,
    pub(crate) messages: Messages,
    pub(crate) outlook: Outlook,
}

/// What an app hears and sees of the whole service.
#[derive(Clone)]
pub(crate) struct Outlook {
    pub(crate) events: Events,
    pub(crate) service: Arc<dyn Fn() -> Status + Send + Sync>,
}

/// The settings of a service that has none: an `[app]` table with a key in it is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

impl<S> Context<S> {
    pub(crate) fn new(parts: ContextParts<S>) -> Self {
        Self(Arc::new(parts))
    }

    /// The `[app]` table of the configuration, in the author's type.
    pub fn settings(&self) -> &S {
        &self.0.settings
    }

    /// The number of this worker. No other one has it as long as the service runs, over all its reloads; a service
    /// that is started anew counts from 1 again.
    pub fn worker(&self) -> u64 {
        self.0.worker
    }

    /// The place that this worker fills, `0..workers()`. While a worker is being replaced, two have the same.
    pub fn slot(&self) -> u32 {
        self.0.slot
    }

    /// Counts the reloads: workers of one generation have the same code and configuration.
    pub fn generation(&self) -> u32 {
        self.0.generation
    }

    /// How many workers the service had when this one was started.
    pub fn workers(&self) -> u32 {
        self.0.workers
    }

    /// When `load` and all startup steps have to be over, or the worker is given up: `timeouts.startup` after the
    /// fork. `None` is unlimited.
    pub fn startup_deadline(&self) -> Option<Instant> {
        self.0.startup_deadline
    }

    /// Fires when this worker begins to drain: it takes nothing new and finishes what it has. Long responses
    /// (server-sent events, WebSockets) should then come to an end; at the notice's
    /// [deadline](Token::deadline), `timeouts.graceful` after the order to stop, payload ends them.
    pub fn drain_token(&self) -> Token {
        self.0.tokens.drain()
    }

    /// Fires when the requests are over and the teardown begins, and when a startup is given up. Its
    /// [deadline](Token::deadline) is that of the whole teardown, `timeouts.cleanup` later.
    pub fn stop_token(&self) -> Token {
        self.0.tokens.stop()
    }

    /// Declares the service busy, until the value is dropped: it does not leave for idleness, although no client is
    /// connected. A request in flight needs none.
    pub fn busy(&self) -> Busy {
        Busy::at(&self.0.desk)
    }

    /// The lifecycle events of the whole service: the last ones, and each as it happens.
    pub fn events(&self) -> Events {
        self.0.outlook.events.clone()
    }

    /// Publishes to all workers of the service, and subscribes to what they publish.
    pub fn messages(&self) -> Messages {
        self.0.messages.clone()
    }

    /// The whole service as it is now: the arbiter, its workers, their payloads, its sockets, and who has which lease.
    ///
    /// The numbers of the workers are as of this moment. Leases, and the payloads of other workers, are as the arbiter
    /// has told them last: within some tens of milliseconds.
    pub fn service(&self) -> Status {
        (self.0.outlook.service)()
    }
}

impl<S> Clone for Context<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl fmt::Debug for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlook")
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

/// Without the settings, which may hold a secret.
impl<S> fmt::Debug for Context<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("worker", &self.0.worker)
            .field("slot", &self.0.slot)
            .field("generation", &self.0.generation)
            .field("workers", &self.0.workers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use crate::testing::TestApp;
    use crate::{App, Payload, service_fn};

    #[tokio::test]
    async fn steps_and_payloads_see_the_service_as_load_does() {
        let (told, mut seen) = mpsc::unbounded_channel();
        let other = told.clone();
        let payload = Payload::once("look", move |context| async move {
            other.send((context.service(), context.events().recent()))?;
            Ok(())
        });
        let app = App::builder()
            .startup("look", async move |context| {
                told.send((context.service(), context.events().recent()))?;
                Ok(())
            })
            .payload(payload)
            .build(service_fn(|_| async {
                Ok(http::Response::new(crate::Body::empty()))
            }));
        let app = TestApp::start(app).await.unwrap();
        for _ in 0..2 {
            let (service, events) = seen.recv().await.unwrap();
            assert_eq!(service.arbiter.pid, std::process::id());
            assert!(events.is_empty());
        }
        assert!(app.stop().await.is_empty());
    }
}
