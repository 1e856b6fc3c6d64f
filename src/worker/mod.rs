//! A forked child: one runtime, one app.
//!
//! Two threads at least. The *keeper* is the process's first thread: it hears the arbiter and the signals,
//! and ends the process when its deadlines have passed, whatever the app does. The app's runtime has a
//! thread of its own, with fresh thread-local state, so that random generators which were used before the
//! fork are not shared between siblings; `fastrand`'s, which would seed itself by the time, is seeded from the kernel.

mod accept;
mod balance;
mod connection;
mod gate;
mod handoff;
mod keeper;
mod life;
mod observer;
mod panics;
pub(crate) mod phase;
mod post;
mod reporter;
mod reports;
mod room;
mod runtime;
mod server;
mod signal;
mod stages;
mod tasks;
#[cfg(test)]
mod testing;
mod view;
mod wake;
mod wish;

use std::os::fd::OwnedFd;
use std::sync::Arc;

pub(crate) use server::Server;

use crate::app::{App, Context};
use crate::config::Config;
use crate::exit::{BoxError, ExitCode};
use crate::ipc::bulletin::Briefing;
use crate::ipc::channel::Channel;
use crate::ipc::scoreboard::Meter;
use crate::sockets::Listener;
use crate::{logs, sys};

/// What a worker gets from the arbiter that forked it.
pub(crate) struct Start {
    pub(crate) worker: u64,
    pub(crate) slot: u16,
    pub(crate) generation: u32,
    /// Why it was forked, in one word.
    pub(crate) cause: &'static str,
    /// How many workers the service has.
    pub(crate) workers: u32,
    /// The arbiter's pid.
    pub(crate) arbiter: u32,
    pub(crate) channel: Channel,
    /// Where messages of other workers come.
    pub(crate) mailbox: OwnedFd,
    /// The other workers' mailboxes, to write to.
    pub(crate) peers: Vec<(u64, OwnedFd)>,
    /// The service's claim to its leases. Held for as long as this process lives: its payloads may run to the very end.
    pub(crate) claims: Vec<OwnedFd>,
    pub(crate) meter: Meter,
    pub(crate) config: Arc<Config>,
    pub(crate) listeners: Arc<[Listener]>,
    pub(crate) briefing: Briefing,
    /// The service's name.
    pub(crate) name: Arc<str>,
}

/// What builds the app, with the author's settings inside.
pub(crate) type Load<S> = Box<dyn FnOnce(Context<S>) -> Loading + Send>;
/// A running `load`.
pub(crate) type Loading = std::pin::Pin<Box<dyn Future<Output = Result<App, BoxError>> + Send>>;

/// Lives a worker's whole life in this process, which has one thread: the one that forked.
pub(crate) fn run<S: Send + Sync + 'static>(
    mut start: Start,
    settings: S,
    load: Load<S>,
) -> ExitCode {
    std::mem::forget(std::mem::take(&mut start.claims));
    let Start {
        worker,
        slot,
        generation,
        ..
    } = start;
    let identity = logs::become_worker(worker, u32::from(slot), generation);
    panics::log();
    sys::process::set_short_name(&format!("{} w{slot}", start.name));
    sys::title::set(&format!("{}: worker {slot} g{generation}", start.name));
    let prepared = identity
        .and_then(|()| sys::process::follow_parent(start.arbiter))
        .and_then(|()| install_diagnosis(&start.meter));
    if let Err(error) = prepared {
        tracing::error!(error = %error, "the worker cannot start");
        return ExitCode::Os;
    }
    keeper::keep(start, settings, load)
}

fn install_diagnosis(meter: &Meter) -> std::io::Result<()> {
    sys::diagnosis::install(meter.traces())
}
