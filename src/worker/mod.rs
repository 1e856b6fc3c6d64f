//! A forked child: one runtime, one app.

mod accept;
mod connection;
pub(crate) mod phase;
pub(crate) mod server;
mod signal;
mod tasks;
#[cfg(test)]
mod testing;
