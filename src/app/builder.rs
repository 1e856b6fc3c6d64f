//! How an author puts an app together.

use std::any::type_name;
use std::collections::HashSet;
use std::fmt;
use std::iter::once;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;

use super::mount::{Mount, Prefix, twice};
use super::payload::Payload;
use super::service::Service;
use super::state::{State, Values};
use super::step::{Action, Entry, Item, Step, StepContext};
use crate::body::Body;
use crate::exit::BoxError;
use crate::status::{PAYLOAD_NAME, PAYLOADS};

/// Characters of a name that is too long, where that is said.
const SHOWN: usize = 40;

/// What `load` returns: an HTTP service, the steps of its startup and teardown, and its payloads.
///
/// One app lives in one worker. It starts and stops at most once, and nothing can be added after it was built; this
/// does not compile:
///
/// ```compile_fail,E0599
/// let app = payload::App::builder().build(axum::Router::new());
/// app.startup("too late", async |_| Ok(()));
/// ```
#[must_use = "an app does nothing until it is returned from `load`"]
pub struct App {
    /// Answers every request: with the services of all members.
    pub(super) service: Service,
    /// This app itself, number 0, and those that are mounted in it, in the order of their mounting, each before those
    /// that are mounted in it.
    pub(super) members: Vec<Member>,
    /// Of all members.
    pub(super) entries: Vec<Entry>,
    /// What is wrong with it. Known now, said when it is started, so that building needs no error type.
    pub(super) faults: Vec<String>,
}

/// An app, or one that is mounted in it.
pub(super) struct Member {
    /// From the outermost app: `/admin/metrics`. That one's own is empty.
    pub(super) path: String,
    pub(super) state: State,
    /// Its own, without those that are mounted in it.
    pub(super) service: Service,
}

impl Member {
    /// As what it has that belongs to no step is called: `app`, or `/admin: app`.
    pub(super) fn name(&self) -> Arc<str> {
        match &*self.path {
            "" => "app".into(),
            path => format!("{path}: app").into(),
        }
    }
}

impl App {
    /// Begins an app.
    pub fn builder() -> AppBuilder {
        AppBuilder::default()
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("entries", &self.entries.len())
            .field("members", &self.members.len())
            .finish_non_exhaustive()
    }
}

/// Collects what an app consists of.
///
/// Everything that is registered goes into one list. The startup runs through it in order; the teardown runs
/// through what was started in reverse order. So a thing may rely on everything that was registered before it,
/// from its first moment to its last, with one exception: payloads that stop before the requests have drained
/// ([`Payload::stop_before_requests`], and those that need a lease) are told when the drain begins, all at the same
/// moment, and stop while what was registered behind them still works. What needs such a payload to its last moment
/// has it stop [after the requests](Payload::stop_after_requests).
///
/// - No request is served before the whole startup has succeeded.
/// - When a step fails, panics or overruns its limit, or the worker is told to stop meanwhile, the steps before
///   it are torn down and the step's own teardown does not run. The step is dropped where it waits, so what it
///   holds should clean up after itself when dropped.
/// - In the teardown each step is attempted, whatever the others do.
///
/// ```
/// use std::time::Duration;
/// use payload::{App, Payload};
///
/// # struct Pool;
/// # impl Pool {
/// #     async fn connect() -> payload::Result<Pool> { Ok(Pool) }
/// #     async fn close(self) -> payload::Result<()> { Ok(()) }
/// # }
/// let app = App::builder()
///     .startup("warm cache", async |_| Ok(()))
///     .step("pool", async |_| {
///         let pool = Pool::connect().await?;
///         Ok(async move || pool.close().await)
///     })
///     .timeout(Duration::from_secs(10))
///     .payload(Payload::new("sampler", |context| async move {
///         context.stopped().await;
///         Ok(())
///     }))
///     .build(axum::Router::new());
/// ```
#[derive(Default)]
#[must_use = "finish it with AppBuilder::build"]
pub struct AppBuilder {
    values: Values,
    entries: Vec<Entry>,
    mounts: Vec<Mount>,
    mounted: Vec<Member>,
    faults: Vec<String>,
    wants_peer: bool,
}

impl AppBuilder {
    /// Shares one value of type `T` with steps, payloads and request handlers; see [`State`]. A second value of
    /// the same type makes the startup fail.
    ///
    /// It gets an `Arc` of its own, so it needs none: an `Arc<T>` is found as `Arc<T>` only, in another `Arc`.
    ///
    /// The values are dropped at the very end, the last one first. One whose drop panics makes the teardown fail, and is
    /// in no other one's way.
    pub fn state<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        if !self.values.add(value) {
            self.state_twice(type_name::<T>());
        }
        self
    }

    /// Adds code that runs before the first request.
    pub fn startup<F, Fut>(self, name: impl Into<String>, code: F) -> Self
    where
        F: FnOnce(StepContext) -> Fut + Send + 'static,
        Fut: Future<Output = super::Result<()>> + Send + 'static,
    {
        self.add(name.into(), Action::startup(code))
    }

    /// Adds code that runs after the last request, if the startup came this far.
    pub fn teardown<F, Fut>(self, name: impl Into<String>, code: F) -> Self
    where
        F: FnOnce(StepContext) -> Fut + Send + 'static,
        Fut: Future<Output = super::Result<()>> + Send + 'static,
    {
        self.add(name.into(), Action::teardown(code))
    }

    /// Adds a startup and its teardown: what `code` resolves to is the code for afterwards. When `code` fails
    /// there is nothing to tear down.
    ///
    /// The code for afterwards may use the context that `code` was given; its
    /// [`deadline`](StepContext::deadline) is that of the half that runs:
    ///
    /// ```
    /// # struct Pool;
    /// # impl Pool {
    /// #     async fn connect() -> payload::Result<Pool> { Ok(Pool) }
    /// #     async fn close(self, by: Option<tokio::time::Instant>) -> payload::Result<()> { Ok(()) }
    /// # }
    /// payload::App::builder().step("pool", async |step| {
    ///     let pool = Pool::connect().await?;
    ///     Ok(async move || pool.close(step.deadline()).await)
    /// });
    /// ```
    pub fn step<F, Fut, T, TFut>(self, name: impl Into<String>, code: F) -> Self
    where
        F: FnOnce(StepContext) -> Fut + Send + 'static,
        Fut: Future<Output = super::Result<T>> + Send + 'static,
        T: FnOnce() -> TFut + Send + 'static,
        TFut: Future<Output = super::Result<()>> + Send + 'static,
    {
        self.add(name.into(), Action::pair(code))
    }

    /// Adds code that runs when the drain begins, while requests are still being finished. All of these run at
    /// the same time; the teardown begins when they have ended. In a quick stop each has begun before the requests
    /// are cut off: what it does before it first waits, such as a last word to streams, comes in time.
    pub fn on_drain<F, Fut>(self, name: impl Into<String>, code: F) -> Self
    where
        F: FnOnce(StepContext) -> Fut + Send + 'static,
        Fut: Future<Output = super::Result<()>> + Send + 'static,
    {
        self.add(name.into(), Action::drain(code))
    }

    /// Limits the step that was registered just before; both halves of a [`step`](Self::step), each on its own. Zero lets it
    /// go on only as far as it comes without waiting.
    /// Without it a step is limited by the worker's deadlines for the whole startup and teardown. A payload has
    /// [`Payload::stop_timeout`] instead.
    pub fn timeout(mut self, limit: Duration) -> Self {
        match self.entries.last_mut() {
            Some(Entry { of: 1.., .. }) => self.faults.push(format!(
                "timeout({limit:?}) follows a mounted app and limits nothing: put it behind the step in that app"
            )),
            Some(Entry {
                item: Item::Step(step),
                ..
            }) => step.limit = Some(limit),
            Some(Entry {
                item: Item::Payload(payload),
                ..
            }) => self.faults.push(format!(
                "timeout({limit:?}) follows payload '{}' and limits nothing: use Payload::stop_timeout",
                payload.name
            )),
            None => self.faults.push(format!(
                "timeout({limit:?}) follows no step: put it behind the one it limits"
            )),
        }
        self
    }

    /// Adds a background task, started at this place of the startup, or later where it has to wait for a lease. Two
    /// payloads that need a lease cannot have the same name, since that is what the lease goes by.
    ///
    /// A name has at most 128 bytes, with the path of its app where that is [mounted](Self::mount): it stands in every record
    /// about the payload.
    ///
    /// An app has at most 32 of them, those of the apps that are mounted in it among them; with more its startup fails.
    /// One payload can run as many tasks as it likes, in a `tokio::task::JoinSet`.
    pub fn payload(mut self, mut payload: Payload) -> Self {
        self.faults.extend(payload.fault.take());
        self.entries.push(Entry {
            of: 0,
            item: Item::Payload(payload),
        });
        self
    }

    /// Has every request carry a [`Peer`](crate::Peer) as an extension: who sent it, and on which socket it came.
    /// Not so by default, since extensions cost a request that has none three allocations.
    pub fn with_peer(mut self) -> Self {
        self.wants_peer = true;
        self
    }

    /// Mounts a finished app under a path: it answers the requests below that path, and it lives with this one.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use payload::{App, Payload};
    ///
    /// fn admin() -> App {
    ///     App::builder()
    ///         .step("audit log", async |_| Ok(async || Ok(())))
    ///         .build(Router::new().route("/users", get(async || "nobody")))
    /// }
    ///
    /// let app = App::builder()
    ///     .mount("/admin", admin())
    ///     .build(Router::new().route("/", get(async || "hello")));
    /// ```
    ///
    /// **Lifecycle.** Its steps and payloads take this place in the one list: they start when everything that was
    /// registered before the mount has started, and are torn down before that. Logs, errors and `payload status` name
    /// them with the path: `/admin: audit log`. It has its own [state](Self::state): what is to be shared with it, it
    /// is given when it is built.
    ///
    /// **Requests.** A request belongs to the mount with the longest path that it begins with, segment by segment:
    /// `/admin` takes `/admin`, `/admin/` and `/admin/users`, not `/administrator`. That mount's app sees the path
    /// without it (`/`, `/`, `/users`), with the query as it is; [`Mounted`](crate::Mounted), an extension of such a
    /// request, has the rest. No other service sees the request, nor does its middleware: this app's own service
    /// answers what no mount takes, `OPTIONS *` and `CONNECT` among that. Paths are compared byte by byte:
    /// `/%61dmin` and `/x/../admin` do not belong to `/admin`.
    ///
    /// A path begins with a slash and does not end with one, and has no parameters; two apps on the same path, and a
    /// path that cannot be, make the startup fail.
    pub fn mount(mut self, path: impl Into<String>, app: App) -> Self {
        let path = path.into();
        let App {
            service,
            members,
            entries,
            faults,
        } = app;
        let faults = faults.into_iter().map(|fault| format!("{path}: {fault}"));
        self.faults.extend(faults);
        let first = self.mounted.len() + 1;
        self.entries.extend(entries.into_iter().map(|entry| Entry {
            of: first + entry.of,
            item: entry.item.under(&path, entry.of == 0),
        }));
        self.mounted
            .extend(members.into_iter().map(|member| Member {
                path: format!("{path}{}", member.path),
                ..member
            }));
        self.wants_peer |= service.wants_peer();
        match Prefix::new(path) {
            Ok(prefix) => self.mounts.push(Mount { prefix, service }),
            Err(fault) => self.faults.push(fault),
        }
        self
    }

    /// Finishes the app with its HTTP service: any `tower` service over `http` types, such as an
    /// `axum::Router` or [`service_fn`](crate::service_fn).
    ///
    /// Every request is answered by a clone of it. A service that is not `Sync` becomes one by
    /// `tower::util::BoxCloneSyncService`.
    pub fn build<S, B>(self, service: S) -> App
    where
        S: tower_service::Service<Request<Body>, Response = Response<B>>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let state = State::new(self.values);
        let mut faults = self.faults;
        faults.extend(doubles(&self.entries));
        faults.extend(too_many(&self.entries));
        faults.extend(too_long(&self.entries));
        faults.extend(twice(self.mounted.iter().map(|member| &*member.path)));
        let own = Member {
            path: String::new(),
            service: Service::with_state(service, &state),
            state,
        };
        App {
            service: own
                .service
                .clone()
                .with_mounts(self.mounts)
                .with_peer(self.wants_peer),
            members: once(own).chain(self.mounted).collect(),
            entries: self.entries,
            faults,
        }
    }

    fn add(mut self, name: String, action: Action) -> Self {
        self.entries.push(Entry {
            of: 0,
            item: Item::Step(Step {
                name: name.into(),
                limit: None,
                action,
            }),
        });
        self
    }

    fn state_twice(&mut self, name: &str) {
        self.faults.push(format!(
            "state of type {name} was registered twice: register one value of each type"
        ));
    }
}

/// A lease is known by its payload's name.
fn doubles(entries: &[Entry]) -> impl Iterator<Item = String> {
    let mut seen = HashSet::new();
    let leased = entries.iter().filter_map(|entry| match &entry.item {
        Item::Payload(payload) if payload.needs_lease() => Some(&payload.name),
        _ => None,
    });
    leased.filter(move |name| !seen.insert(*name)).map(|name| {
        format!("two payloads that need a lease are called '{name}': give each a name of its own")
    })
}

/// Each has a place on the scoreboard, where everybody sees its state.
fn too_many(entries: &[Entry]) -> Option<String> {
    let payloads = entries
        .iter()
        .filter(|entry| matches!(entry.item, Item::Payload(_)))
        .count();
    (payloads > PAYLOADS).then(|| {
        format!(
            "{payloads} payloads are too many, {PAYLOADS} is the limit: run several tasks in one, in a JoinSet"
        )
    })
}

/// The arbiter is told all names in one message.
fn too_long(entries: &[Entry]) -> impl Iterator<Item = String> {
    let names = entries.iter().filter_map(|entry| match &entry.item {
        Item::Payload(payload) => Some(&payload.name),
        _ => None,
    });
    names.filter(|name| name.len() > PAYLOAD_NAME).map(|name| {
        let (short, length): (String, _) = (name.chars().take(SHOWN).collect(), name.len());
        format!(
            "the name of payload '{short}…' has {length} bytes, {PAYLOAD_NAME} is the limit: give it a shorter one"
        )
    })
}

impl fmt::Debug for AppBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppBuilder")
            .field("entries", &self.entries.len())
            .field("values", &self.values.len())
            .finish_non_exhaustive()
    }
}
