//! Which worker sits where on the scoreboard, and the arbiter's end of each worker's channel.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};

use super::core::WorkerId;
use crate::ipc::channel::Channel;
use crate::ipc::scoreboard::{SEATS, Scoreboard, Seat};
use crate::messages::Tally;
use crate::moment::Moment;
use crate::status::Scope;

/// The arbiter's side of one worker.
pub(super) struct Child {
    pub(super) pid: u32,
    pub(super) seat: usize,
    /// `None` when the worker has closed its end.
    pub(super) channel: Option<Channel>,
    /// The end of its mailbox that others write to; `None` if it is of an image that knows no messages.
    pub(super) mailbox: Option<OwnedFd>,
    pub(super) payloads: Vec<String>,
    /// In the same order.
    pub(super) scopes: Vec<Scope>,
    /// Workers of which it has still to be told.
    pub(super) unmet: BTreeSet<WorkerId>,
    /// Messages that it will not get, since their publishers are gone: it has still to be told.
    pub(super) unsent: Tally,
    /// It has said what is not known here.
    pub(super) is_strange: bool,
}

impl Child {
    /// Name and slot of a payload's lease. `None`: it has no such payload, or that needs none.
    pub(super) fn lease_of(&self, payload: u32, slot: Option<u32>) -> Option<(&str, Option<u32>)> {
        let index = usize::try_from(payload).ok()?;
        let slot = match self.scopes.get(index)? {
            Scope::Worker => return None,
            Scope::Slot => Some(slot?),
            Scope::Service => None,
        };
        Some((self.payloads.get(index)?, slot))
    }
}

/// All workers that have not been reaped.
pub(super) struct Children {
    pub(super) board: Scoreboard,
    by_id: BTreeMap<WorkerId, Child>,
    /// What workers had accepted that are gone.
    accepted_before: u64,
}

impl Children {
    pub(super) fn new(board: Scoreboard) -> Self {
        Self {
            board,
            by_id: BTreeMap::new(),
            accepted_before: 0,
        }
    }

    /// A seat nobody sits on, made ready for a new worker.
    pub(super) fn take_seat(
        &self,
        worker: WorkerId,
        slot: u16,
        generation: u32,
        restarts: u32,
    ) -> Option<usize> {
        let index = (0..SEATS).find(|index| self.board.seats[*index].worker.load(Relaxed) == 0)?;
        let seat = &self.board.seats[index];
        seat.clear();
        self.board.traces[index].clear();
        // What waits anywhere was for the one who sat here before.
        for other in &self.board.seats {
            other.set_unsent(index, false);
        }
        seat.slot.store(u32::from(slot), Relaxed);
        seat.generation.store(generation, Relaxed);
        seat.restarts.store(restarts, Relaxed);
        seat.worker.store(worker.0, Relaxed);
        // Behind its seat: who reads it looks for that.
        self.board.header.youngest.store(worker.0, Release);
        Some(index)
    }

    pub(super) fn give_back(&self, seat: usize) {
        self.board.seats[seat % SEATS].clear();
    }

    /// One that sat there before this image took over.
    pub(super) fn adopt(&mut self, worker: WorkerId, child: Child) {
        self.by_id.insert(worker, child);
    }

    pub(super) fn add(&mut self, worker: WorkerId, child: Child) {
        self.seat(&child).pid.store(child.pid, Relaxed);
        self.by_id.insert(worker, child);
    }

    /// The worker with this pid is gone; its seat is free again.
    pub(super) fn remove(&mut self, worker: WorkerId) -> Option<Child> {
        let child = self.by_id.remove(&worker)?;
        let seat = &self.board.seats[child.seat % SEATS];
        self.accepted_before += seat.accepted.load(Relaxed);
        // One that leaves in good order tells how many, and is not marked any more.
        for other in self.by_id.values_mut() {
            if seat.has_unsent(other.seat) {
                other.unsent.add_unknown();
            }
        }
        self.give_back(child.seat);
        Some(child)
    }

    pub(super) fn get_mut(&mut self, worker: WorkerId) -> Option<&mut Child> {
        self.by_id.get_mut(&worker)
    }

    pub(super) fn get(&self, worker: WorkerId) -> Option<&Child> {
        self.by_id.get(&worker)
    }

    /// `None`: a process that is none of ours.
    pub(super) fn by_pid(&self, pid: u32) -> Option<WorkerId> {
        self.iter()
            .find(|(_, child)| child.pid == pid)
            .map(|(id, _)| id)
    }

    /// Everybody's mailbox, for a worker that has just been forked: in its process, this is no arbiter any more.
    pub(super) fn take_mailboxes(&mut self) -> Vec<(u64, OwnedFd)> {
        let mailbox = |(id, child): (&WorkerId, &mut Child)| Some((id.0, child.mailbox.take()?));
        self.by_id.iter_mut().filter_map(mailbox).collect()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (WorkerId, &mut Child)> {
        self.by_id.iter_mut().map(|(id, child)| (*id, child))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Child)> {
        self.by_id.iter().map(|(id, child)| (*id, child))
    }

    pub(super) fn seat(&self, child: &Child) -> &Seat {
        &self.board.seats[child.seat % SEATS]
    }

    /// The slot that it fills.
    pub(super) fn slot_of(&self, worker: WorkerId) -> Option<u32> {
        let child = self.get(worker)?;
        Some(self.seat(child).slot.load(Relaxed))
    }

    pub(super) fn beats(&self) -> Vec<(WorkerId, Moment)> {
        self.iter()
            .map(|(id, child)| (id, self.seat(child).last_beat()))
            .collect()
    }

    pub(super) fn connections(&self) -> u64 {
        self.sum(|seat| &seat.connections)
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.sum(|seat| &seat.in_flight)
    }

    pub(super) fn busy(&self) -> u64 {
        self.sum(|seat| &seat.busy)
    }

    /// In this image's life; it never falls.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted_before + self.sum(|seat| &seat.accepted)
    }

    fn sum(&self, field: fn(&Seat) -> &AtomicU64) -> u64 {
        self.iter()
            .map(|(_, child)| field(self.seat(child)).load(Relaxed))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::scoreboard;

    /// Who publishes looks for its seat when the number has risen.
    #[test]
    fn who_takes_a_seat_is_the_youngest_and_stays_it() {
        let children = Children::new(scoreboard::create().unwrap());
        let board = &children.board;
        let youngest = || board.header.youngest.load(Relaxed);
        assert_eq!(youngest(), 0);
        for number in [1, 2, 7] {
            let seat = children.take_seat(WorkerId(number), 0, 1, 0).unwrap();
            assert_eq!(youngest(), number);
            assert_eq!(board.seats[seat].worker.load(Relaxed), number);
        }
        // It was forked in vain: no other one gets its number.
        children.give_back(2);
        assert_eq!(youngest(), 7);
    }

    /// Whoever has something for the one before may be frozen, and never learn that he has gone.
    #[test]
    fn nobody_has_anything_yet_for_who_takes_a_seat() {
        let children = Children::new(scoreboard::create().unwrap());
        let first = children.take_seat(WorkerId(1), 0, 1, 0).unwrap();
        let other = children.take_seat(WorkerId(2), 1, 1, 0).unwrap();
        children.board.seats[other].set_unsent(first, true);
        children.give_back(first);
        assert_eq!(children.take_seat(WorkerId(3), 0, 1, 0), Some(first));
        assert!(!children.board.seats[other].has_unsent(first));
    }
}
