//! Who gets a lease, and who has to give one back.

use std::cmp::Reverse;

use super::super::actions::{Action, Notice};
use super::super::roster::{Ending, Worker, WorkerId};
use super::super::{Core, Moment};
use super::{Holder, Lease, Leases};
use crate::ipc::orders::Order;
use crate::lease::Grant;
use crate::status::Scope;
use crate::worker::phase::Phase;

impl Core {
    /// Takes back what is held for the wrong number of slots, and gives what is free to who can have it.
    pub(in crate::arbiter::core) fn pass_leases(&mut self, now: Moment) {
        // Before that, whoever serves first would get everything, for a service that may not come up.
        if !self.was_ready {
            return;
        }
        if self.leases.wants.is_empty() && self.leases.all.is_empty() {
            return;
        }
        let takers = self.takers();
        self.discard_outdated();
        self.list_leases(&takers);
        self.revoke_outdated();
        for index in 0..self.leases.all.len() {
            if self.leases.all[index].holder.is_none() {
                self.offer(now, index, &takers);
            }
        }
    }

    /// The workers that can be given a lease: those in the slots. A generation that is not committed, and one that
    /// was rolled back, have their turn only when there is nobody else.
    fn takers(&self) -> Vec<WorkerId> {
        let is_well = |worker: &Worker| {
            worker.phase == Phase::Serving
                && !worker.is_leaving()
                && worker.ending == Ending::None
                && worker.channel_closed.is_none()
        };
        let well = |id: &WorkerId| self.workers.get(id).is_some_and(is_well);
        let serving = self.slots.iter().filter_map(|slot| slot.serving);
        let takers: Vec<WorkerId> = serving.filter(well).collect();
        if takers.is_empty() {
            let others = self.workers.iter().filter(|(_, worker)| is_well(worker));
            return others.map(|(id, _)| *id).collect();
        }
        takers
    }

    /// Makes a record of every lease that somebody wants, and forgets those that nobody misses.
    fn list_leases(&mut self, takers: &[WorkerId]) {
        let Leases {
            wants, all, shares, ..
        } = &mut self.leases;
        for id in takers {
            let (Some(wants), Some(worker)) = (wants.get(id), self.workers.get(id)) else {
                continue;
            };
            for want in wants {
                let slot = (want.scope == Scope::Slot).then_some(worker.slot);
                if slot.is_some_and(|slot| slot >= *shares) {
                    continue;
                }
                let known = |lease: &Lease| lease.name == want.name && lease.slot == slot;
                if !all.iter().any(known) {
                    all.push(Lease::new(&want.name, slot));
                }
            }
        }
        let workers = self.workers.values().map(|worker| worker.generation);
        let oldest = workers.fold(self.generation, u32::min);
        let all = self.leases.all.iter();
        let missed = all.map(|lease| lease.holder.is_none() && self.is_missed(lease));
        let missed: Vec<bool> = missed.collect();
        let (mut missed, shares) = (missed.into_iter(), self.leases.shares);
        self.leases.all.retain_mut(|lease| {
            lease.finished_in.retain(|done| *done >= oldest);
            let is_missed = missed.next() == Some(true);
            let counts = !lease.finished_in.is_empty() || lease.deposit.is_some();
            let pauses = lease.retry_at.is_some() && lease.slot.is_none_or(|slot| slot < shares);
            lease.holder.is_some() || counts || pauses || is_missed
        });
    }

    /// If nobody has it, somebody should: the app of a worker that stays has the payload, or that of one that is still
    /// to come, as far as is known; and it is not done. What a generation has that is not committed does not count.
    pub(super) fn is_missed(&self, lease: &Lease) -> bool {
        let done = |generation| lease.finished_in.contains(&generation);
        let counts = |worker: &Worker| {
            let stays = !worker.is_leaving() && worker.generation <= self.generation;
            stays && !done(worker.generation)
        };
        let there = lease.slot.is_none_or(|slot| slot < self.leases.shares);
        let declared = || {
            let mut wants = self.leases.wants.iter();
            wants.any(|(id, wants)| {
                let has = wants.iter().any(|want| lease.is_of(want));
                has && self.workers.get(id).is_some_and(counts)
            })
        };
        let awaited = || self.slots.iter().any(|slot| slot.serving.is_none());
        there && (declared() || (awaited() && !done(self.generation)))
    }

    /// Who is not in its place any more leaves, or its slot was given up, and then the number is another one.
    fn revoke_outdated(&mut self) {
        let slots = self.leases.shares;
        for index in 0..self.leases.all.len() {
            let lease = &self.leases.all[index];
            let (Some(_), Some(holder)) = (lease.slot, &lease.holder) else {
                continue;
            };
            // Whoever leaves stops its payloads by itself, in its own order.
            let stays = self
                .workers
                .get(&holder.worker)
                .is_some_and(|worker| worker.phase == Phase::Serving && !worker.is_leaving());
            if holder.revoked || !stays || holder.slots == slots {
                continue;
            }
            let (worker, payload, epoch) = (holder.worker, holder.payload, holder.epoch);
            let named = lease.named();
            if let Some(holder) = &mut self.leases.all[index].holder {
                holder.revoked = true;
            }
            self.notice(Notice::LeaseRevoked {
                lease: named,
                worker,
                epoch,
            });
            self.act(Action::Send {
                worker,
                order: Order::Revoke { payload, epoch },
            });
        }
    }

    fn offer(&mut self, now: Moment, index: usize, takers: &[WorkerId]) {
        let taker = self.taker(&self.leases.all[index], takers);
        let missed = self.is_missed(&self.leases.all[index]) || taker.is_some();
        let lease = &mut self.leases.all[index];
        lease.gap.note(now, missed);
        lease.retry_at = lease.retry_at.filter(|at| *at > now);
        let lease = &self.leases.all[index];
        let slots = match lease.scope() {
            Scope::Slot => self.leases.shares,
            _ => self.target_number(),
        };
        let Some((worker, payload)) = taker else {
            return;
        };
        if lease.retry_at.is_some() || self.leases.is_blocked(lease, slots) {
            return;
        }
        self.leases.last_epoch += 1;
        let epoch = self.leases.last_epoch;
        let lease = &mut self.leases.all[index];
        lease.grants += 1;
        lease.holder = Some(Holder {
            worker,
            payload,
            epoch,
            slots,
            since: now,
            revoked: false,
        });
        let gap = lease.gap.close(now);
        let kept = lease.deposit;
        let lease = lease.named();
        self.act(Action::Send {
            worker,
            order: Order::Grant {
                payload,
                grant: Grant { epoch, slots },
                kept,
            },
        });
        self.notice(Notice::LeaseGranted {
            lease,
            worker,
            epoch,
            gap,
            kept: kept.map(|kept| kept.length),
        });
    }

    /// Who is next, with its number of the payload. The service's leases are spread over the workers; who did not
    /// take one has its turn again after all others.
    fn taker(&self, lease: &Lease, takers: &[WorkerId]) -> Option<(WorkerId, u32)> {
        let in_place = |id: WorkerId| match lease.slot {
            None => true,
            Some(slot) => {
                let place = self.slots.get(usize::from(slot));
                slot < self.leases.shares && place.is_some_and(|place| place.serving == Some(id))
            }
        };
        let has_done = |id: WorkerId| {
            let worker = self.workers.get(&id);
            worker.is_some_and(|worker| lease.finished_in.contains(&worker.generation))
        };
        let able = takers
            .iter()
            .copied()
            .filter(|id| in_place(*id) && !has_done(*id));
        able.filter_map(|id| Some((id, self.leases.want(id, lease)?.payload)))
            .max_by_key(|(id, _)| {
                let refused = lease.refused_by.iter().position(|other| other == id);
                Reverse((refused, self.leases.load(*id), *id))
            })
    }
}
