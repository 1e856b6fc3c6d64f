//! The whole service as this worker sees it: the scoreboard, and what the arbiter tells.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::observer::{Declared, Observed};
use super::stages::now;
use crate::events::Events;
use crate::ipc::bulletin::{Briefing, Bulletin, Known};
use crate::ipc::failures::Failures;
use crate::ipc::reading;
use crate::ipc::scoreboard::Meter;
use crate::sockets::{self, Listener};
use crate::status::{Status, Worker};
use crate::sys;

/// One for each worker. The keeper puts news in, from its own thread.
pub(super) struct View {
    meter: Meter,
    listeners: Arc<[Listener]>,
    known: Mutex<Known>,
    failures: Mutex<Failures>,
    events: Events,
}

impl View {
    pub(super) fn new(briefing: Briefing, meter: Meter, listeners: Arc<[Listener]>) -> Self {
        Self {
            meter,
            listeners,
            failures: Mutex::new(briefing.events.after(0).iter().map(Arc::as_ref).collect()),
            known: Mutex::new(briefing.known),
            events: Events::new(briefing.events),
        }
    }

    /// Takes over what the arbiter tells.
    pub(super) fn hear(&self, bulletin: Bulletin) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let names_workers = !bulletin.payloads.is_empty();
        let events = known.apply(bulletin);
        if names_workers {
            self.forget_the_gone(&mut known);
        }
        drop(known);
        let mut failures = self.failures();
        events.iter().for_each(|event| failures.note(event));
        drop(failures);
        // Who is woken by them looks at what is known.
        self.events.extend(events.into_iter().map(Arc::new));
    }

    /// Nobody says when a worker is gone: it has no seat any more. One that has payloads to tell of has one.
    fn forget_the_gone(&self, known: &mut Known) {
        let seats = self.meter.board().seats.iter();
        let seated: BTreeSet<u64> = seats.map(|seat| seat.worker.load(Relaxed)).collect();
        known.payloads.retain(|worker, _| seated.contains(worker));
        self.failures().keep_only(|worker| seated.contains(&worker));
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn events(&self) -> Events {
        self.events.clone()
    }

    /// As it is now. `observed` knows this worker's own payloads sooner than the arbiter does.
    pub(super) fn status(&self, observed: &Observed) -> Status {
        let own = (self.meter.seat().worker.load(Relaxed), observed.payloads());
        let (board, at) = (self.meter.board(), now());
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (failures, time) = (self.failures(), sys::clock::unix_seconds());
        let taken = board.seats.iter();
        let mut workers: Vec<Worker> = taken
            .filter_map(|seat| {
                let worker = seat.worker.load(Relaxed);
                let (names, scopes) = payloads(&known, &own, worker);
                (worker != 0).then(|| {
                    let mut seen = reading::worker(seat, names, scopes, at);
                    failures.tell(&mut seen, time);
                    seen
                })
            })
            .collect();
        drop(failures);
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
        return (&declared.names, &declared.scopes);
    }
    match known.payloads.get(&worker) {
        Some(declared) => (&declared.names, &declared.scopes),
        None => (&[], &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::bulletin::Declared;
    use crate::ipc::scoreboard;

    #[test]
    fn the_payloads_of_workers_that_are_gone_are_forgotten() {
        let board = scoreboard::create().unwrap();
        let meter = Meter::new(board.clone(), 0);
        let view = View::new(Briefing::default(), meter, Arc::new([]));
        let hear = |worker: u64| {
            let declared = Declared {
                worker,
                names: vec!["p".to_owned()],
                scopes: Vec::new(),
            };
            view.hear(Bulletin {
                payloads: vec![declared],
                ..Bulletin::default()
            });
        };
        for worker in 1..=100 {
            let seat = &board.seats[usize::try_from(worker).unwrap() % 2];
            seat.worker.store(worker, Relaxed);
            hear(worker);
        }
        let known = view.known.lock().unwrap();
        let workers: Vec<u64> = known.payloads.keys().copied().collect();
        assert_eq!(workers, [99, 100]);
    }
}
