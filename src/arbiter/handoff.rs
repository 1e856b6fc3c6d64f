//! Links between workers: who may give its connections to whom.
//!
//! A worker that leaves gets links to workers that stay, before it is told to leave. One that has too many
//! connections gets a link for so many. What is sent over a link is the workers' business, see
//! [`crate::ipc::parcel`]; the arbiter keeps neither end.

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
    /// Those that leave were told that nobody takes over.
    closed: bool,
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
        if self.core.state() == ServiceState::Stopping {
            self.close_what_leaves();
            return;
        }
        let serving = self.core.serving_workers().map(|(id, _)| id).collect();
        let new = self.handoff.note_serving(serving);
        if !new.is_empty() {
            self.link_new_heirs(&new);
            self.handoff.look = Some((now + SETTLE, true));
        }
        if let Some(urgent) = self.handoff.take_due(now) {
            let loads = self.loads();
            let moves = self.handoff.balance.look(now, &loads, urgent);
            for Move { from, to, count } in &moves {
                self.link(*from, *to, Some(*count));
            }
            if !moves.is_empty() {
                self.handoff.look = Some((now + REVIEW, true));
            }
        }
    }

    /// A worker that is told to leave while others stay gets links to them first.
    pub(super) fn link_heirs_before(&mut self, worker: WorkerId, order: Order) {
        let stays_up = self.core.state() != ServiceState::Stopping;
        if order != Order::Stop(Level::Graceful) || !stays_up || !self.has_connections(worker) {
            return;
        }
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
        for heir in heirs(candidates.collect()) {
            self.link(worker, heir, None);
        }
    }

    /// Workers that are leaving, and may have lost their heirs, get these.
    fn link_new_heirs(&mut self, heirs: &[WorkerId]) {
        let leaving: Vec<WorkerId> = self.core.leaving_workers().collect();
        for from in leaving {
            for to in heirs.iter().take(MAX_HEIRS) {
                if self.has_connections(from) {
                    self.link(from, *to, None);
                }
            }
        }
    }

    /// The service stops: workers that were leaving before have nobody to give anything to any more.
    fn close_what_leaves(&mut self) {
        if std::mem::replace(&mut self.handoff.closed, true) {
            return;
        }
        self.handoff.look = None;
        let leaving: Vec<WorkerId> = self.core.leaving_workers().collect();
        for worker in leaving {
            self.send(worker, Order::Close);
        }
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

    /// Whether it may have connections: it has accepted.
    fn has_connections(&self, worker: WorkerId) -> bool {
        self.children
            .get(worker)
            .and_then(|child| self.children.seat(child).phase())
            .is_some_and(|phase| matches!(phase, Phase::Serving | Phase::Draining))
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
