//! payload: an application server for Rust services under systemd.

pub(crate) mod app;
pub(crate) mod arbiter;
pub mod body;
pub(crate) mod cli;
pub(crate) mod config;
mod exit;
pub(crate) mod ipc;
pub(crate) mod logs;
pub(crate) mod moment;
mod peer;
pub(crate) mod sockets;
pub mod status;
pub(crate) mod sys;
pub(crate) mod systemd;
pub mod testing;
pub(crate) mod vitals;
pub(crate) mod worker;

pub use app::{
    App, AppBuilder, Context, MissingState, NoSettings, Payload, PayloadContext, PayloadFailure,
    Result, ServiceFn, Stage, StartFailure, State, StepContext, StepError, Token, service_fn,
};
pub use body::Body;
pub use exit::BoxError;

/// Runs the service: what an author's `main` calls.
pub fn main<S, L, F, E>(load: L) -> std::process::ExitCode
where
    L: Fn(Context<S>) -> F + 'static,
    F: Future<Output = std::result::Result<App, E>> + Send + 'static,
    S: serde::de::DeserializeOwned + Send + Sync + 'static,
    E: Into<BoxError>,
{
    drop(load);
    std::process::ExitCode::from(70)
}
