//! The worker that an app in a test believes to live in, and what else stands around an app.

use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::{NotStarted, TestApp, WORKER, launch, status};
use crate::app::{App, Context, ContextParts, Count, Desk, Outlook, Tokens};
use crate::body::Body;
use crate::config::{AppSettings, app_settings};
use crate::events::Events;
use crate::exit::{BoxError, chain};
use crate::messages::Messages;
use crate::peer::Peer;

/// Where an app is to live: its slot among how many, its generation, its time for the startup. Without more it is the
/// only worker of a service, in its first generation and without a limit, as [`TestApp::start`] has it.
///
/// ```
/// use payload::testing::TestWorker;
/// use payload::{App, Context, NoSettings};
///
/// async fn load(context: Context) -> payload::Result<App> {
///     let share = format!("{} of {}", context.slot(), context.workers());
///     let service = payload::service_fn(move |_| {
///         let share = share.clone();
///         async move { Ok(http::Response::new(payload::Body::from(share))) }
///     });
///     Ok(App::builder().build(service))
/// }
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// # runtime.block_on(async {
/// let worker = TestWorker::new().slot(1).workers(3);
/// let app = worker.load(NoSettings {}, load).await.unwrap();
/// let answer = app.call(http::Request::new(payload::Body::empty())).await.unwrap();
/// assert_eq!(payload::testing::body(answer).await.unwrap(), "1 of 3");
/// # });
/// ```
#[derive(Clone, Debug)]
#[must_use = "an app has to be started in it"]
pub struct TestWorker {
    pub(super) slot: u32,
    pub(super) workers: u16,
    generation: u32,
    startup: Option<Duration>,
}

/// What the app shares with the worker around it.
pub(super) struct Around {
    pub(super) place: TestWorker,
    pub(super) tokens: Tokens,
    pub(super) messages: Messages,
    pub(super) busy: Arc<Counter>,
    pub(super) deadline: Option<Instant>,
}

/// How many [`Busy`](crate::Busy) there are.
#[derive(Debug, Default)]
pub(super) struct Counter(pub(super) AtomicUsize);

impl Default for TestWorker {
    fn default() -> Self {
        Self {
            slot: 0,
            workers: 1,
            generation: 1,
            startup: None,
        }
    }
}

impl TestWorker {
    /// The only worker of a service, in its first generation.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its slot, `0..workers`.
    pub fn slot(mut self, slot: u32) -> Self {
        self.slot = slot;
        self
    }

    /// How many workers the service has. Leases are granted with as many slots.
    pub fn workers(mut self, workers: u16) -> Self {
        self.workers = workers;
        self
    }

    /// As after so many reloads, less one.
    pub fn generation(mut self, generation: u32) -> Self {
        self.generation = generation;
        self
    }

    /// Gives `load` and the startup up when so much time has passed, as `timeouts.startup` does.
    pub fn startup_timeout(mut self, limit: Duration) -> Self {
        self.startup = Some(limit);
        self
    }

    /// Runs the startup of `app`.
    ///
    /// # Errors
    /// As [`TestApp::start`], or it was given up by the [timeout](Self::startup_timeout).
    pub async fn start(self, app: App) -> Result<TestApp, NotStarted> {
        self.start_until(app, pending()).await
    }

    /// The same, and gives it up as soon as `stop` resolves.
    ///
    /// # Errors
    /// As [`TestApp::start_until`].
    pub async fn start_until(
        self,
        app: App,
        stop: impl Future<Output = ()>,
    ) -> Result<TestApp, NotStarted> {
        launch(app, stop, Around::new(self)).await
    }

    /// Calls `load` as a worker does, and runs the startup of its app.
    ///
    /// # Errors
    /// `load` failed or took too long, or the startup did.
    pub async fn load<S, L, F, E>(self, settings: S, load: L) -> Result<TestApp, BoxError>
    where
        L: FnOnce(Context<S>) -> F,
        F: Future<Output = Result<App, E>>,
        E: Into<BoxError>,
    {
        let limit = self.startup;
        let around = Around::new(self);
        let loading = load(around.context(settings));
        let app = match around.deadline {
            None => loading.await,
            Some(deadline) => timeout_at(deadline, loading)
                .await
                .map_err(|_| format!("load did not end within {:?}", limit.unwrap_or_default()))?,
        };
        let app = app.map_err(Into::into)?;
        Ok(launch(app, pending(), around).await?)
    }
}

/// Nothing happens in a service with nothing around it.
pub(crate) fn outlook() -> Outlook {
    Outlook {
        events: Events::default(),
        service: Arc::new(status),
    }
}

impl Around {
    fn new(place: TestWorker) -> Self {
        Self {
            deadline: place
                .startup
                .and_then(|limit| Instant::now().checked_add(limit)),
            place,
            tokens: Tokens::default(),
            messages: Messages::alone(WORKER),
            busy: Arc::default(),
        }
    }

    fn context<S>(&self, settings: S) -> Context<S> {
        Context::new(ContextParts {
            settings,
            worker: WORKER,
            slot: self.place.slot,
            generation: self.place.generation,
            workers: u32::from(self.place.workers),
            tokens: self.tokens.clone(),
            startup_deadline: self.deadline,
            desk: self.desk(),
            messages: self.messages.clone(),
            outlook: self.outlook(),
        })
    }

    pub(super) fn outlook(&self) -> Outlook {
        outlook()
    }

    pub(super) fn desk(&self) -> Desk {
        Desk::new(Arc::clone(&self.busy))
    }
}

impl Count for Arc<Counter> {
    fn up(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn down(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The author's settings, of the text of a configuration file, exactly as the service and its `check` read them.
///
/// ```
/// #[derive(Debug, serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Settings {
///     greeting: String,
/// }
///
/// let settings: Settings = payload::testing::settings("[app]\ngreeting = 'hello'").unwrap();
/// assert_eq!(settings.greeting, "hello");
/// let wrong = payload::testing::settings::<Settings>("[app]\ngreting = 'hello'").unwrap_err();
/// assert!(wrong.to_string().contains("did you mean 'app.greeting'?"), "{wrong}");
/// ```
///
/// # Errors
/// What `check` would say about `[app]`, with line and column. The other tables are not looked at.
pub fn settings<S: DeserializeOwned>(text: &str) -> Result<S, BoxError> {
    let source = (PathBuf::from("the text"), text.to_owned());
    let settings = AppSettings {
        table: toml::Table::new(),
        source: Some(source),
    };
    app_settings(&settings).map_err(|failure| chain(&failure).into())
}

/// The whole body of a response, however it comes.
///
/// # Errors
/// The app's own stream failed.
pub async fn body(response: Response<Body>) -> Result<Bytes, BoxError> {
    Ok(response.into_body().collect().await?.to_bytes())
}

/// What an app [that wants it](crate::AppBuilder::with_peer) finds among a request's extensions: who asks, `None` over
/// a Unix socket, and the name of the listening socket.
///
/// ```
/// let mut request = http::Request::new(payload::Body::empty());
/// let peer = payload::testing::peer(Some(([192, 0, 2, 1], 443).into()), "http");
/// request.extensions_mut().insert(peer);
/// ```
pub fn peer(address: Option<SocketAddr>, listener: &str) -> Peer {
    Peer::new(address, listener.into())
}
