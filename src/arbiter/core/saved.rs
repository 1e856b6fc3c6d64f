//! What the core knows, as it goes from one image of the arbiter to the next.
//!
//! The fields' names are a format: another version of this program reads them. A field may be added with a
//! default; anything else needs a new version of the state (`arbiter::state`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::backoff::{Crashes, Random};
use super::degraded::Degraded;
use super::idle::Idle;
use super::lease::Leases;
use super::reload::Reload;
use super::roster::{Slot, Worker, WorkerId};
use super::{Core, Moment, Policy};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// What the configuration said, which the operator may have changed since.
    configured: u16,
    generation: u32,
    last_generation: u32,
    slots: Vec<Slot>,
    workers: BTreeMap<WorkerId, Worker>,
    next_worker: u64,
    crashes: Vec<Moment>,
    degraded: bool,
    #[serde(default)]
    degraded_by_payload: bool,
    next_watchdog: Option<Moment>,
    next_extension: Option<Moment>,
    wanted_slots: Option<u16>,
    #[serde(default)]
    reload_failure: Option<String>,
    surplus: Vec<WorkerId>,
    #[serde(default)]
    leases: Leases,
    reload: Option<Reload>,
    /// A change of images is no pause of the arbiter: who is stuck gets no more time by it.
    #[serde(default)]
    awake_since: Option<Moment>,
}

impl Saved {
    /// Processes of an earlier life of the service may have them.
    pub(crate) fn withholds_leases(&self) -> bool {
        self.leases.are_withheld()
    }

    /// Whether a reload has failed, and the image before is to go on.
    pub(crate) fn goes_back(&self) -> bool {
        self.reload.as_ref().is_some_and(Reload::goes_back)
    }
}

impl Core {
    /// For the next image. Only while [`Core::leaves_for`] names one, or for a check: a service that never was
    /// ready, or is stopping, does not change its image.
    pub(crate) fn save(&self) -> Saved {
        Saved {
            configured: self.policy.workers,
            generation: self.generation,
            last_generation: self.last_generation,
            slots: self.slots.clone(),
            workers: self.workers.clone(),
            next_worker: self.next_worker,
            crashes: self.crashes.moments().collect(),
            degraded: self.degraded.is_so,
            degraded_by_payload: self.degraded.by_payload,
            next_watchdog: self.next_watchdog,
            next_extension: self.next_extension,
            wanted_slots: self.wanted_slots,
            reload_failure: self.reload_failure.clone(),
            surplus: self.surplus.clone(),
            leases: self.leases.clone(),
            reload: self.reload.clone(),
            awake_since: Some(self.awake_since),
        }
    }

    /// In the new image; the next event is [`Event::Resume`](super::Event::Resume). `epoch`: as for
    /// [`Core::number_leases_from`]. The image before may have known nothing of leases, and another one before it may.
    pub(crate) fn adopt(policy: Policy, seed: u64, saved: Saved, epoch: u64, now: Moment) -> Self {
        let mut crashes = Crashes::new(policy.crash_budget, policy.crash_window);
        for moment in saved.crashes {
            crashes.record(moment);
        }
        let mut core = Self {
            crashes,
            configured_before: saved.configured,
            generation: saved.generation,
            last_generation: saved.last_generation,
            slots: saved.slots,
            workers: saved.workers,
            next_worker: saved.next_worker,
            random: Random::new(seed),
            was_ready: true,
            degraded: Degraded {
                is_so: saved.degraded,
                by_payload: saved.degraded_by_payload,
            },
            stop: None,
            reload: saved.reload,
            reload_failure: saved.reload_failure,
            wanted_slots: saved.wanted_slots,
            surplus: saved.surplus,
            idle: Idle::needed(now),
            leases: saved.leases,
            next_watchdog: policy.watchdog.map(|_| saved.next_watchdog.unwrap_or(now)),
            next_extension: saved.next_extension,
            awake_since: saved.awake_since.unwrap_or(now),
            actions: Vec::new(),
            policy,
        };
        core.number_leases_from(epoch);
        core
    }
}
