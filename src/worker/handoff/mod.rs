//! Connections move between workers, open: their clients notice nothing.
//!
//! The arbiter makes a link between two workers ([`crate::ipc::parcel`] has what is said on it). The one that
//! leaves, or that has too many, gives each HTTP/1.1 connection away in a moment in which nothing is going on
//! (the driver in `connection::http1` knows when), with the bytes that it has read and not answered. Until
//! the heir has answered, the connection is still the giver's, and if the heir does not want it or dies, it is
//! served on here.
//!
//! ```text
//! driver ─ take out of hyper ─ give ─ heir ═════ link ═════ take ─ resume ─ driver
//!   ↑                            │                                (another worker)
//!   └──────── taken back ────────┘
//! ```

mod give;
mod heir;
mod socket;
mod take;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

pub(super) use self::give::{Given, give};
use self::heir::{Heir, Offer};
pub(super) use self::socket::{Socket, Stream};
use self::take::Intake;
use super::server::Shared;
use super::signal::Order;
use crate::ipc::orders::ARBITER;
use crate::ipc::scoreboard::SEATS;

/// How long a worker that has too many connections looks for idle ones.
const REBALANCE: Duration = Duration::from_millis(500);

/// What a worker knows of the others that it gives connections to, or takes them from.
#[derive(Debug, Default)]
pub(super) struct Handoff {
    heirs: Mutex<Vec<Arc<Heir>>>,
    /// Counts the changes for the better: a connection that nobody took is offered again after one.
    epoch: AtomicU32,
    /// How many connections a rebalance may still give.
    surplus: AtomicU32,
    given: AtomicU64,
    taken_back: AtomicU64,
    /// The arbiter keeps no more connections for the service's next life.
    is_full: Arc<AtomicBool>,
    /// The tasks of the links. No drain waits for them: they end with their links.
    tasks: Mutex<JoinSet<()>>,
}

/// What came of a handoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    /// Connections that other workers have taken.
    pub(super) given: u64,
    /// Connections that nobody took.
    pub(super) taken_back: u64,
}

impl Handoff {
    /// Another worker will send connections over this link.
    ///
    /// # Errors
    /// The runtime cannot watch the link.
    pub(super) fn receive(server: &Arc<Shared>, from: u64, link: OwnedFd) -> io::Result<()> {
        let intake = Intake::new(from, link, server.clone())?;
        server.handoff.spawn(intake.run());
        Ok(())
    }

    /// Another worker takes connections over this link: `count` at once, or without a count all of them from
    /// the moment on at which this one leaves.
    ///
    /// # Errors
    /// The runtime cannot watch the link.
    pub(super) fn add_heir(
        server: &Arc<Shared>,
        to: u64,
        seat: u32,
        count: Option<u32>,
        link: OwnedFd,
    ) -> io::Result<()> {
        let seat = usize::try_from(seat).unwrap_or(usize::MAX) % SEATS;
        let handoff = &server.handoff;
        let heir = Heir::new(to, seat, count, link, handoff.is_full.clone())?;
        let hearing = handoff.spawn(heir.clone().hear());
        handoff.heirs().push(heir.clone());
        match count {
            None => {
                handoff.epoch.fetch_add(1, Relaxed);
                server.signal().call();
            }
            Some(count) => {
                handoff.surplus.fetch_add(count, Relaxed);
                server.signal().raise(Order::Rebalance);
                handoff.spawn(rebalance(server.clone(), heir, count, hearing));
            }
        }
        Ok(())
    }

    /// Whether there is anybody to give everything to.
    pub(super) fn has_heirs(&self) -> bool {
        self.heirs()
            .iter()
            .any(|heir| !heir.is_for_balance() && !heir.has_ended())
    }

    /// Whether a connection that is busy now will be closed when it is idle.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Relaxed)
    }

    /// Names the offers that a connection has had when nobody took it.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Relaxed)
    }

    /// Takes one of the connections that are to be given for balance; false: there are none left.
    pub(super) fn reserve(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.surplus.fetch_update(Relaxed, Relaxed, less).is_ok()
    }

    /// Gives back what was reserved for a connection that did not leave after all.
    pub(super) fn unreserve(&self) {
        self.surplus.fetch_add(1, Relaxed);
    }

    pub(super) fn tally(&self) -> Tally {
        Tally {
            given: self.given.load(Relaxed),
            taken_back: self.taken_back.load(Relaxed),
        }
    }

    /// Closes every link. What is not answered by then stays with whoever has it.
    pub(super) async fn end(&self) {
        let mut tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        tasks.shutdown().await;
        self.heirs().clear();
    }

    /// The arbiter, if it keeps connections for the service's next life; else the heir with the fewest connections,
    /// counting those on their way to it. One that was not tried.
    fn choose(&self, server: &Shared, tried: &[u64]) -> Option<Offer> {
        let leaving = server.signal().order() >= Order::HandOff;
        let board = server.meter.board();
        let load = |heir: &Heir| {
            if heir.worker == ARBITER {
                return 0;
            }
            let connections = board.seats[heir.seat].connections.load(Relaxed);
            // Any worker comes after it.
            connections + heir.on_their_way() as u64 + 1
        };
        let heirs = self.heirs();
        let mut fit: Vec<_> = heirs
            .iter()
            .filter(|heir| heir.is_for_balance() != leaving)
            .filter(|heir| !heir.has_ended() && !tried.contains(&heir.worker))
            .map(|heir| (load(heir), heir))
            .collect();
        fit.sort_by_key(|(load, heir)| (*load, heir.worker));
        fit.into_iter().find_map(|(_, heir)| heir.offer())
    }

    fn was_given(&self) {
        self.given.fetch_add(1, Relaxed);
    }

    fn was_taken_back(&self) {
        self.taken_back.fetch_add(1, Relaxed);
    }

    fn forget(&self, heir: &Arc<Heir>) {
        self.heirs().retain(|other| !Arc::ptr_eq(other, heir));
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task)
    }

    fn heirs(&self) -> MutexGuard<'_, Vec<Arc<Heir>>> {
        self.heirs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a rebalance when enough connections were given or time is up, and closes its link when no answer is
/// missing any more.
async fn rebalance(server: Arc<Shared>, heir: Arc<Heir>, count: u32, hearing: AbortHandle) {
    let handoff = &server.handoff;
    tokio::select! {
        () = heir.used_up() => {}
        () = tokio::time::sleep(REBALANCE) => {}
    }
    let unused = heir.end_quota();
    let less = |left: u32| Some(left.saturating_sub(unused));
    let _ = handoff.surplus.fetch_update(Relaxed, Relaxed, less);
    if handoff.surplus.load(Relaxed) == 0 {
        server.signal().serve_on();
    }
    heir.settled().await;
    handoff.forget(&heir);
    hearing.abort();
    tracing::debug!(
        to = heir.worker,
        wanted = count,
        unused,
        "connections were given for balance"
    );
}
