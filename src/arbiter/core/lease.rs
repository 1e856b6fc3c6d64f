//! Leases: which worker runs a payload of which there may be only one.
//!
//! # What holds
//! 1. A lease has at most one holder: from the moment when the grant was sent until the worker has given it back or
//!    is gone. Told to stop, frozen, aborted or without a channel is none of that.
//! 2. Epochs rise with every grant, over all leases and all images.
//! 3. All holders of one payload agree on its scope and on the number of slots.
//! 4. Only a worker that serves and stays is given a lease: that of a slot only the slot's own worker, that of the
//!    service one that is on trial only if nobody else serves.
//! 5. A lease that somebody could have is held, pausing after repeated failures, or waiting for holders that were
//!    told to give back.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::actions::{Action, Notice};
use super::roster::{Ending, Worker, WorkerId};
use super::{Core, Moment, backoff};
use crate::ipc::orders::{Order, Recycle};
use crate::lease::{Grant, Released};
use crate::status::{self, Scope};
use crate::worker::phase::Phase;

/// A payload of a worker's app that needs a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Want {
    /// Its place among the app's payloads.
    pub(crate) payload: u32,
    pub(crate) name: String,
    pub(crate) scope: Scope,
}

impl Want {
    /// Those of an app with these payloads that need a lease.
    pub(crate) fn of(names: &[String], scopes: &[Scope]) -> Vec<Want> {
        let numbered = (0..).zip(names.iter().zip(scopes));
        let leased = numbered.filter(|(_, (_, scope))| **scope != Scope::Worker);
        leased
            .map(|(payload, (name, scope))| Want {
                payload,
                name: name.clone(),
                scope: *scope,
            })
            .collect()
    }
}

/// All leases, and who wants them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Leases {
    wants: BTreeMap<WorkerId, Vec<Want>>,
    all: Vec<Lease>,
    last_epoch: u64,
    /// Among how many slots work is shared. More slots count when all of them serve, fewer at once.
    shares: u16,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Lease {
    name: String,
    /// `None`: the whole service's.
    slot: Option<u16>,
    holder: Option<Holder>,
    /// Its payload had something to do once, and that is done for these generations: the one that serves, and one
    /// that is not committed or was rolled back.
    finished_in: Vec<u32>,
    /// Failures in a row, and when it may be granted again after them.
    failures: u32,
    retry_at: Option<Moment>,
    grants: u64,
    gap: Gap,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Holder {
    worker: WorkerId,
    /// Its place among the app's payloads.
    payload: u32,
    epoch: u64,
    slots: u16,
    since: Moment,
    /// A revocation was sent.
    revoked: bool,
}

/// For how long nobody had the lease although somebody could have.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Gap {
    /// The last sign of its last holder.
    lost_at: Option<Moment>,
    /// Somebody can have it since then.
    wanted_since: Option<Moment>,
    /// Together, until the last time that nobody could.
    before: Duration,
    /// The whole of it, when it was over.
    last: Duration,
}

/// What the log calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseName {
    pub(crate) payload: String,
    pub(crate) slot: Option<u16>,
}

impl Leases {
    /// When a pause after failures is over.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        let free = self.all.iter().filter(|lease| lease.holder.is_none());
        free.filter_map(|lease| lease.retry_at).min()
    }

    /// New code: its failures are counted from now on.
    pub(super) fn forgive(&mut self) {
        for lease in &mut self.all {
            (lease.failures, lease.retry_at) = (0, None);
        }
    }

    #[cfg(test)]
    pub(super) fn shares(&self) -> u16 {
        self.shares
    }

    fn want(&self, worker: WorkerId, lease: &Lease) -> Option<&Want> {
        let wants = self.wants.get(&worker)?;
        wants
            .iter()
            .find(|want| want.name == lease.name && want.scope == lease.scope())
    }

    /// Somebody who has something of the same payload that cannot be together with this.
    fn is_blocked(&self, lease: &Lease, slots: u16) -> bool {
        let of_same = self.all.iter().filter(|other| other.name == lease.name);
        of_same
            .filter_map(|other| other.holder.as_ref().map(|holder| (other, holder)))
            .any(|(other, holder)| {
                let disjoint =
                    lease.slot.is_some() && other.slot.is_some() && lease.slot != other.slot;
                !disjoint || holder.slots != slots
            })
    }

    /// How many leases of the whole service the worker has.
    fn load(&self, worker: WorkerId) -> usize {
        let of_service = self.all.iter().filter(|lease| lease.slot.is_none());
        of_service.filter(|lease| lease.is_held_by(worker)).count()
    }
}

impl Lease {
    fn new(name: &str, slot: Option<u16>) -> Self {
        Self {
            name: name.to_owned(),
            slot,
            holder: None,
            finished_in: Vec::new(),
            failures: 0,
            retry_at: None,
            grants: 0,
            gap: Gap::default(),
        }
    }

    fn scope(&self) -> Scope {
        self.slot.map_or(Scope::Service, |_| Scope::Slot)
    }

    fn is_held_by(&self, worker: WorkerId) -> bool {
        self.holder
            .as_ref()
            .is_some_and(|holder| holder.worker == worker)
    }

    fn named(&self) -> LeaseName {
        LeaseName {
            payload: self.name.clone(),
            slot: self.slot,
        }
    }
}

impl Gap {
    /// Call whenever the lease is free, after everything that may change who can have it.
    fn note(&mut self, now: Moment, somebody: bool) {
        let lost_at = self.lost_at.take();
        if somebody {
            self.wanted_since.get_or_insert(lost_at.unwrap_or(now));
        } else if let Some(since) = self.wanted_since.take() {
            self.before += now.since(since);
        }
    }

    fn close(&mut self, now: Moment) -> Duration {
        let open = self
            .wanted_since
            .map_or(Duration::ZERO, |since| now.since(since));
        let last = self.before + open;
        *self = Self {
            last,
            ..Self::default()
        };
        last
    }
}

impl Core {
    /// Epochs are greater than this number, which must not be less than any epoch that the service has ever used.
    pub(crate) fn number_leases_from(&mut self, epoch: u64) {
        self.leases.last_epoch = self.leases.last_epoch.max(epoch);
    }

    pub(super) fn wants(&mut self, id: WorkerId, wants: Vec<Want>) {
        if self.workers.contains_key(&id) && !wants.is_empty() {
            self.leases.wants.insert(id, wants);
        }
    }

    /// The holder has given it back: its payload does not run any more.
    pub(super) fn released(
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
            if let Some(wants) = self.leases.wants.get_mut(&id) {
                wants.retain(|want| want.payload != payload);
            }
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
    pub(super) fn inherit_leases(&mut self, now: Moment, id: WorkerId, worker: &Worker) {
        self.leases.wants.remove(&id);
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

    /// Takes back what is held by the wrong worker or for the wrong number of slots, and gives what is free to who
    /// can have it.
    pub(super) fn pass_leases(&mut self, now: Moment) {
        // Before that, whoever serves first would get everything, for a service that may not come up.
        if !self.was_ready {
            return;
        }
        self.count_shares();
        if self.leases.wants.is_empty() && self.leases.all.is_empty() {
            return;
        }
        let takers = self.takers();
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

    fn count_shares(&mut self) {
        let shares = usize::from(self.leases.shares);
        let mut more = self.slots.iter().skip(shares);
        if self.slots.len() < shares || more.all(|slot| slot.serving.is_some()) {
            self.leases.shares = self.target_number();
        }
    }

    /// Makes a record of every lease that somebody wants, and forgets those that nobody does.
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
        let shares = *shares;
        let workers = self.workers.values().map(|worker| worker.generation);
        let oldest = workers.fold(self.generation, u32::min);
        all.retain_mut(|lease| {
            lease.finished_in.retain(|done| *done >= oldest);
            let wanted = || {
                let mut wants = wants.values().flatten();
                wants.any(|want| want.name == lease.name && want.scope == lease.scope())
            };
            let counts = !lease.finished_in.is_empty();
            let there = lease.slot.is_none_or(|slot| slot < shares);
            lease.holder.is_some() || counts || (there && (lease.retry_at.is_some() || wanted()))
        });
    }

    fn revoke_outdated(&mut self) {
        let slots = self.leases.shares;
        for index in 0..self.leases.all.len() {
            let lease = &self.leases.all[index];
            let (Some(slot), Some(holder)) = (lease.slot, &lease.holder) else {
                continue;
            };
            let place = self.slots.get(usize::from(slot));
            let rightful = place.is_some_and(|place| place.serving == Some(holder.worker));
            // Whoever leaves stops its payloads by itself, in its own order.
            let stays = self
                .workers
                .get(&holder.worker)
                .is_some_and(|worker| worker.phase == Phase::Serving && !worker.is_leaving());
            if holder.revoked || !stays || (rightful && holder.slots == slots) {
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
        let lease = &mut self.leases.all[index];
        lease.gap.note(now, taker.is_some());
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
        let lease = lease.named();
        self.act(Action::Send {
            worker,
            order: Order::Grant {
                payload,
                grant: Grant { epoch, slots },
            },
        });
        self.notice(Notice::LeaseGranted {
            lease,
            worker,
            epoch,
            gap,
        });
    }

    /// Who is next, with its number of the payload. The service's leases are spread over the workers.
    fn taker(&self, lease: &Lease, takers: &[WorkerId]) -> Option<(WorkerId, u32)> {
        let in_place = |id: WorkerId| match lease.slot {
            None => true,
            Some(slot) => {
                let place = self.slots.get(usize::from(slot));
                place.is_some_and(|place| place.serving == Some(id))
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
            .max_by_key(|(id, _)| Reverse((self.leases.load(*id), *id)))
    }

    #[cfg(test)]
    pub(super) fn lease_pauses_until(&self, name: &str, slot: Option<u16>) -> Option<Moment> {
        let mut all = self.leases.all.iter();
        let lease = all.find(|lease| lease.name == name && lease.slot == slot);
        lease.and_then(|lease| lease.retry_at)
    }

    /// Every lease, for people.
    pub(crate) fn leases(&self, at: Moment) -> Vec<status::Lease> {
        let mut all: Vec<_> = self
            .leases
            .all
            .iter()
            .map(|lease| self.show(lease, at))
            .collect();
        all.sort_by(|a, b| (&a.payload, a.slot).cmp(&(&b.payload, b.slot)));
        all
    }

    fn show(&self, lease: &Lease, at: Moment) -> status::Lease {
        let holder = lease.holder.as_ref().and_then(|holder| {
            let worker = self.workers.get(&holder.worker)?;
            Some(status::Holder {
                slot: u32::from(worker.slot),
                pid: worker.pid.unwrap_or_default(),
                generation: worker.generation,
                epoch: holder.epoch,
                since: at.since(holder.since).as_secs_f64(),
                leaving: holder.revoked || worker.is_leaving() || worker.phase > Phase::Serving,
            })
        });
        status::Lease {
            payload: lease.name.clone(),
            scope: lease.scope(),
            slot: lease.slot.map(u32::from),
            holder,
            finished: lease.finished_in.contains(&self.generation),
            grants: lease.grants,
            gap: lease.gap.last.as_secs_f64(),
        }
    }
}
