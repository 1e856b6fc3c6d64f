//! Links between workers: who may give its connections to whom.
//!
//! A worker that leaves gets links to workers that stay: before it is told to leave, or when it leaves by
//! itself, and again when somebody new serves. It waits with its idle connections for that, unless it is told
//! that the service stops; before a restart the arbiter itself is the heir (`store`). One that has too many connections gets a link for so many. What is sent over a link is
//! the workers' business, see [`crate::ipc::parcel`]; the arbiter keeps neither end.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::balance::{Balance, Load, Move};
use super::core::WorkerId;
use super::shell::Shell;
use crate::ipc::orders::{Level, Order};
use crate::ipc::parcel::Link;
use crate::moment::Moment;
use crate::status::ServiceState;
use crate::worker::phase::Phase;

/// More heirs than this share the connections of one worker no better.
const MAX_HEIRS: usize = 8;
/// A new worker has this long for connections that were waiting for it in the backlog.
const SETTLE: Duration = Duration::from_millis(50);
/// When what was moved for balance is looked at: workers try for half a second.
const REVIEW: Duration = Duration::from_millis(750);

/// What the arbiter remembers of it.
#[derive(Debug, Default)]
pub(super) struct Handoff {
    balance: Balance,
    /// The workers that served at the last look.
    serving: BTreeSet<WorkerId>,
    /// The workers that leave and have got links, or were told that nobody takes over.
    told: BTreeSet<WorkerId>,
    /// The service stops, and nobody takes over any more.
    stops: bool,
    /// The next look at the balance, and whether there is a reason for a difference.
    look: Option<(Moment, bool)>,
}

impl Handoff {
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.look.map(|(at, _)| at)
    }

    /// Has the balance looked at, if that is not going to happen anyway.
    pub(super) fn look_at(&mut self, at: Moment) {
        self.look.get_or_insert((at, false));
    }

    /// Takes over who serves now; gives back who did not before.
    fn note_serving(&mut self, serving: BTreeSet<WorkerId>) -> Vec<WorkerId> {
        let new = serving.difference(&self.serving).copied().collect();
        self.serving = serving;
        new
    }

    fn take_due(&mut self, now: Moment) -> Option<bool> {
        self.look
            .take_if(|(at, _)| *at <= now)
            .map(|(_, urgent)| urgent)
    }
}

impl Shell {
    /// After every round of events.
    pub(super) fn hand_on(&mut self, now: Moment) {
        self.update_links(now);
        if self.core.state() == ServiceState::Stopping {
            self.handoff.look = None;
        } else if let Some(urgent) = self.handoff.take_due(now) {
            if self.equipment.store.is_adopting() {
                // The shares of those that have not heard of it yet are on their way.
                self.handoff.look = Some((now + SETTLE, urgent));
            } else {
                self.balance(now, urgent);
            }
        }
        self.tend_store(now);
    }

    /// Before an order goes out. The core counts a worker that is told to stop as leaving by then: it learns first
    /// who takes over, and whoever counted on it as an heir has another one.
    pub(super) fn prepare_for(&mut self, order: Order, now: Moment) {
        if order == Order::Stop(Level::Graceful) {
            self.update_links(now);
        }
    }

    /// Whoever leaves since the last time is told who takes over; whoever serves since then takes over from all
    /// that leave.
    fn update_links(&mut self, now: Moment) {
        let serving = self.core.serving_workers().map(|(id, _)| id).collect();
        let new = self.handoff.note_serving(serving);
        if !new.is_empty() {
            self.handoff.look = Some((now + SETTLE, true));
        }
        for worker in self.leaving() {
            if !self.handoff.told.contains(&worker) {
                self.tell_before_it_leaves(worker);
                continue;
            }
            for heir in new.iter().take(MAX_HEIRS) {
                self.link(worker, *heir, None);
            }
        }
    }

    fn balance(&mut self, now: Moment, urgent: bool) {
        let loads = self.loads();
        let moves = self.handoff.balance.look(now, &loads, urgent);
        for Move { from, to, count } in &moves {
            self.link(*from, *to, Some(*count));
        }
        if !moves.is_empty() {
            self.handoff.look = Some((now + REVIEW, true));
        }
    }

    fn tell_before_it_leaves(&mut self, worker: WorkerId) {
        if self.core.state() == ServiceState::Stopping {
            let keeps = self.core.restarts() && self.may_have_connections(worker);
            if !(keeps && self.link_to_store(worker)) {
                self.send(worker, Order::Close);
            }
        } else if self.may_have_connections(worker) {
            for heir in self.heirs_of(worker) {
                self.link(worker, heir, None);
            }
        }
        let told = &mut self.handoff.told;
        told.insert(worker);
        told.retain(|worker| self.children.get(*worker).is_some());
    }

    /// Every worker on its way out that still serves what it has. When the service begins to stop, all of them
    /// have to be told again.
    fn leaving(&mut self) -> Vec<WorkerId> {
        let stops = self.core.state() == ServiceState::Stopping;
        if stops && !std::mem::replace(&mut self.handoff.stops, true) {
            self.handoff.told.clear();
        }
        let drains = |id| self.phase(id) == Some(Phase::Draining);
        let told_to = self
            .core
            .leaving_workers()
            .filter(|id| self.may_have_connections(*id));
        let by_itself = self
            .children
            .iter()
            .map(|(id, _)| id)
            .filter(|id| drains(*id));
        let all: BTreeSet<WorkerId> = told_to.chain(by_itself).collect();
        all.into_iter().collect()
    }

    fn heirs_of(&self, worker: WorkerId) -> Vec<WorkerId> {
        let slot = self
            .children
            .get(worker)
            .map(|child| self.children.seat(child).slot.load(Relaxed));
        let candidates = self.core.serving_workers().filter(|(id, _)| *id != worker);
        let candidates = candidates.map(|(id, its)| Candidate {
            worker: id,
            is_successor: slot == Some(u32::from(its)),
            connections: self.connections(id),
        });
        heirs(candidates.collect())
    }

    /// One link. Without it the connections stay where they are, or are closed as they would be without a
    /// handoff.
    fn link(&self, from: WorkerId, to: WorkerId, count: Option<u32>) {
        if let Err(error) = self.try_link(from, to, count) {
            tracing::warn!(from = from.0, to = to.0, error = %error, "two workers could not be linked");
        }
    }

    /// The heir is told first, so that it is there when the first connection comes.
    fn try_link(&self, from: WorkerId, to: WorkerId, count: Option<u32>) -> io::Result<()> {
        let reach = |id| {
            let child = self.children.get(id)?;
            Some((child.seat, child.channel.as_ref()?))
        };
        let (Some((_, giver)), Some((seat, heir))) = (reach(from), reach(to)) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let (in_heir, in_giver) = Link::pair()?;
        heir.send_with(&Order::Receive { from: from.0 }, in_heir.as_fd())?;
        let give = Order::Give {
            to: to.0,
            seat: u32::try_from(seat).unwrap_or(u32::MAX),
            count,
        };
        giver.send_with(&give, in_giver.as_fd())
    }

    fn loads(&self) -> Vec<Load> {
        let load = |(worker, _)| {
            let child = self.children.get(worker)?;
            let seat = self.children.seat(child);
            Some(Load {
                worker,
                connections: seat.connections.load(Relaxed),
                given: seat.given.load(Relaxed),
            })
        };
        self.core.serving_workers().filter_map(load).collect()
    }

    fn connections(&self, worker: WorkerId) -> u64 {
        self.children.get(worker).map_or(0, |child| {
            self.children.seat(child).connections.load(Relaxed)
        })
    }

    fn phase(&self, worker: WorkerId) -> Option<Phase> {
        let child = self.children.get(worker)?;
        self.children.seat(child).phase()
    }

    /// Whether it has begun to accept, and has not ended what came of it.
    fn may_have_connections(&self, worker: WorkerId) -> bool {
        matches!(self.phase(worker), Some(Phase::Serving | Phase::Draining))
    }
}

struct Candidate {
    worker: WorkerId,
    /// It has taken over the slot of the worker that leaves.
    is_successor: bool,
    connections: u64,
}

/// The slot's next worker, and those with the fewest connections.
fn heirs(mut candidates: Vec<Candidate>) -> Vec<WorkerId> {
    candidates.sort_by_key(|one| (!one.is_successor, one.connections, one.worker));
    let workers = candidates.into_iter().map(|one| one.worker);
    workers.take(MAX_HEIRS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heirs_are_the_successor_and_those_with_the_fewest_connections() {
        let candidates = (1..=20)
            .map(|worker| Candidate {
                worker: WorkerId(worker),
                is_successor: worker == 13,
                connections: 100 - worker,
            })
            .collect();
        let heirs: Vec<u64> = heirs(candidates).into_iter().map(|id| id.0).collect();
        assert_eq!(heirs, [13, 20, 19, 18, 17, 16, 15, 14]);
    }

    #[test]
    fn only_who_did_not_serve_before_is_new() {
        let set = |ids: &[u64]| ids.iter().copied().map(WorkerId).collect::<BTreeSet<_>>();
        let mut handoff = Handoff::default();
        assert_eq!(handoff.note_serving(set(&[1, 2])), [1, 2].map(WorkerId));
        assert_eq!(handoff.note_serving(set(&[2, 3])), [WorkerId(3)]);
        assert_eq!(handoff.note_serving(set(&[3])), []);
    }

    #[test]
    fn an_urgent_look_is_not_put_off_by_the_regular_one() {
        let at = |millis| Moment::default() + Duration::from_millis(millis);
        let mut handoff = Handoff {
            look: Some((at(50), true)),
            ..Handoff::default()
        };
        handoff.look_at(at(2_000));
        assert_eq!(handoff.poll_timeout(), Some(at(50)));
        assert_eq!(handoff.take_due(at(49)), None);
        assert_eq!(handoff.take_due(at(50)), Some(true));
        assert_eq!(handoff.poll_timeout(), None);
    }
}
