//! payload: an application server for Rust services under systemd.
//!
//! A service's author writes a factory that builds an [`App`]; [`main`] does the rest. It takes the listening sockets
//! that systemd (or systemfd) has bound, forks workers, builds one app in each, supervises the app's background tasks,
//! tells systemd the truth about all of it, and replaces workers, configuration and binary without dropping a
//! connection.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use payload::{App, Context, Payload, PayloadContext};
//!
//! async fn tick(payload: PayloadContext) -> payload::Result<()> {
//!     let mut minutes = tokio::time::interval(std::time::Duration::from_secs(60));
//!     loop {
//!         tokio::select! {
//!             () = payload.stopped() => return Ok(()),
//!             _ = minutes.tick() => tracing::info!("the payload is alive"),
//!         }
//!     }
//! }
//!
//! async fn load(_: Context) -> payload::Result<App> {
//!     Ok(App::builder()
//!         .step("pool", async |_| Ok(async || Ok(()))) // opened here, closed there
//!         .payload(Payload::restarting("tick", tick))
//!         .build(Router::new().route("/", get(async || "hello\n"))))
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     payload::main(load)
//! }
//! ```
//!
//! # Where to find what
//!
//! | | |
//! | --- | --- |
//! | the service, its command line and exit codes; what runs before the fork | [`main`], [`preload`] |
//! | steps of startup and teardown, state, apps within an app | [`AppBuilder`], [`State`] |
//! | background tasks: policies, scopes, leases, what one leaves to the next | [`Payload`], [`PayloadContext`], [`Scope`] |
//! | settings, the worker's place, the notices of its end and their deadlines | [`Context`], [`Token`] |
//! | messages between workers, lifecycle events | [`Messages`], [`Events`] |
//! | tests of an app, in process | [`testing`] |
//! | the built-in app: a reference for much of this, to run alone or within another app | [`vitals`] |
//!
//! # Four questions
//!
//! | question | answer | see it |
//! | --- | --- | --- |
//! | How often is `load` called, how many apps are there? | Once in every worker process, after the fork, inside that worker's runtime. One app per worker, none in the arbiter. A [`preload`] shares data and is no app. | `status`: LOADS is 1 for each worker |
//! | How long does an app live? | From `load` to the end of its teardown, inside its worker. What was started is torn down on every way out on which the author's code can still run. | `journalctl -u NAME PAYLOAD_EVENT=worker-phase`: each worker's phases, why it came and why it left |
//! | How many start/stop cycles? | At most one of each, by type: an [`App`] becomes a running app, and that becomes a stopped one. | `status`: STARTS and STOPS |
//! | How do worker and app relate? | The worker owns the runtime and keeps it running; a supervisor owns every payload and acts at once when one ends. | `status`: the payloads of each worker |
//!
//! # Cancellation and panics
//!
//! A request's handler is dropped where it waits when its client leaves, or at the drain's deadline. A step is dropped
//! at its limit, a payload after its notice. A panic costs what panicked: the request, the step, the payload, which are
//! reported as failed like any other error. The worker process lives on where it can do without: not without `load`, the
//! steps of its startup and its critical payloads. Then it tears down what was started and ends, and is replaced. Only two
//! destructors that panic at the same time, such as those of two fields of one struct, end the process: Rust has it so.
//!
//! A worker has one thread for the app unless `threads` says more, so what blocks belongs into
//! `tokio::task::spawn_blocking`. A worker that blocks for too long is diagnosed, killed and replaced.
//!
//! Blocking work that has begun cannot be cancelled. At the worker's end it has what is left of `timeouts.cleanup` behind
//! the teardown, and the worker waits for it. What has not ended then is cut off in its middle, its destructors do not
//! run, and the worker fails: "blocking work did not end by the deadline". To know which work that is, await it in a
//! teardown step. What has not begun by then never does, and is dropped.

#![warn(missing_docs)]

mod alone;
pub(crate) mod app;
pub(crate) mod arbiter;
mod author;
pub mod body;
pub(crate) mod cli;
pub(crate) mod config;
pub(crate) mod control;
pub mod events;
mod exit;
pub(crate) mod ipc;
pub(crate) mod kept;
pub(crate) mod lease;
mod lenient;
pub(crate) mod logs;
mod messages;
pub(crate) mod moment;
pub(crate) mod overview;
mod peer;
mod preload;
#[cfg(doctest)]
mod readme;
mod service;
pub(crate) mod sockets;
pub mod status;
pub(crate) mod sys;
pub(crate) mod systemd;
pub mod testing;
mod trouble;
pub mod vitals;
pub(crate) mod worker;

pub(crate) use logs::events::lifecycle;

pub use app::{
    App, AppBuilder, Busy, Context, KeepError, MissingState, Mounted, NoSettings, Payload,
    PayloadContext, PayloadFailure, Result, ServiceFn, Stage, StartFailure, State, StepContext,
    StepError, Token, service_fn,
};
pub use body::Body;
pub use config::duration;
pub use events::{Events, LifecycleEvent};
pub use exit::BoxError;
pub use messages::{Lagged, Message, Messages, PublishError, Subscription};
pub use peer::Peer;
pub use preload::{Preload, preload};
pub use service::main;
pub use status::Scope;
