//! The worker that an app in a test believes to live in, and what else stands around an app.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use super::launch::{launch, until};
use super::scene::Scene;
use super::{NotStarted, TestApp, WORKER};
use crate::app::{App, Context, ContextParts, Count, Desk, Outlook, Tokens};
use crate::body::Body;
use crate::config::{AppSettings, app_settings};
use crate::events::{Events, Level, LifecycleEvent};
use crate::exit::{BoxError, chain};
use crate::kept::{Kept, MOST};
use crate::messages::Messages;
use crate::peer::Peer;
use crate::sys::clock;

/// The worker in which an app is to live: its slot among how many, its generation, the time for its startup. If nothing
/// else is said it is the only worker of a service, in its first generation and without a limit, as
/// [`TestApp::start`] and [`TestApp::load`] have it.
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
    pub(super) generation: u32,
    startup: Option<Duration>,
    /// By the payload's name.
    pub(super) kept: BTreeMap<String, Arc<Kept>>,
    company: Option<Company>,
}

/// What the workers of one service have in common.
#[derive(Clone, Debug)]
struct Company {
    messages: Messages,
    /// The number of the newest one.
    workers: Arc<AtomicU64>,
}

/// What the app shares with the worker around it.
pub(super) struct Around {
    pub(super) place: TestWorker,
    pub(super) number: u64,
    pub(super) workers: Arc<AtomicU64>,
    pub(super) tokens: Tokens,
    pub(super) messages: Messages,
    pub(super) busy: Arc<Counter>,
    pub(super) deadline: Option<Instant>,
    pub(super) events: Events,
    pub(super) scene: Arc<Scene>,
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
            kept: BTreeMap::new(),
            company: None,
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

    /// Its generation: 1 when the service starts, and one more with each reload.
    pub fn generation(mut self, generation: u32) -> Self {
        self.generation = generation;
        self
    }

    /// Gives `load` and the startup up when so much time has passed, as `timeouts.startup` does.
    pub fn startup_timeout(mut self, limit: Duration) -> Self {
        self.startup = Some(limit);
        self
    }

    /// What the last holder of this payload's lease has [kept](crate::PayloadContext::keep).
    ///
    /// # Panics
    /// They cannot be kept: too many bytes, or no memory. And when the app is started, if no payload of it that needs a
    /// lease has this name.
    #[expect(clippy::panic, reason = "a mistake of the test")]
    pub fn kept(mut self, payload: &str, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        assert!(bytes.len() <= MOST, "{} bytes cannot be kept", bytes.len());
        match Kept::write(payload, None, bytes) {
            Ok(kept) => self.kept.insert(payload.to_owned(), Arc::new(kept)),
            Err(error) => panic!("nothing can be kept for '{payload}': {error}"),
        };
        self
    }

    /// Another worker of the service in which `app` lives: what one of them publishes, the subscribers in both hear.
    /// Nothing else connects them. Each is granted its leases whatever the other one has; give them different
    /// [slots](Self::slot).
    ///
    /// ```
    /// use payload::testing::{TestApp, TestWorker};
    /// # use payload::{App, Body};
    /// # let build = || App::builder()
    /// #     .build(payload::service_fn(async |_| Ok(http::Response::new(Body::empty()))));
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// # runtime.block_on(async {
    /// let one = TestWorker::new().workers(2).start(build()).await.unwrap();
    /// let other = TestWorker::new().workers(2).slot(1).beside(&one).start(build()).await.unwrap();
    /// let mut news = other.messages().subscribe("news");
    /// one.messages().publish("news", "it rains").unwrap();
    /// let message = news.recv().await.unwrap();
    /// assert_eq!((message.bytes().as_ref(), message.worker()), ("it rains".as_bytes(), 1));
    /// # });
    /// ```
    pub fn beside(mut self, app: &TestApp) -> Self {
        self.company = Some(Company {
            messages: app.messages.clone(),
            workers: Arc::clone(&app.workers),
        });
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
    /// As [`TestApp::load`], or it took too long.
    pub async fn load<S, L, F, E>(self, settings: S, load: L) -> Result<TestApp, BoxError>
    where
        L: FnOnce(Context<S>) -> F,
        F: Future<Output = Result<App, E>>,
        E: Into<BoxError>,
    {
        self.load_until(settings, load, pending()).await
    }

    /// The same, and gives it up as soon as `stop` resolves, in `load` or in the startup.
    ///
    /// # Errors
    /// As [`load`](Self::load). If the startup was given up, its [`NotStarted::failure`] is
    /// [cancelled](crate::StartFailure::is_cancelled).
    pub async fn load_until<S, L, F, E>(
        self,
        settings: S,
        load: L,
        stop: impl Future<Output = ()>,
    ) -> Result<TestApp, BoxError>
    where
        L: FnOnce(Context<S>) -> F,
        F: Future<Output = Result<App, E>>,
        E: Into<BoxError>,
    {
        let limit = self.startup;
        let around = Around::new(self);
        let mut stop = std::pin::pin!(unconstrained(stop));
        let loaded = tokio::select! {
            biased;
            app = load(around.context(settings)) => app.map_err(Into::into)?,
            () = &mut stop => return Err("load was given up: the worker was told to stop".into()),
            () = until(around.deadline) => {
                let limit = limit.unwrap_or_default();
                return Err(format!("load did not end within {limit:?}").into());
            }
        };
        Ok(launch(loaded, stop, around).await?)
    }
}

/// Of an app in a service of its own.
#[cfg(test)]
pub(crate) fn outlook() -> Outlook {
    Around::new(TestWorker::new()).outlook()
}

impl Around {
    fn new(place: TestWorker) -> Self {
        let (number, messages, workers) = match &place.company {
            None => (
                WORKER,
                Messages::alone(WORKER),
                Arc::new(AtomicU64::new(WORKER)),
            ),
            Some(Company { messages, workers }) => {
                let number = workers.fetch_add(1, Relaxed) + 1;
                (number, messages.beside(number), Arc::clone(workers))
            }
        };
        Self {
            deadline: place
                .startup
                .and_then(|limit| Instant::now().checked_add(limit)),
            number,
            workers,
            tokens: Tokens::default(),
            messages,
            busy: Arc::default(),
            events: Events::default(),
            scene: Arc::new(Scene::new(place.clone(), number)),
            place,
        }
    }

    fn context<S>(&self, settings: S) -> Context<S> {
        let parts = ContextParts {
            worker: self.number,
            slot: self.place.slot,
            generation: self.place.generation,
            workers: u32::from(self.place.workers),
            tokens: self.tokens.clone(),
            startup_deadline: self.deadline,
            desk: self.desk(),
            messages: self.messages.clone(),
            outlook: self.outlook(),
        };
        Context::new(settings, parts)
    }

    pub(super) fn outlook(&self) -> Outlook {
        let (scene, busy) = (Arc::clone(&self.scene), Arc::clone(&self.busy));
        Outlook {
            events: self.events.clone(),
            service: Arc::new(move || scene.status(busy.0.load(Relaxed))),
        }
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

/// A lifecycle event of this name, for [`TestApp::happen`]: of now, about no worker, without fields. Its own fields can
/// be set.
///
/// ```
/// let mut event = payload::testing::event("worker-failed");
/// event.worker = Some(3);
/// event.fields.insert("reason".to_owned(), payload::events::FieldValue::Text("it broke".to_owned()));
/// ```
pub fn event(name: &str) -> LifecycleEvent {
    LifecycleEvent {
        number: 0,
        time: clock::unix_seconds(),
        name: name.to_owned(),
        level: Level::Info,
        message: name.to_owned(),
        worker: None,
        slot: None,
        generation: None,
        pid: None,
        fields: BTreeMap::new(),
    }
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
