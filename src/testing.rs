//! Runs an app inside a test, without a process or a socket.
//!
//! ```
//! use http::{Request, Response};
//! use payload::testing::TestApp;
//! use payload::{App, Body};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # runtime.block_on(async {
//! let app = App::builder()
//!     .teardown("flush", async |_| Ok(()))
//!     .build(payload::service_fn(async |_| Ok(Response::new(Body::from("hello")))));
//!
//! let app = TestApp::start(app).await.unwrap();
//! let response = app.call(Request::new(Body::empty())).await.unwrap();
//! assert!(response.status().is_success());
//!
//! let trace = app.trace();
//! assert!(app.stop().await.is_empty(), "something failed on the way out");
//! assert!(trace.contains("teardown 'flush' done"));
//! # });
//! ```
//!
//! Under `#[tokio::test(start_paused = true)]` all limits and backoffs pass in no time.
//!
//! [`TestWorker`] says where the app is to live, [`settings`] reads a configuration as the service does, [`TestApp`]
//! drives the life: the startup and its interruption, requests, the drain, the leases, the stop and its deadline.

mod worker;

pub use worker::{TestWorker, body, peer, settings};

use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::app::event::{AppState, Observer, PayloadEvent, ReleaseEvent, StepEvent, StepOutcome};
use crate::app::leases::Leases;
use crate::app::running::Running;
use crate::app::shelf::Custodian;
use crate::app::start::Launch;
use crate::app::{App, Context, PayloadFailure, Stage, StartFailure, StepError};
use crate::body::Body;
use crate::exit::BoxError;
use crate::kept::Kept;
use crate::lease::Grant;
use crate::messages::Messages;
use crate::status::{Arbiter, PayloadState, ServiceState, Status};

#[cfg(test)]
pub(crate) use worker::outlook;
use worker::{Around, Counter};

/// The number of the one worker.
const WORKER: u64 = 1;

/// An app that runs in this process, on the test's own runtime.
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
    messages: Messages,
    trace: Trace,
    leases: Arc<Leases>,
    archive: Arc<Archive>,
    busy: Arc<Counter>,
    /// How often a lease was granted.
    grants: u64,
}

impl TestApp {
    /// Runs the startup of `app`.
    ///
    /// # Errors
    /// It failed, and what it had started is torn down again.
    pub async fn start(app: App) -> Result<Self, NotStarted> {
        Self::start_until(app, pending()).await
    }

    /// Runs the startup of `app`, and gives it up as soon as `stop` resolves, as a worker does that is told to
    /// stop.
    ///
    /// # Errors
    /// It failed or was given up, and what it had started is torn down again.
    pub async fn start_until(app: App, stop: impl Future<Output = ()>) -> Result<Self, NotStarted> {
        TestWorker::new().start_until(app, stop).await
    }

    /// Calls `load` as a worker does, as the only worker of a service, and runs the startup of its app.
    ///
    /// # Errors
    /// `load` failed, or the startup did.
    pub async fn load<S, L, F, E>(settings: S, load: L) -> Result<Self, BoxError>
    where
        L: FnOnce(Context<S>) -> F,
        F: Future<Output = Result<App, E>>,
        E: Into<BoxError>,
    {
        TestWorker::new().load(settings, load).await
    }

    /// Answers one request.
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

    /// What the app publishes, and a way to publish as if it did.
    pub fn messages(&self) -> Messages {
        self.messages.clone()
    }

    /// How much the app has declared [busy](crate::Context::busy): a service leaves for idleness only at zero.
    pub fn busy(&self) -> usize {
        self.busy.0.load(Relaxed)
    }

    /// Begins the drain, and returns at once.
    pub fn drain(&mut self) {
        self.running.drain(None);
    }

    /// The same, as a worker does that gives the requests so much time: those who hear the notice know it by
    /// [`Token::deadline`](crate::Token::deadline). Cutting off what is then still open is the worker's part, and no
    /// worker is here.
    pub fn drain_within(&mut self, limit: Duration) {
        self.running.drain(Instant::now().checked_add(limit));
    }

    /// Takes a payload's lease back, as the arbiter does when the number of slots changes. The payload stops; when it
    /// has, the [`trace`](Self::trace) says `payload 'name' released`.
    ///
    /// # Panics
    /// No payload of this name needs a lease.
    pub fn revoke(&self, payload: &str) {
        // Whichever grant it is.
        for epoch in 1..=self.grants {
            self.leases.revoke(self.number_of(payload), epoch);
        }
    }

    /// Grants it again, with the number of slots that there are now, and with what the payload has
    /// [kept](crate::PayloadContext::keep). When the app is started, every lease is granted, as in a service with one
    /// worker.
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

    /// Resolves when a critical payload has ended although nobody told it to. A worker drains then.
    pub fn failed(&self) -> impl Future<Output = PayloadFailure> + Send + use<> {
        self.running.failed()
    }

    /// Drains, stops the payloads and runs the teardown, however long it takes. What failed, in order.
    pub async fn stop(self) -> Vec<StepError> {
        self.running.stop(None).await.errors
    }

    /// The same with a deadline for all together, as a worker has.
    pub async fn stop_within(self, limit: Duration) -> Vec<StepError> {
        self.running
            .stop(Instant::now().checked_add(limit))
            .await
            .errors
    }

    /// What has happened so far, and what will: every clone sees the same.
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

async fn launch(
    app: App,
    stop: impl Future<Output = ()>,
    around: Around,
) -> Result<TestApp, NotStarted> {
    let (desk, outlook) = (around.desk(), around.outlook());
    let Around {
        place,
        tokens,
        messages,
        busy,
        deadline,
    } = around;
    let trace = Trace::default();
    let cancel = CancellationToken::new();
    let archive = Arc::new(Archive::default());
    let leases = Leases::new(place.slot, u32::from(place.workers)).with_custodian(archive.clone());
    let leases = Arc::new(leases);
    let starting = app.start(Launch {
        cancel: cancel.clone(),
        tokens,
        desk,
        messages: messages.clone(),
        outlook,
        deadline,
        cleanup: None,
        observer: Arc::new(trace.clone()),
        leases: Arc::clone(&leases),
    });
    tokio::pin!(starting);
    let started = tokio::select! {
        biased;
        started = &mut starting => started,
        () = stop => {
            cancel.cancel();
            starting.await
        }
        () = until(deadline) => {
            cancel.cancel();
            starting.await
        }
    };
    match started {
        Ok(running) => {
            let mut app = TestApp {
                running,
                messages,
                trace,
                leases,
                archive,
                busy,
                grants: 0,
            };
            for (_, payload) in app.leases.payloads() {
                app.grant(&payload, place.workers);
            }
            Ok(app)
        }
        Err(failure) => Err(NotStarted { failure, trace }),
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// What payloads have kept, as the arbiter has it.
#[derive(Default)]
struct Archive(Mutex<BTreeMap<u32, Arc<Kept>>>);

impl Archive {
    fn of(&self, payload: u32) -> Option<Arc<Kept>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&payload).cloned()
    }
}

impl Custodian for Archive {
    fn keep(&self, payload: u32, _: u64, kept: &Arc<Kept>) -> io::Result<()> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(payload, kept.clone());
        Ok(())
    }
}

/// A startup that failed or was given up.
#[derive(Debug)]
pub struct NotStarted {
    failure: StartFailure,
    trace: Trace,
}

impl NotStarted {
    /// Why.
    pub fn failure(&self) -> &StartFailure {
        &self.failure
    }

    /// What happened.
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

/// The events of one app's life, one line each, such as `app serving`, `startup 'pool' begun`,
/// `teardown 'pool' done` and `payload 'sampler' restarting: failed: no such file`.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.with(|lines| lines.clone())
    }

    /// Whether this very line is there.
    pub fn contains(&self, line: &str) -> bool {
        self.with(|lines| lines.iter().any(|seen| seen == line))
    }

    fn push(&self, line: String) {
        self.with(|lines| lines.push(line));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<String>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with(|lines| lines.iter().try_for_each(|line| writeln!(f, "{line}")))
    }
}

impl Observer for Trace {
    fn app_state(&self, state: AppState) {
        self.push(format!("app {}", state.name()));
    }

    fn step(&self, event: &StepEvent<'_>) {
        let stage = match event.stage {
            Stage::Startup => "startup",
            Stage::Drain => "drain",
            _ => "teardown",
        };
        let name = event.name;
        self.push(match &event.outcome {
            StepOutcome::Begun => format!("{stage} '{name}' begun"),
            StepOutcome::Done(_) => format!("{stage} '{name}' done"),
            StepOutcome::Failed(_, error) => error.to_string(),
        });
    }

    fn payload(&self, event: &PayloadEvent<'_>) {
        let name = event.name;
        let state = match event.state {
            PayloadState::Waiting => "waiting",
            PayloadState::Running => "running",
            PayloadState::Restarting => "restarting",
            PayloadState::Done => "done",
            PayloadState::Failed => "failed",
        };
        self.push(match event.cause {
            None => format!("payload '{name}' {state}"),
            Some(cause) => format!("payload '{name}' {state}: {cause}"),
        });
    }

    fn released(&self, event: &ReleaseEvent<'_>) {
        self.push(format!("payload '{}' released", event.name));
    }
}

/// What the one worker of a service with nothing around it sees.
fn status() -> Status {
    Status {
        arbiter: Arbiter {
            pid: std::process::id(),
            state: ServiceState::Ready,
            generation: 1,
            uptime: 0.0,
            workers: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            status: String::new(),
            log_drops: 0,
        },
        workers: Vec::new(),
        sockets: Vec::new(),
        leases: Vec::new(),
    }
}
