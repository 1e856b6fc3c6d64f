//! payload: an application server for Rust services under systemd.

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
pub(crate) mod logs;
mod messages;
pub(crate) mod moment;
pub(crate) mod overview;
mod peer;
mod preload;
mod service;
pub(crate) mod sockets;
pub mod status;
pub(crate) mod sys;
pub(crate) mod systemd;
pub mod testing;
#[doc(hidden)]
pub mod vitals;
pub(crate) mod worker;

pub use app::{
    App, AppBuilder, Busy, Context, KeepError, MissingState, NoSettings, Payload, PayloadContext,
    PayloadFailure, Result, ServiceFn, Stage, StartFailure, State, StepContext, StepError, Token,
    service_fn,
};
pub use body::Body;
pub use events::{Events, LifecycleEvent};
pub use exit::BoxError;
pub use messages::{Lagged, Message, Messages, PublishError, Subscription};
pub use peer::Peer;
pub use preload::{Preload, preload};
pub use service::main;
pub use status::Scope;
