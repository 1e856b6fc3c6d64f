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
/// `deny_unknown_fields` does where it can be had. Cloning is two reference counts.
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
pub struct Context<S = NoSettings> {
    settings: Arc<S>,
    parts: Arc<ContextParts>,
}

/// What a context is made of, but for the settings. The worker fills it in.
pub(crate) struct ContextParts {
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
    pub(crate) fn new(settings: S, parts: ContextParts) -> Self {
        Self {
            settings: Arc::new(settings),
            parts: Arc::new(parts),
        }
    }

    /// The `[app]` table of the configuration, in the author's type.
    pub fn settings(&self) -> &S {
        &self.settings
    }

    /// The same with other settings: for the factory of an app that is to be [mounted](crate::AppBuilder::mount) in this
    /// one, and has a type of its own.
    ///
    /// ```
    /// use payload::{App, Context, vitals};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Settings {
    ///     greeting: String,
    ///     /// The table `[app.vitals]`.
    ///     #[serde(default)]
    ///     vitals: vitals::Settings,
    /// }
    ///
    /// async fn load(context: Context<Settings>) -> payload::Result<App> {
    ///     let settings = context.settings();
    ///     let vitals = vitals::load(context.with_settings(settings.vitals)).await?;
    ///     let greeting = settings.greeting.clone();
    ///     let home = axum::routing::get(async move || greeting);
    ///     let routes = axum::Router::new().route("/", home);
    ///     Ok(App::builder().mount("/vitals", vitals).build(routes))
    /// }
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// # runtime.block_on(async {
    /// # use payload::testing::{TestApp, body, settings};
    /// # let settings: Settings = settings("[app]\ngreeting = 'hello'\nvitals.sample_interval = '100ms'").unwrap();
    /// # let app = TestApp::load(settings, load).await.unwrap();
    /// # for (path, word) in [("/", "hello"), ("/vitals/api/vitals", "\"interval\":0.1")] {
    /// #     let request = http::Request::get(path).body(payload::Body::empty()).unwrap();
    /// #     let answer = body(app.call(request).await.unwrap()).await.unwrap();
    /// #     let answer = String::from_utf8(answer.to_vec()).unwrap();
    /// #     assert!(answer.contains(word), "{answer}");
    /// # }
    /// # });
    /// ```
    pub fn with_settings<T>(&self, settings: T) -> Context<T> {
        Context {
            settings: Arc::new(settings),
            parts: Arc::clone(&self.parts),
        }
    }

    /// The number of this worker. No other one has it as long as the service runs, over all its reloads; a service
    /// that is started anew counts from 1 again.
    pub fn worker(&self) -> u64 {
        self.parts.worker
    }

    /// The place that this worker fills, `0..workers()`. While a worker is being replaced, two have the same.
    pub fn slot(&self) -> u32 {
        self.parts.slot
    }

    /// Counts the reloads: workers of one generation have the same code and configuration.
    pub fn generation(&self) -> u32 {
        self.parts.generation
    }

    /// How many workers the service had when this one was started.
    pub fn workers(&self) -> u32 {
        self.parts.workers
    }

    /// When `load` and all startup steps have to be over, or the worker is given up: `timeouts.startup` after the
    /// fork. `None` is unlimited.
    pub fn startup_deadline(&self) -> Option<Instant> {
        self.parts.startup_deadline
    }

    /// Fires when this worker begins to drain: it takes nothing new and finishes what it has. Long responses
    /// (server-sent events, WebSockets) should then come to an end; at the notice's
    /// [deadline](Token::deadline), `timeouts.graceful` after the order to stop, payload ends them.
    pub fn drain_token(&self) -> Token {
        self.parts.tokens.drain()
    }

    /// Fires when the requests are over and the teardown begins, and when a startup is given up. Its
    /// [deadline](Token::deadline) is that of the whole teardown, `timeouts.cleanup` later.
    pub fn stop_token(&self) -> Token {
        self.parts.tokens.stop()
    }

    /// Declares the service busy, until the value is dropped: it does not leave for idleness, although no client is
    /// connected. A request in flight needs none.
    pub fn busy(&self) -> Busy {
        Busy::at(&self.parts.desk)
    }

    /// The lifecycle events of the whole service: the last ones, and each as it happens.
    pub fn events(&self) -> Events {
        self.parts.outlook.events.clone()
    }

    /// Publishes to all workers of the service, and subscribes to what they publish.
    pub fn messages(&self) -> Messages {
        self.parts.messages.clone()
    }

    /// The whole service as it is now: the arbiter, its workers, their payloads, its sockets, and who has which lease.
    ///
    /// The numbers of the workers are as of this moment. Leases, and the payloads of other workers, are as the arbiter
    /// has told them last: within some tens of milliseconds.
    pub fn service(&self) -> Status {
        (self.parts.outlook.service)()
    }
}

impl<S> Clone for Context<S> {
    fn clone(&self) -> Self {
        Self {
            settings: Arc::clone(&self.settings),
            parts: Arc::clone(&self.parts),
        }
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
            .field("worker", &self.parts.worker)
            .field("slot", &self.parts.slot)
            .field("generation", &self.parts.generation)
            .field("workers", &self.parts.workers)
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
