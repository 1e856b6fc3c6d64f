//! Runs an app inside a test, without a process or a socket.
//!
//! A test gives [`TestApp::load`] the factory that `main` gives to [`payload::main`](crate::main), and gets an app that
//! has started up, in the test's own runtime: it answers requests, its payloads run, and at its stop it is torn down.
//!
//! ```
//! use axum::{Router, routing::get};
//! use http::Request;
//! use payload::testing::{self, TestApp};
//! use payload::{App, Body, Context};
//!
//! #[derive(serde::Deserialize)]
//! struct Settings {
//!     greeting: String,
//! }
//!
//! async fn load(context: Context<Settings>) -> payload::Result<App> {
//!     let greeting = context.settings().greeting.clone();
//!     let routes = Router::new().route("/hello", get(async move || greeting));
//!     Ok(App::builder().teardown("flush", async |_| Ok(())).build(routes))
//! }
//!
//! // In a test: #[tokio::test(start_paused = true)]
//! async fn it_greets() {
//!     let settings: Settings = testing::settings("[app]\ngreeting = 'good morning'").unwrap();
//!     let app = TestApp::load(settings, load).await.unwrap();
//!
//!     let request = Request::get("/hello").body(Body::empty()).unwrap();
//!     let response = app.call(request).await.unwrap();
//!     assert!(response.status().is_success());
//!     assert_eq!(testing::body(response).await.unwrap(), "good morning");
//!
//!     let trace = app.trace();
//!     let errors = app.stop().await;
//!     assert!(errors.is_empty(), "something failed on the way out: {errors:?}");
//!     assert!(trace.contains("teardown 'flush' done"));
//! }
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # runtime.block_on(it_greets());
//! ```
//!
//! # Where to find what
//!
//! | | |
//! | --- | --- |
//! | the app's life: the startup and its interruption, requests, connections, the drain, leases, lifecycle events, the stop and its deadline | [`TestApp`] |
//! | where it lives: its slot, how many workers there are, which others, what was kept, how long the startup may take | [`TestWorker`] |
//! | what has happened, and to wait for what will | [`Trace`] |
//! | settings as the service reads them; the body of a response; the peer of a request | [`settings`], [`body`], [`peer`] |
//!
//! # The clock
//!
//! Under `#[tokio::test(start_paused = true)]` (tokio with the features `macros` and `test-util`) limits, deadlines and
//! backoffs pass in no time: tokio moves the clock on to the next timer whenever no task has anything to do. It does so
//! as well when a task waits for something outside of the process, such as a database: a test that needs one lets the
//! clock run.
//!
//! # What is not here
//!
//! [`TestApp::call`] has no HTTP, and nothing of what the worker adds to it: a request reaches the service as the test has
//! made it, and a handler's panic is the test's. Whoever wants to see the bytes, an upgrade, limits and timeouts, or the
//! 500 for a panic, has [`TestApp::connect`]. Nobody ends a worker: `timeouts.…` of the configuration do not hold, the limits
//! of steps and payloads do.

mod connections;
mod launch;
mod scene;
mod trace;
mod worker;

pub use trace::Trace;
pub use worker::{TestWorker, body, event, peer, settings};

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tokio::io::DuplexStream;
use tokio::time::Instant;

use crate::app::leases::Leases;
use crate::app::running::Running;
use crate::app::{App, Context, PayloadFailure, StartFailure, StepError, earlier};
use crate::body::Body;
use crate::events::{Events, LifecycleEvent};
use crate::exit::BoxError;
use crate::lease::Grant;
use crate::messages::Messages;
use crate::peer::Peer;

use connections::Connections;
use launch::Archive;
use worker::Counter;
#[cfg(test)]
pub(crate) use worker::outlook;

/// The number of the first worker.
const WORKER: u64 = 1;

/// An app that runs in this process, on the test's own runtime, and has started up: every startup step has succeeded,
/// its payloads run, and those that need a lease have it.
///
/// Dropping it without [`stop`](Self::stop) aborts its payloads and skips its teardown. It stops once:
///
/// ```compile_fail,E0382
/// # async fn twice(app: payload::testing::TestApp) {
/// app.stop().await;
/// app.stop().await;
/// # }
/// ```
pub struct TestApp {
    running: Running,
    connections: Connections,
    /// When those are cut off that are still open.
    cut_at: Option<Instant>,
    messages: Messages,
    trace: Trace,
    leases: Arc<Leases>,
    archive: Arc<Archive>,
    busy: Arc<Counter>,
    events: Events,
    /// Of the newest event.
    happened: AtomicU64,
    /// The number of the newest worker of this service.
    workers: Arc<AtomicU64>,
    /// How often a lease was granted.
    grants: u64,
}

impl TestApp {
    /// Runs the startup of `app`, as the only worker of a service. Where a test wants the author's own factory with its
    /// settings, it has [`load`](Self::load).
    ///
    /// # Errors
    /// It failed, and what it had started is torn down again.
    pub async fn start(app: App) -> Result<Self, NotStarted> {
        Self::start_until(app, pending()).await
    }

    /// Runs the startup of `app`, and gives it up as soon as `stop` resolves, as a worker does that is told to
    /// stop: a `tokio::time::sleep`, or the receiver of a channel that a step of the app sends to. After the startup
    /// `stop` means nothing any more.
    ///
    /// # Errors
    /// It failed or was given up, and what it had started is torn down again.
    pub async fn start_until(app: App, stop: impl Future<Output = ()>) -> Result<Self, NotStarted> {
        TestWorker::new().start_until(app, stop).await
    }

    /// Calls `load` as a worker does, as the only worker of a service, and runs the startup of its app. `settings` are of
    /// the author's own type, made here or by [`settings`]; [`NoSettings {}`](crate::NoSettings) for a service that has
    /// none.
    ///
    /// # Errors
    /// `load` failed, with its own error; or the startup did, with a [`NotStarted`]:
    ///
    /// ```
    /// use payload::testing::{NotStarted, TestApp};
    /// use payload::{App, Context, NoSettings};
    ///
    /// async fn load(_: Context) -> payload::Result<App> {
    ///     let app = App::builder().startup("open", async |_| Err("no such file".into()));
    ///     Ok(app.build(axum::Router::new()))
    /// }
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// # runtime.block_on(async {
    /// let error = TestApp::load(NoSettings {}, load).await.unwrap_err();
    /// assert_eq!(error.to_string(), "startup step 'open' failed: no such file");
    /// let not_started = error.downcast::<NotStarted>().unwrap();
    /// assert_eq!(not_started.failure().step(), Some("open"));
    /// # });
    /// ```
    pub async fn load<S, L, F, E>(settings: S, load: L) -> Result<Self, BoxError>
    where
        L: FnOnce(Context<S>) -> F,
        F: Future<Output = Result<App, E>>,
        E: Into<BoxError>,
    {
        TestWorker::new().load(settings, load).await
    }

    /// Answers one request, as the app's service does: without a connection, and with the extensions that the request
    /// has. Its body may be any, such as a [`Body`] of a text; [`body`] reads that of the response.
    ///
    /// ```
    /// use axum::extract::Path;
    /// use axum::{Router, routing::{get, post}};
    /// use http::{Request, StatusCode};
    /// use payload::testing::{self, TestApp};
    /// use payload::{App, Body};
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// # runtime.block_on(async {
    /// let routes = Router::new()
    ///     .route("/users/{name}", get(async |Path(name): Path<String>| format!("I am {name}")))
    ///     .route("/echo", post(async |text: String| text));
    /// let app = TestApp::start(App::builder().build(routes)).await.unwrap();
    ///
    /// let request = Request::get("/users/ada").body(Body::empty()).unwrap();
    /// let response = app.call(request).await.unwrap();
    /// assert_eq!(testing::body(response).await.unwrap(), "I am ada");
    ///
    /// let request = Request::post("/echo").body(Body::from("hello")).unwrap();
    /// let response = app.call(request).await.unwrap();
    /// assert_eq!(testing::body(response).await.unwrap(), "hello");
    ///
    /// let request = Request::get("/echo").body(Body::empty()).unwrap();
    /// let response = app.call(request).await.unwrap();
    /// assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    /// # });
    /// ```
    ///
    /// # Errors
    /// The service returned an error instead of a response; a worker answers 500 then.
    pub async fn call<B>(&self, request: Request<B>) -> Result<Response<Body>, BoxError>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let answer = self.running.service().call(request.map(Body::new));
        answer.await
    }

    /// Opens a connection to the app, in memory, and gives back the client's end: for WebSockets and other upgrades, and for
    /// whatever else a test wants to see on the wire. A worker's own server has the other end, with the limits and timeouts
    /// of a service that configures nothing; HTTP/1.1 and HTTP/2 as they come. Any client goes that takes such a stream,
    /// as those of hyper and of tokio-tungstenite do.
    ///
    /// ```
    /// use axum::extract::ws::{WebSocket, WebSocketUpgrade};
    /// use axum::{Router, routing::get};
    /// use futures_util::{SinkExt, StreamExt};
    /// use payload::App;
    /// use payload::testing::TestApp;
    /// use tokio_tungstenite::client_async;
    ///
    /// async fn echo(mut socket: WebSocket) {
    ///     while let Some(Ok(message)) = socket.recv().await {
    ///         let _ = socket.send(message).await;
    ///     }
    /// }
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// # runtime.block_on(async {
    /// let upgrade = async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(echo);
    /// let app = TestApp::start(App::builder().build(Router::new().route("/echo", get(upgrade)))).await.unwrap();
    ///
    /// let (mut socket, _) = client_async("ws://test/echo", app.connect()).await.unwrap();
    /// socket.send("hello".into()).await.unwrap();
    /// assert_eq!(socket.next().await.unwrap().unwrap(), "hello".into());
    ///
    /// drop(socket);
    /// assert!(app.stop().await.is_empty());
    /// # });
    /// ```
    ///
    /// At the drain it goes with it as with a real one: when it is idle it is closed, behind a response otherwise, and HTTP/2
    /// gets GOAWAY; nobody takes it over. An upgraded one is the app's to end, which hears the drain token, and the
    /// client's. The stop waits for those that are still open, to the end of [`drain_within`](Self::drain_within) or for half
    /// of the time of [`stop_within`](Self::stop_within); then their handlers are dropped, a WebSocket gets a close frame with
    /// 1001, and an event stream its end. With neither it waits for ever.
    ///
    /// An app that [wants to know](crate::AppBuilder::with_peer) its peer gets one without an address, and `test` for the
    /// name of the listening socket; [`connect_as`](Self::connect_as) has another.
    ///
    /// # Panics
    /// Outside of a runtime, and without memory for what the server counts.
    pub fn connect(&self) -> DuplexStream {
        self.connect_as(peer(None, "test"))
    }

    /// The same for this [`peer`](fn@peer).
    ///
    /// # Panics
    /// As [`connect`](Self::connect).
    #[expect(clippy::panic, reason = "a mistake of the test")]
    pub fn connect_as(&self, peer: Peer) -> DuplexStream {
        match self.connections.open(self.running.service(), peer) {
            Ok(client) => client,
            Err(error) => panic!("no connection can be made: {error}"),
        }
    }

    /// The app's end of the [messages](crate::Messages) between workers: the test subscribes to what the app publishes,
    /// before it does, and what the test publishes comes to the app's subscribers as from its own worker.
    pub fn messages(&self) -> Messages {
        self.messages.clone()
    }

    /// Has the app hear a lifecycle event, by [`Context::events`](crate::Context::events), as if that had happened in the
    /// service around it. [`event`](fn@event) makes one; its number is given here. The app hears of nothing else: what it
    /// does itself is in the [`trace`](Self::trace).
    pub fn happen(&self, mut event: LifecycleEvent) {
        event.number = self.happened.fetch_add(1, Relaxed) + 1;
        self.events.extend([Arc::new(event)]);
    }

    /// How much the app has declared [busy](crate::Context::busy): a service leaves for idleness only at zero.
    pub fn busy(&self) -> usize {
        self.busy.0.load(Relaxed)
    }

    /// Begins the drain, and returns at once: the drain token fires, drain steps begin, and the payloads are told that stop
    /// before the requests. The app still answers; [`stop`](Self::stop) waits for what has begun here. Without a call,
    /// the stop begins with it.
    pub fn drain(&mut self) {
        self.drain_to(None);
    }

    /// The same, as a worker does that gives the requests so much time: those who hear the notice know it by
    /// [`Token::deadline`](crate::Token::deadline). What is then still open of [connections](Self::connect) is cut off by the
    /// stop; a [call](Self::call) is the test's own to drop.
    pub fn drain_within(&mut self, limit: Duration) {
        self.drain_to(Instant::now().checked_add(limit));
    }

    fn drain_to(&mut self, deadline: Option<Instant>) {
        self.connections.drain();
        self.cut_at = earlier(self.cut_at, deadline);
        self.running.drain(deadline);
    }

    /// Takes a payload's lease back, as the arbiter does when the number of slots changes. The payload stops; when it
    /// has, the [`trace`](Self::trace) says `payload 'name' released`: [`Trace::until`].
    ///
    /// # Panics
    /// No payload of this name needs a lease.
    pub fn revoke(&self, payload: &str) {
        // Whichever grant it is.
        for epoch in 1..=self.grants {
            self.leases.revoke(self.number_of(payload), epoch);
        }
    }

    /// Grants a payload its lease after a [`revoke`](Self::revoke), among so many `slots`, with what it has
    /// [kept](crate::PayloadContext::keep). The first time, that was done when the app was started.
    ///
    /// # Panics
    /// No payload of this name needs a lease.
    pub fn grant(&mut self, payload: &str, slots: u16) {
        self.grants += 1;
        let epoch = self.grants;
        let number = self.number_of(payload);
        let kept = self.archive.of(number);
        self.leases.grant(number, Grant { epoch, slots }, kept);
    }

    /// What the payload has [kept](crate::PayloadContext::keep) for whoever has its lease next.
    ///
    /// # Panics
    /// No payload of this name needs a lease.
    pub fn kept(&self, payload: &str) -> Option<Bytes> {
        let kept = self.archive.of(self.number_of(payload))?;
        kept.bytes().ok()
    }

    #[expect(clippy::panic, reason = "a mistake of the test")]
    fn number_of(&self, payload: &str) -> u32 {
        let payloads = self.leases.payloads();
        let found = payloads.iter().find(|(_, name)| &**name == payload);
        match found {
            Some((number, _)) => *number,
            None => panic!("no payload '{payload}' needs a lease"),
        }
    }

    /// Resolves when a critical payload has ended although nobody told it to. A worker drains then, and fails: it is
    /// among what [`stop`](Self::stop) gives back.
    pub fn failed(&self) -> impl Future<Output = PayloadFailure> + Send + use<> {
        self.running.failed()
    }

    /// Drains, waits for the [connections](Self::connect), stops the payloads and runs the teardown, however long it takes.
    /// Gives back what failed: a critical payload that has ended before it was told to stop, at any time, and then what went
    /// wrong on the way out, in order. Where that is empty, a worker ends well.
    pub async fn stop(self) -> Vec<StepError> {
        self.stop_to(None, None).await
    }

    /// The same with a deadline for all together, as a worker has. Half of the time is the connections'.
    pub async fn stop_within(self, limit: Duration) -> Vec<StepError> {
        let after = |limit| Instant::now().checked_add(limit);
        self.stop_to(after(limit / 2), after(limit)).await
    }

    async fn stop_to(
        mut self,
        cut_at: Option<Instant>,
        deadline: Option<Instant>,
    ) -> Vec<StepError> {
        // Whoever has no connection is told the deadline that there is.
        if self.connections.exist() {
            self.drain_to(cut_at);
        }
        self.connections.end(self.cut_at).await;
        self.running.stop(deadline).await.all_errors()
    }

    /// What has happened so far, and what will: every clone sees the same. Taken before [`stop`](Self::stop), it has the
    /// teardown too.
    pub fn trace(&self) -> Trace {
        self.trace.clone()
    }
}

impl fmt::Debug for TestApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestApp")
            .field("trace", &self.trace)
            .finish_non_exhaustive()
    }
}

/// A startup that failed or was given up.
#[derive(Debug)]
pub struct NotStarted {
    failure: StartFailure,
    trace: Trace,
}

impl NotStarted {
    /// Why, and what went wrong while it was torn down.
    pub fn failure(&self) -> &StartFailure {
        &self.failure
    }

    /// What has happened, the unwinding of what had been started among it.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)
    }
}

impl std::error::Error for NotStarted {}
