//! How a lease becomes free.

use super::super::actions::{Action, Notice};
use super::super::roster::{Ending, Worker, WorkerId};
use super::super::{Core, Moment, backoff};
use super::Holder;
use crate::ipc::orders::Recycle;
use crate::lease::Released;

impl Core {
    /// The holder has given it back: its payload does not run any more.
    pub(in crate::arbiter::core) fn released(
        &mut self,
        now: Moment,
        id: WorkerId,
        (payload, epoch): (u32, u64),
        how: Released,
        at: Moment,
    ) {
        let is_it =
            |holder: &Holder| (holder.worker, holder.payload, holder.epoch) == (id, payload, epoch);
        let mut all = self.leases.all.iter_mut();
        let index = all.position(|lease| lease.holder.as_ref().is_some_and(is_it));
        let (Some(index), Some(worker)) = (index, self.workers.get(&id)) else {
            return;
        };
        let lease = &mut self.leases.all[index];
        let revoked = lease.holder.as_ref().is_some_and(|holder| holder.revoked);
        if how == Released::Finished {
            lease.finished_in.push(worker.generation);
        } else if how != Released::Stopped || !revoked {
            // It cannot run there again, or it stopped before anybody has told it to: that worker is about to leave.
            let slot = lease.slot;
            self.leases.spent.entry(id).or_default().push(payload);
            if revoked && how == Released::Spent {
                self.renew(id, slot);
            }
        }
        self.free(now, at.min(now), index, how == Released::Failed, how.name());
    }

    /// The worker is healthy, and cannot run the slot's payload again: another one can.
    fn renew(&mut self, id: WorkerId, slot: Option<u16>) {
        let slot = slot.and_then(|slot| self.slots.get_mut(usize::from(slot)));
        if let Some(slot) = slot.filter(|slot| slot.serving == Some(id)) {
            slot.recycle.get_or_insert(Recycle::Slots);
        }
    }

    /// The worker has been reaped: whatever it had is free.
    pub(in crate::arbiter::core) fn inherit_leases(
        &mut self,
        now: Moment,
        id: WorkerId,
        worker: &Worker,
    ) {
        self.leases.wants.remove(&id);
        self.leases.spent.remove(&id);
        // One that was given up has not worked since its last beat.
        let lost_at = match worker.ending {
            Ending::None => now,
            _ => worker.last_beat.min(now),
        };
        for index in 0..self.leases.all.len() {
            if self.leases.all[index].is_held_by(id) {
                self.free(now, lost_at, index, !worker.is_leaving(), "died");
            }
        }
    }

    fn free(
        &mut self,
        now: Moment,
        lost_at: Moment,
        index: usize,
        failed: bool,
        how: &'static str,
    ) {
        let lease = &mut self.leases.all[index];
        let Some(holder) = lease.holder.take() else {
            return;
        };
        let lost_at = lost_at.max(holder.since);
        lease.gap.lost_at = Some(lost_at);
        let held = lost_at.since(holder.since);
        if held >= self.policy.stable_after {
            lease.failures = 0;
        }
        let lease_name = lease.named();
        self.act(Action::Log(Notice::LeaseReleased {
            lease: lease_name,
            worker: holder.worker,
            epoch: holder.epoch,
            how,
            held,
        }));
        if failed {
            self.pause(now, index);
        }
    }

    /// The first failure moves it on at once. One that fails wherever it goes must not take every worker along.
    fn pause(&mut self, now: Moment, index: usize) {
        let lease = &mut self.leases.all[index];
        lease.failures = lease.failures.saturating_add(1);
        let failures = lease.failures;
        if failures < 2 {
            return;
        }
        let (initial, max) = (self.policy.backoff_initial, self.policy.backoff_max);
        let delay = backoff::delay(failures - 1, initial, max, &mut self.random);
        lease.retry_at = Some(now + delay);
        let lease = lease.named();
        self.act(Action::Log(Notice::LeasePauses {
            lease,
            failures,
            delay,
        }));
    }
}
