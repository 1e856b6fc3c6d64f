//! The control socket: one line of JSON asks, one line answers.

mod client;
mod protocol;
mod server;

pub(crate) use client::ask;
pub(crate) use protocol::{Answer, Command};
pub(crate) use server::Server;
