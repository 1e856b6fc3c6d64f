//! payload: an application server for Rust services under systemd.

pub(crate) mod app;
#[doc(hidden)]
pub mod bench;
pub mod body;
pub(crate) mod config;
mod exit;
pub(crate) mod ipc;
pub(crate) mod moment;
mod peer;
pub(crate) mod sockets;
pub mod status;
pub(crate) mod sys;
pub(crate) mod worker;
