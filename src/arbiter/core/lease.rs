//! Leases: which worker runs a payload of which there may be only one.
//!
//! # What holds
//! 1. A lease has at most one holder: from the moment when the grant was sent until the worker has given it back or
//!    is gone. Told to stop, frozen, aborted or without a channel is none of that.
//! 2. Epochs rise with every grant, over all leases and all images.
//! 3. All holders of one payload agree on its scope and on the number of slots.
//! 4. Only a worker that serves and stays is given a lease: that of a slot only the slot's own worker, that of the
//!    service one that is on trial only if nobody else serves.
//! 5. A lease that somebody could have is held, pausing after repeated failures, waiting for holders that were told to
//!    give back, or withheld: from [`Core::withhold_leases`] to [`Event::Claimed`](super::Event::Claimed) none is granted.
//! 6. One that has failed in a row is well again when a holder has had it for a while; see [`failing`].
//! 7. What a holder has left goes along with every later grant of the lease, until it is replaced or discarded; see
//!    [`deposit`].

mod back;
mod deposit;
mod failing;
mod pass;
mod shares;
mod view;

#[cfg(test)]
pub(super) use failing::FORGIVEN;
pub(crate) use failing::Failing;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::roster::WorkerId;
use super::{Core, Moment};
use crate::lease::Deposit;
use crate::status::Scope;

/// A payload of a worker's app that needs a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Want {
    /// Its place among the app's payloads.
    pub(crate) payload: u32,
    pub(crate) name: String,
    pub(crate) scope: Scope,
    /// It can be started only once in that worker.
    #[serde(default)]
    pub(crate) once: bool,
}

impl Want {
    /// Those of an app with these payloads that need a lease. `once`: the places of those that can be started only
    /// once.
    pub(crate) fn of(names: &[String], scopes: &[Scope], once: &[u32]) -> Vec<Want> {
        let numbered = (0..).zip(names.iter().zip(scopes));
        let leased = numbered.filter(|(_, (_, scope))| **scope != Scope::Worker);
        leased
            .map(|(payload, (name, scope))| Want {
                payload,
                name: name.clone(),
                scope: *scope,
                once: once.contains(&payload),
            })
            .collect()
    }
}

/// All leases, and who wants them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Leases {
    wants: BTreeMap<WorkerId, Vec<Want>>,
    /// Of those, the payloads that cannot be started again.
    #[serde(default)]
    spent: Spent,
    all: Vec<Lease>,
    last_epoch: u64,
    /// Among how many slots work is shared; see [`shares`].
    shares: u16,
    /// Processes of an earlier life of the service may still hold them.
    #[serde(default)]
    withheld: bool,
    /// When to look whether holders are well after failures. Another image finds out anew.
    #[serde(skip)]
    look_at: Option<Moment>,
}

type Spent = BTreeMap<WorkerId, Vec<u32>>;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Lease {
    name: String,
    /// `None`: the whole service's.
    slot: Option<u16>,
    holder: Option<Holder>,
    /// Its payload had something to do once, and that is done for these generations: the one that serves, and one
    /// that is not committed or was rolled back.
    finished_in: Vec<u32>,
    /// Who has not taken it since it was last taken, the last one last.
    #[serde(default)]
    refused_by: Vec<WorkerId>,
    /// Failures in a row, and when it may be granted again after them.
    failures: u32,
    retry_at: Option<Moment>,
    grants: u64,
    gap: Gap,
    #[serde(default)]
    deposit: Option<Deposit>,
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

/// For how long nobody had the lease of a payload that the app has, whether anybody could have had it or not.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Gap {
    /// The last sign of its last holder.
    lost_at: Option<Moment>,
    /// It is missed since then.
    #[serde(rename = "wanted_since")]
    missed_since: Option<Moment>,
    /// Together, until the last time that it was not.
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
    pub(super) fn are_withheld(&self) -> bool {
        self.withheld
    }

    /// When a pause after failures is over, or the time in which a holder has to be well after them.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        let free = self.all.iter().filter(|lease| lease.holder.is_none());
        let pauses = free.filter_map(|lease| lease.retry_at);
        pauses.chain(self.look_at).min()
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

    /// Which lease the worker has by this grant.
    fn granted(&self, worker: WorkerId, (payload, epoch): (u32, u64)) -> Option<usize> {
        let is_it = |holder: &Holder| {
            (holder.worker, holder.payload, holder.epoch) == (worker, payload, epoch)
        };
        let mut all = self.all.iter();
        all.position(|lease| lease.holder.as_ref().is_some_and(is_it))
    }

    fn want(&self, worker: WorkerId, lease: &Lease) -> Option<&Want> {
        let mut wants = self.wants.get(&worker)?.iter();
        wants.find(|want| lease.is_of(want) && !is_spent(&self.spent, worker, want))
    }

    /// Some worker's app has that payload, whether it can be started there or not.
    fn is_declared(&self, lease: &Lease) -> bool {
        self.wants.values().flatten().any(|want| lease.is_of(want))
    }

    /// That worker's app has it.
    fn declares(&self, worker: WorkerId, lease: &Lease) -> bool {
        let wants = self.wants.get(&worker);
        wants.is_some_and(|wants| wants.iter().any(|want| lease.is_of(want)))
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

    /// Somebody has the payload of this name in another scope, and nobody can have this beside it.
    fn runs_otherwise(&self, lease: &Lease) -> bool {
        let mut of_same = self.all.iter().filter(|other| other.name == lease.name);
        of_same.any(|other| other.scope() != lease.scope() && other.holder.is_some())
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
            refused_by: Vec::new(),
            failures: 0,
            retry_at: None,
            grants: 0,
            gap: Gap::default(),
            deposit: None,
        }
    }

    fn scope(&self) -> Scope {
        self.slot.map_or(Scope::Service, |_| Scope::Slot)
    }

    fn is_of(&self, want: &Want) -> bool {
        want.name == self.name && want.scope == self.scope()
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
    /// Call whenever the lease is free, after everything that may change whether it is missed.
    fn note(&mut self, now: Moment, missed: bool) {
        let lost_at = self.lost_at.take();
        if missed {
            self.missed_since.get_or_insert(lost_at.unwrap_or(now));
        } else if let Some(since) = self.missed_since.take() {
            self.before += now.since(since);
        }
    }

    /// Whom it was given to has not had it: it is the same gap still.
    fn reopen(&mut self, granted_at: Moment) {
        self.before = self.last;
        self.lost_at = Some(granted_at);
    }

    fn close(&mut self, now: Moment) -> Duration {
        let open = self
            .missed_since
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

    /// Processes of an earlier life of the service are left. Before the first event.
    pub(crate) fn withhold_leases(&mut self) {
        self.leases.withheld = true;
    }

    pub(super) fn release_leases(&mut self) {
        self.leases.withheld = false;
    }

    /// Somebody would have a lease, if it were not withheld.
    pub(crate) fn withholds_leases(&self) -> bool {
        let mut all = self.leases.all.iter();
        self.leases.withheld && all.any(|lease| self.is_missed(lease))
    }

    pub(super) fn wants(&mut self, id: WorkerId, wants: Vec<Want>) {
        if self.workers.contains_key(&id) && !wants.is_empty() {
            self.leases.wants.insert(id, wants);
        }
    }
}

fn is_spent(spent: &Spent, worker: WorkerId, want: &Want) -> bool {
    let spent = spent.get(&worker);
    spent.is_some_and(|spent| spent.contains(&want.payload))
}
