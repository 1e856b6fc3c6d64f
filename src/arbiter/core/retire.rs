//! Filling slots and replacing healthy workers: always prepare first, then retire.

use super::actions::{Action, Cause, Notice};
use super::reload::Reload;
use super::roster::{Ending, Slot, WorkerId};
use super::{Core, MAX_SLOTS, Moment};
use crate::ipc::orders::{Level, Order, Recycle, Why};
use crate::worker::phase::Phase;

impl Core {
    /// Forks for every slot that has nobody and whose wait is over.
    pub(super) fn refill(&mut self, now: Moment) {
        if self.suspends_forks() {
            return;
        }
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            slot.retry_at = slot.retry_at.filter(|at| *at > now);
            if slot.serving.is_none() && slot.incoming.is_none() && slot.retry_at.is_none() {
                let cause = slot.cause;
                self.fork(now, index, cause);
            }
        }
    }

    /// Lets prepared workers serve: the first time all together, later each for itself.
    pub(super) fn serve_prepared(&mut self, now: Moment) {
        let mut slots = self.slots.iter();
        let all = slots.all(|slot| slot.serving.is_some() || self.prepared(slot).is_some());
        if !self.was_ready && !all {
            return;
        }
        let slots = self.slots.iter().filter(|slot| !self.waits_to_share(slot));
        let ready: Vec<WorkerId> = slots.filter_map(|slot| self.prepared(slot)).collect();
        for id in ready {
            if let Some(worker) = self.workers.get_mut(&id)
                && worker.serve_sent.is_none()
            {
                worker.serve_sent = Some(now);
                self.act(Action::Send {
                    worker: id,
                    order: Order::Serve,
                });
            }
        }
    }

    /// Who is about to take the slot over, and ready to.
    pub(super) fn prepared(&self, slot: &Slot) -> Option<WorkerId> {
        let worker = self.workers.get(&slot.incoming?)?;
        slot.incoming.filter(|_| worker.phase == Phase::Prepared)
    }

    pub(super) fn ask_to_recycle(&mut self, id: WorkerId, cause: Recycle) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.serving == Some(id)) {
            slot.recycle.get_or_insert(cause);
        } else if self.is_member(id)
            && let Some(worker) = self.workers.get_mut(&id)
        {
            worker.recycle.get_or_insert(cause);
        }
    }

    /// Starts the replacement of one healthy worker that has reached a limit. One at a time, so that the memory of two
    /// generations is not needed at once; but together where the others wait for each of them: see
    /// [`lease::shares`](super::lease).
    pub(super) fn recycle_next(&mut self, now: Moment) {
        for slot in &mut self.slots {
            let aged = slot
                .serving
                .and_then(|id| self.workers.get(&id))
                .and_then(|worker| worker.retire_at)
                .is_some_and(|at| at <= now);
            if aged {
                slot.recycle.get_or_insert(Recycle::Age);
            }
        }
        if !self.was_ready || self.suspends_forks() {
            return;
        }
        let mut slots = self.slots.iter();
        let under_way = slots.any(|slot| {
            slot.serving.is_some() && slot.incoming.is_some() && !self.waits_to_share(slot)
        });
        let slots = self.slots.iter().enumerate();
        let mut due: Vec<(usize, WorkerId, Recycle)> = slots
            .filter(|(_, slot)| slot.incoming.is_none() && slot.retry_at.is_none())
            .filter_map(|(index, slot)| Some((index, slot.serving?, slot.recycle?)))
            .collect();
        if due.iter().any(|(_, _, cause)| *cause == Recycle::Slots) {
            due.retain(|(_, _, cause)| *cause == Recycle::Slots);
        } else {
            due.truncate(usize::from(!under_way));
        }
        for (index, worker, cause) in due {
            let slot = u16::try_from(index).unwrap_or(u16::MAX);
            self.notice(Notice::Recycling {
                worker,
                slot,
                cause,
            });
            self.fork(now, index, Cause::Recycle(cause));
        }
    }

    pub(super) fn scale(&mut self, now: Moment, target: u16) {
        if self.stop.is_some() {
            return;
        }
        let reloading = self.reload.as_ref().is_some_and(Reload::is_under_way);
        if !(1..=MAX_SLOTS).contains(&target) {
            self.notice(Notice::SlotCountRefused { wanted: target });
            return;
        }
        if reloading {
            self.wanted_slots = Some(target);
            return;
        }
        let (from, to) = (self.slots.len(), usize::from(target));
        if from == to {
            return;
        }
        self.notice(Notice::SlotCount { from, to });
        let cause = if self.was_ready {
            Cause::Scale
        } else {
            Cause::Boot
        };
        while self.slots.len() < to {
            self.slots.push(Slot::new(cause));
        }
        let given_up = self.slots.split_off(to);
        for slot in given_up {
            self.surplus.extend(slot.serving.or(slot.incoming));
            // Who serves stays until somebody else does. Two of one slot are not needed for that.
            if let (Some(_), Some(incoming)) = (slot.serving, slot.incoming) {
                self.retire(now, incoming, Why::Scale);
            }
        }
        self.retire_surplus(now);
    }

    /// Workers of slots that were given up leave when somebody else serves, and is not about to be killed.
    pub(super) fn retire_surplus(&mut self, now: Moment) {
        let is_well = |id| {
            self.workers
                .get(id)
                .is_some_and(|worker| worker.ending == Ending::None)
        };
        let mut serving = self.slots.iter().filter_map(|slot| slot.serving.as_ref());
        if serving.any(is_well) {
            let surplus = std::mem::take(&mut self.surplus).into_iter();
            let (stay, leave) = surplus.partition(|id| self.keeps_its_share(*id));
            self.surplus = stay;
            for id in Vec::into_iter(leave) {
                // Those of a reload that failed are of a generation that this one is not.
                let worker = self.workers.get(&id);
                let is_ours = worker.is_some_and(|worker| worker.generation <= self.generation);
                let why = if is_ours {
                    Why::Scale
                } else {
                    Why::ReloadFailed
                };
                self.retire(now, id, why);
            }
        }
    }

    /// Tells a worker to drain and leave, once.
    pub(super) fn retire(&mut self, now: Moment, id: WorkerId, why: Why) {
        self.order_to_stop(now, id, Level::Graceful, why);
    }

    /// Says when the service is ready, the first time.
    pub(super) fn announce(&mut self) {
        let workers = self.slots.len();
        if self.was_ready || self.serving() < workers || workers == 0 {
            return;
        }
        self.was_ready = true;
        self.next_extension = None;
        self.notice(Notice::Ready { workers });
        self.act(Action::Ready);
    }
}
