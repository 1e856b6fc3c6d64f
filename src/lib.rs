//! payload: an application server for Rust services under systemd.

pub(crate) mod config;
pub(crate) mod app;
pub mod body;
mod exit;
pub(crate) mod ipc;
pub(crate) mod moment;
pub(crate) mod sockets;
pub mod status;
pub(crate) mod sys;
pub(crate) mod vitals;
pub(crate) mod worker;
