//! What an author builds and how it lives: an HTTP service, lifecycle steps and payloads in one list, started
//! in order and torn down last-in first-out. Knows no process.
//!
//! An app's life is three types: an [`App`] is built, [`App::start`] makes it a [`Running`](running::Running),
//! [`Running::stop`](running::Running::stop) consumes that. So it starts and stops at most once, and nothing can
//! be registered after it was built.

pub(crate) mod act;
mod budget;
mod builder;
mod busy;
mod context;
mod error;
pub(crate) mod event;
#[cfg(doctest)]
mod frozen;
pub(crate) mod leases;
mod mount;
mod payload;
pub(crate) mod running;
pub(crate) mod service;
pub(crate) mod shelf;
mod stack;
pub(crate) mod start;
mod state;
mod step;
mod supervisor;
mod token;

pub use builder::{App, AppBuilder};
pub use busy::Busy;
pub(crate) use busy::{Count, Desk};
pub use context::{Context, NoSettings};
pub(crate) use context::{ContextParts, Outlook};
pub use error::{PayloadFailure, Stage, StartFailure, StepError};
pub use mount::Mounted;
pub use payload::{Payload, PayloadContext};
pub use service::{ServiceFn, service_fn};
pub use shelf::KeepError;
pub use state::{MissingState, State};
pub use step::StepContext;
pub use token::Token;
pub(crate) use token::{Tokens, earlier};

/// What the author's code returns: any error will do.
pub type Result<T> = std::result::Result<T, crate::exit::BoxError>;
