//! Links between workers: who may give its connections to whom.
//!
//! A worker that leaves gets links to workers that stay ([`Links`] decides): before it is told to leave, or when it
//! leaves by itself, and again when they leave as well. It waits with its idle connections for that, unless it is
//! told that the service stops; before a restart the arbiter itself is the heir (`store`). One that has too many
//! connections gets a link for so many ([`Balance`] decides). What is sent over a link is the workers' business, see
//! [`crate::ipc::parcel`]; the arbiter keeps neither end.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::balance::{Balance, Load, Move};
use super::core::{Links, Seen, Tie, WorkerId};
use super::seats::Children;
use super::shell::Shell;
use crate::ipc::orders::{Level, Order};
use crate::ipc::parcel::Link;
use crate::moment::Moment;
use crate::status::ServiceState;

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
    links: Links,
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

    /// Takes over who serves now. True: somebody did not before.
    fn note_serving(&mut self, serving: BTreeSet<WorkerId>) -> bool {
        let new = !serving.is_subset(&self.serving);
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
    /// who takes over, and whoever counted on it as an heir has another one. What a lease's holders have kept leaves the
    /// manager's store before somebody goes on from it, unless the manager has no room for a message: who comes after an
    /// arbiter that dies next must not get it back.
    pub(super) fn prepare_for(&mut self, worker: WorkerId, order: Order, now: Moment) {
        if matches!(order, Order::Grant { .. }) {
            self.tend_store(now);
        }
        if order == Order::Stop(Level::Graceful) {
            self.update_links(now);
        }
        if let (Order::Stop(_), Some(why)) = (order, self.core.reason_to_leave(worker)) {
            // Its log does not say it, then.
            let _ = self.send(worker, Order::Because { why });
        }
    }

    fn update_links(&mut self, now: Moment) {
        let serving = self.core.serving_workers().map(|(id, _)| id).collect();
        if self.handoff.note_serving(serving) {
            self.handoff.look = Some((now + SETTLE, true));
        }
        let (core, children) = (&self.core, &self.children);
        let seen = |id| seen(children, id);
        for tie in self.handoff.links.update(core, seen) {
            match tie {
                Tie::Heir { from, to } => self.link(from, to, None),
                Tie::End { from } => {
                    if !(self.core.restarts() && self.link_to_store(from)) {
                        // Its time to leave ends the wait, then.
                        let _ = self.send(from, Order::Close);
                    }
                }
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
}

fn seen(children: &Children, worker: WorkerId) -> Option<Seen> {
    let seat = children.seat(children.get(worker)?);
    Some(Seen {
        phase: seat.phase()?,
        connections: seat.connections.load(Relaxed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_did_not_serve_before_is_new() {
        let set = |ids: &[u64]| ids.iter().copied().map(WorkerId).collect::<BTreeSet<_>>();
        let mut handoff = Handoff::default();
        assert!(handoff.note_serving(set(&[1, 2])));
        assert!(handoff.note_serving(set(&[2, 3])));
        assert!(!handoff.note_serving(set(&[3])));
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
