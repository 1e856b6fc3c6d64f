//! How a lease becomes free.

use super::super::actions::{Action, Notice};
use super::super::roster::{Ending, Worker, WorkerId};
use super::super::{Core, Moment, backoff};
use crate::ipc::orders::Recycle;
use crate::lease::{FAILING, Released};

/// How a holder came to have it no more.
struct Loss {
    /// Of the worker.
    slot: u16,
    at: Moment,
    how: &'static str,
    /// It counts as a failure of the payload.
    failed: bool,
    /// Its payload may have run.
    ran: bool,
}

impl Core {
    /// The holder has given it back: its payload does not run any more.
    pub(in crate::arbiter::core) fn released(
        &mut self,
        now: Moment,
        id: WorkerId,
        grant: (u32, u64),
        how: Released,
        at: Moment,
    ) {
        let index = self.leases.granted(id, grant);
        let (Some(index), Some(worker)) = (index, self.workers.get(&id)) else {
            return;
        };
        let (lease, place) = (&mut self.leases.all[index], worker.slot);
        let revoked = lease.holder.as_ref().is_some_and(|holder| holder.revoked);
        match how {
            Released::Finished => lease.finished_in.push(worker.generation),
            Released::NotTaken => {
                lease.refused_by.retain(|other| *other != id);
                lease.refused_by.push(id);
            }
            Released::Stopped if revoked => {}
            // If the worker cannot take it again it says so, in words that are known.
            Released::Unknown => {}
            // It cannot run there again, or it stopped before anybody has told it to: that worker is about to leave.
            Released::Stopped | Released::Spent | Released::Failed => {
                let slot = lease.slot;
                self.leases.spent.entry(id).or_default().push(grant.0);
                if revoked && how == Released::Spent {
                    self.renew(id, slot);
                }
            }
        }
        let loss = Loss {
            slot: place,
            at: at.min(now),
            how: how.name(),
            failed: how.is_failure(),
            ran: how != Released::NotTaken,
        };
        self.free(now, index, &loss);
    }

    /// The grant has not come to the worker, which hears nothing any more.
    pub(in crate::arbiter::core) fn undelivered(
        &mut self,
        now: Moment,
        id: WorkerId,
        grant: (u32, u64),
    ) {
        self.channel_closed(now, id);
        let slot = self.workers.get(&id).map(|worker| worker.slot);
        if let (Some(index), Some(slot)) = (self.leases.granted(id, grant), slot) {
            let loss = Loss {
                slot,
                at: now,
                how: "undelivered",
                failed: false,
                ran: false,
            };
            self.free(now, index, &loss);
        }
    }

    /// The worker is healthy, and cannot run the slot's payload again: another one can.
    fn renew(&mut self, id: WorkerId, slot: Option<u16>) {
        let slot = slot.and_then(|slot| self.slots.get_mut(usize::from(slot)));
        if let Some(slot) = slot.filter(|slot| slot.serving == Some(id)) {
            // Before what waits for its turn: the share stands still.
            slot.recycle = Some(Recycle::Slots);
        }
    }

    /// The worker has been reaped: whatever it had is free.
    pub(in crate::arbiter::core) fn inherit_leases(
        &mut self,
        now: Moment,
        id: WorkerId,
        worker: &Worker,
        at: Moment,
    ) {
        self.leases.wants.remove(&id);
        self.leases.spent.remove(&id);
        let loss = Loss {
            slot: worker.slot,
            at: match worker.ending {
                Ending::None => at.min(now),
                // One that was given up has not worked since its last beat.
                _ => worker.last_beat.min(now),
            },
            how: "died",
            failed: !worker.is_leaving(),
            ran: true,
        };
        for index in 0..self.leases.all.len() {
            self.leases.all[index]
                .refused_by
                .retain(|other| *other != id);
            if self.leases.all[index].is_held_by(id) {
                self.free(now, index, &loss);
            }
        }
    }

    fn free(&mut self, now: Moment, index: usize, loss: &Loss) {
        let lease = &mut self.leases.all[index];
        let Some(holder) = lease.holder.take() else {
            return;
        };
        let lost_at = loss.at.max(holder.since);
        let held = lost_at.since(holder.since);
        let failures = lease.failures;
        let is_forgiven = held >= self.time_to_prove(failures, loss.slot);
        let lease = &mut self.leases.all[index];
        if loss.ran {
            lease.gap.lost_at = Some(lost_at);
            lease.refused_by.clear();
            if is_forgiven {
                lease.failures = 0;
            }
        } else {
            lease.gap.reopen(holder.since);
        }
        let lease_name = lease.named();
        self.act(Action::Log(Notice::LeaseReleased {
            lease: lease_name,
            worker: holder.worker,
            epoch: holder.epoch,
            how: loss.how,
            held,
        }));
        if loss.failed {
            self.pause(now, index);
        }
    }

    /// The first failure moves it on at once. One that fails wherever it goes must not take every worker along.
    fn pause(&mut self, now: Moment, index: usize) {
        let lease = &mut self.leases.all[index];
        lease.failures = lease.failures.saturating_add(1);
        let failures = lease.failures;
        if failures < FAILING {
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
