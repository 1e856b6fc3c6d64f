//! The whole service as this worker sees it: the scoreboard, and what the arbiter tells.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use super::observer::{Declared, Observed};
use super::stages::now;
use crate::events::Events;
use crate::ipc::bulletin::{Briefing, Bulletin, Known};
use crate::ipc::reading;
use crate::ipc::scoreboard::Meter;
use crate::sockets::{self, Listener};
use crate::status::{Status, Worker};

/// One for each worker. The keeper puts news in, from its own thread.
pub(super) struct View {
    meter: Meter,
    listeners: Arc<[Listener]>,
    known: Mutex<Known>,
    events: Events,
}

impl View {
    pub(super) fn new(briefing: Briefing, meter: Meter, listeners: Arc<[Listener]>) -> Self {
        Self {
            meter,
            listeners,
            known: Mutex::new(briefing.known),
            events: Events::new(briefing.events),
        }
    }

    /// Takes over what the arbiter tells.
    pub(super) fn hear(&self, bulletin: Bulletin) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let events = known.apply(bulletin);
        drop(known);
        // Who is woken by them looks at what is known.
        self.events.extend(events.into_iter().map(Arc::new));
    }

    pub(super) fn events(&self) -> Events {
        self.events.clone()
    }

    /// As it is now. `observed` knows this worker's own payloads sooner than the arbiter does.
    pub(super) fn status(&self, observed: &Observed) -> Status {
        let own = (self.meter.seat().worker.load(Relaxed), observed.payloads());
        let (board, at) = (self.meter.board(), now());
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = board.seats.iter();
        let mut workers: Vec<Worker> = taken
            .filter_map(|seat| {
                let worker = seat.worker.load(Relaxed);
                let (names, scopes) = payloads(&known, &own, worker);
                (worker != 0).then(|| reading::worker(seat, names, scopes, at))
            })
            .collect();
        workers.sort_by_key(|worker| (worker.slot, worker.pid));
        let mut arbiter = reading::arbiter(&board.header, at);
        arbiter.status.clone_from(&known.line);
        Status {
            arbiter,
            workers,
            sockets: self
                .listeners
                .iter()
                .map(sockets::Listener::shown)
                .collect(),
            leases: known.leases(at),
        }
    }
}

fn payloads<'a>(
    known: &'a Known,
    (own, declared): &'a (u64, Declared),
    worker: u64,
) -> (&'a [String], &'a [crate::status::Scope]) {
    if worker == *own {
        return (&declared.0, &declared.1);
    }
    match known.payloads.get(&worker) {
        Some(declared) => (&declared.names, &declared.scopes),
        None => (&[], &[]),
    }
}
