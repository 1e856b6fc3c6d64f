//! Connections outlive a restart of the service in the manager's file descriptor store.
//!
//! ```text
//! SIGUSR2 ─ workers ══ parcels ══ keep ─ store ─ (exit) … (start) ─ leftover ─ adoption ══ parcels ══ workers
//!                                  └── ledger ──┘
//! ```
//!
//! 1. What is in the store belongs to no process: its bytes are in the ledger, and nobody reads its socket.
//! 2. It stays there until workers serve, so that a start that fails loses nothing; then it leaves the store before
//!    the first of it is served.
//!    What payloads have kept goes the same way: it is in the store and here until then.
//! 3. Where the store does not take a connection, its worker closes it as at any stop.

mod adopt;
mod closing;
mod estate;
mod keep;
mod ledger;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::epoll::Epoll;

use self::adopt::{Adoption, Leftover};
use self::closing::Closing;
use self::estate::Estate;
use self::keep::{Keep, Room};
use super::core::WorkerId;
use super::journal;
use super::shell::{Shell, now};
use crate::exit::{ExitCode, Failure};
use crate::ipc::orders::{ARBITER, Order};
use crate::ipc::parcel::Link;
use crate::moment::Moment;
use crate::sockets::activation::Stored;
use crate::sockets::{Origin, Passed};
use crate::status::ServiceState;
use crate::systemd::fd_store::Name;

/// When something is tried again that nobody tells the return of.
const AGAIN: Duration = Duration::from_millis(5);
/// The same for answers where nothing can be received.
const DEAF: Duration = Duration::from_secs(1);
/// A manager of 254 or newer that stores nothing says so by leaving FDSTORE out, as an older one does that may store.
/// It has this long to close the first check.
const DOUBT: Duration = Duration::from_millis(50);
/// How long the end of the service waits for a manager that has not taken everything.
const PATIENCE: Duration = Duration::from_secs(5);

/// The arbiter's side of the store.
#[derive(Default)]
pub(crate) struct Store {
    leftover: Option<Leftover>,
    adoption: Option<Adoption>,
    keep: Option<Keep>,
    closing: Closing,
}

impl Store {
    /// With what has come back from it. Only a worker that serves can take that over.
    pub(crate) fn new(stored: Vec<Stored>) -> Self {
        Self {
            leftover: (!stored.is_empty()).then(|| Leftover::new(stored)),
            ..Self::default()
        }
    }

    /// A manager that has passed listeners before does so again, or its socket unit was changed and not restarted.
    /// Then clients still come to the old socket, and no address of our own could take its place.
    ///
    /// # Errors
    /// Exit 78, with the cure.
    pub(crate) fn check_listeners(&self, passed: &Passed) -> Result<(), Failure> {
        let expected = self.leftover.as_ref().is_some_and(|left| left.passed);
        if expected && passed.fds.is_empty() {
            return Err(Failure::new(
                ExitCode::Config,
                "connections came back from the file descriptor store, and no listening socket with them: the .socket \
                 unit was changed and does not pass its socket any more; stop the service, restart its .socket unit, \
                 start the service",
            ));
        }
        Ok(())
    }

    /// What payloads of the last life have kept, the newest first.
    pub(super) fn take_kept(&mut self) -> Vec<OwnedFd> {
        let left = self.leftover.as_mut();
        left.map_or_else(Vec::new, |left| std::mem::take(&mut left.kept))
    }

    /// Connections of the last life are not all with a worker: no other image could go on with that.
    pub(super) fn is_adopting(&self) -> bool {
        self.adoption.is_some()
    }

    /// How many connections are in the store for the next life; `None`: none are to be.
    pub(super) fn kept(&self) -> Option<usize> {
        self.keep.as_ref().map(Keep::kept)
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        let keep = self.keep.as_ref().and_then(Keep::poll_timeout);
        let adoption = self.adoption.as_ref().and_then(Adoption::poll_timeout);
        let due = [keep, adoption, self.closing.poll_timeout()];
        due.into_iter().flatten().min()
    }

    /// How much the manager's store holds of the life before, and the last number among its names. Of what is on its
    /// way out nothing is left before anything is put there.
    fn used(&self) -> (usize, u32) {
        self.leftover.as_ref().map_or((0, 0), |left| {
            let last = left.names.iter().map(Name::number).max();
            (left.count, last.unwrap_or(0))
        })
    }

    /// Puts there what is to be kept, once what has come back is out of it: the same names may be used again, and what is
    /// put there before would be taken out with them.
    fn fill(&mut self, now: Moment, epoll: &Epoll) {
        let adoption = self.adoption.as_ref();
        let is_clear = adoption.is_none_or(Adoption::has_left_the_store);
        if let Some(keep) = self.keep.as_mut().filter(|_| is_clear) {
            keep.pump(now, epoll, &mut self.closing);
        }
    }
}

impl Shell {
    /// After every round of events, and before a lease is granted.
    pub(super) fn tend_store(&mut self, now: Moment) {
        match self.core.state() {
            ServiceState::Booting => {}
            ServiceState::Stopping => self.give_up_adoption(now),
            _ => self.adopt_leftover(now),
        }
        let store = &mut self.equipment.store;
        store.fill(now, &self.epoll);
        store.closing.tick(now);
    }

    /// Makes the arbiter the heir of a worker that is about to be told to leave. False: there is no store, and the
    /// worker is to close its connections.
    pub(super) fn link_to_store(&mut self, worker: WorkerId) -> bool {
        let linked = self
            .open_store()
            .and_then(|there_is| Ok(there_is && self.try_link_to_store(worker)?));
        linked.unwrap_or_else(|error| {
            tracing::warn!(from = worker.0, error = %error, "a worker's connections cannot be kept over the restart");
            false
        })
    }

    /// No worker is left. What is in the store is all that is kept.
    pub(super) fn settle_store(&mut self) {
        let end = now() + PATIENCE;
        self.give_up_adoption(now());
        let store = &mut self.equipment.store;
        if let Some(keep) = &mut store.keep {
            let outcome = keep.finish(PATIENCE, now, &self.epoll, &mut store.closing);
            journal::kept(outcome.kept, outcome.closed, outcome.why);
        }
        self.settle_deposits(end);
        self.equipment.store.closing.finish();
    }

    /// What payloads have kept is in the store, or lost.
    fn settle_deposits(&mut self, end: Moment) {
        let count = self.deposits.iter().count();
        if self.equipment.store.leftover.is_some() || count == 0 {
            // It never left the store: nobody could have got it.
            return;
        }
        let stored = self.store_deposits(end).unwrap_or_else(|error| {
            tracing::warn!(error = %error, "what payloads have kept cannot be put into the file descriptor store");
            0
        });
        journal::deposits_stored(stored, count - stored);
    }

    fn store_deposits(&self, end: Moment) -> io::Result<usize> {
        let manager = &self.equipment.manager;
        let Some(line) = manager.line()? else {
            return Ok(0);
        };
        let adoption = self.equipment.store.adoption.as_ref();
        let outdated = adoption.map_or_else(Vec::new, Adoption::kept_names);
        let last = outdated.iter().map(Name::number).max().unwrap_or(0);
        let mut estate = Estate {
            line: &line,
            doubtful: manager.fd_store_max().is_none(),
            last,
            end,
            clock: now,
        };
        let kept: Vec<_> = self.deposits.iter().map(AsFd::as_fd).collect();
        estate.store(&outdated, &kept)
    }

    /// False: there is no manager.
    fn open_store(&mut self) -> io::Result<bool> {
        let equipment = &mut self.equipment;
        if equipment.store.keep.is_some() {
            return Ok(true);
        }
        let Some(line) = equipment.manager.line()? else {
            return Ok(false);
        };
        let (used, last) = equipment.store.used();
        let room = Room {
            most: equipment.manager.fd_store_max(),
            // What payloads have kept has its place in any case.
            used: used + self.core.deposits(),
            last,
        };
        let mut listeners = equipment.listeners.iter();
        let passed = listeners.any(|listener| listener.origin == Origin::Passed);
        equipment.store.keep = Some(Keep::new(line, room, passed, &self.epoll)?);
        Ok(true)
    }

    fn try_link_to_store(&mut self, worker: WorkerId) -> io::Result<bool> {
        let child = self.children.get(worker);
        let giver = child.and_then(|child| child.channel.as_ref());
        let (Some(giver), Some(keep)) = (giver, &mut self.equipment.store.keep) else {
            return Ok(false);
        };
        let (ours, theirs) = Link::pair()?;
        let give = Order::Give {
            to: ARBITER,
            seat: 0,
            count: None,
        };
        giver.send_with(&give, theirs.as_fd())?;
        keep.add(ours, &self.epoll)?;
        Ok(true)
    }

    /// Workers serve: they get what the last life has left.
    fn adopt_leftover(&mut self, now: Moment) {
        if let Some(leftover) = self.equipment.store.leftover.take() {
            let line = self.equipment.manager.line().unwrap_or_else(|error| {
                tracing::warn!(error = %error, "the file descriptor store cannot be emptied");
                None
            });
            self.equipment.store.adoption = Some(Adoption::new(leftover, line));
        }
        self.pump_adoption(now);
        // Nobody has a link yet, or whoever had one has left it.
        let wanting = self.equipment.store.adoption.as_ref();
        if wanting.is_some_and(Adoption::wants_heirs) {
            self.link_from_store();
            self.pump_adoption(now);
        }
    }

    fn pump_adoption(&mut self, now: Moment) {
        let store = &mut self.equipment.store;
        let Some(adoption) = &mut store.adoption else {
            return;
        };
        adoption.pump(now, &mut store.closing);
        if adoption.is_done() {
            if adoption.adopted + adoption.closed > 0 {
                journal::adopted(adoption.adopted, adoption.closed);
            }
            store.adoption = None;
        }
    }

    /// Every worker that serves gets a link; without one the connections wait for the next that does.
    fn link_from_store(&mut self) {
        let Some(adoption) = &mut self.equipment.store.adoption else {
            return;
        };
        for (worker, _) in self.core.serving_workers() {
            let child = self.children.get(worker);
            let Some(heir) = child.and_then(|child| child.channel.as_ref()) else {
                continue;
            };
            let linked = Link::pair().and_then(|(theirs, ours)| {
                heir.send_with(&Order::Receive { from: ARBITER }, theirs.as_fd())?;
                adoption.add(ours, &self.epoll)
            });
            if let Err(error) = linked {
                tracing::warn!(to = worker.0, error = %error, "a worker gets no connections of the last run");
            }
        }
    }

    /// The service stops before all of it was taken over. What is in the store still may stay there; the rest goes
    /// back if the service comes back, or is closed.
    fn give_up_adoption(&mut self, now: Moment) {
        self.pump_adoption(now);
        let adoption = self.equipment.store.adoption.as_ref();
        if !adoption.is_some_and(Adoption::has_left_the_store) {
            return;
        }
        let there_is = self.core.restarts() && self.open_store().unwrap_or(false);
        let store = &mut self.equipment.store;
        let Some(adoption) = &mut store.adoption else {
            return;
        };
        for (parcel, socket) in adoption.take_waiting() {
            match &mut store.keep {
                Some(keep) if there_is => keep.take(parcel, socket),
                _ => {
                    adoption.closed += 1;
                    store.closing.add(socket, now);
                }
            }
        }
        self.pump_adoption(self::now());
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::epoll::EpollCreateFlags;

    use super::*;
    use crate::systemd::fd_store::fake::Manager;

    #[test]
    fn nothing_is_put_there_before_what_has_come_back_is_out_of_it() {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let mut store = Store::new(vec![Stored {
            name: Name::Ledger(1),
            fd: std::io::pipe().unwrap().0.into(),
        }]);
        // The manager hears nothing of the one, and at once of the other: as when its queue has room in between.
        let (mut deaf, line) = Manager::new(9);
        while line.remove(&Name::Check).unwrap() {}
        let leftover = store.leftover.take().unwrap();
        store.adoption = Some(Adoption::new(leftover, Some(line)));
        let (mut manager, line) = Manager::new(9);
        let room = Room {
            most: Some(9),
            used: 0,
            last: 0,
        };
        store.keep = Some(Keep::new(line, room, true, &epoll).unwrap());
        let now = Moment::default();
        let mut turn = || {
            if let Some(adoption) = &mut store.adoption {
                adoption.pump(now, &mut store.closing);
            }
            store.fill(now, &epoll);
            manager.work();
            manager.names().len()
        };
        assert_eq!(turn(), 0);
        deaf.work();
        assert_ne!(turn(), 0, "its ledger");
    }
}
