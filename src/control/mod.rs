//! The control socket: one line of JSON asks, one line answers.

mod client;
mod open;
mod protocol;
mod server;

pub(crate) use client::{reload, status};
pub(crate) use open::open;
pub(crate) use protocol::{Answer, Command};
pub(crate) use server::{Parts, Server};
