//! Never green without its payload, and never degraded without a cause.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Held, Key, Leases};
use crate::arbiter::core::actions::Cause;
use crate::arbiter::core::lease::FORGIVEN;
use crate::arbiter::core::{Core, Moment, backoff};
use crate::status::{Scope, ServiceState};

/// The leases that have paused, and how often each had failed then.
#[derive(Default)]
pub(super) struct Green {
    failures: BTreeMap<Key, u32>,
    /// Those that no holder has had for the shortest time that proves anything: the service is not ready.
    ill: BTreeSet<Key>,
    /// Those that no holder has had for the longest: it may be degraded.
    weak: BTreeSet<Key>,
    generation: u32,
}

impl Green {
    pub(super) fn paused(&mut self, key: &Key, failures: u32) {
        self.failures.insert(key.clone(), failures);
        self.ill.insert(key.clone());
        self.weak.insert(key.clone());
    }

    /// A reload has come to its end. New code has its failures before it.
    pub(super) fn decided(&mut self, generation: u32) {
        if self.generation != generation {
            self.ill.clear();
            self.weak.clear();
        }
    }

    /// Some worker had it for so long, as far as it has given a sign of life.
    pub(super) fn held(&mut self, core: &Core, key: &Key, span: Duration) {
        let policy = &core.policy;
        let failures = self.failures.get(key).copied().unwrap_or_default();
        let pause = backoff::longest(failures, policy.backoff_initial, policy.backoff_max);
        if span >= policy.stable_after.min(pause * FORGIVEN) {
            self.ill.remove(key);
        }
        if span >= policy.stable_after {
            self.weak.remove(key);
        }
    }
}

impl Leases {
    /// Call after each `handle`.
    pub(super) fn check_green(&mut self, core: &Core, now: Moment) {
        self.green.generation = core.generation;
        for (key, held) in &self.held {
            self.green.held(core, key, proven(core, held));
        }
        let missed: BTreeSet<Key> = self
            .green
            .weak
            .iter()
            .filter(|key| self.is_missed(core, key) && self.is_for(core, key))
            .cloned()
            .collect();
        let stands_back = |key: &Key| {
            let mut held = self.held.keys();
            let pauses = self.paused.get(key).is_some_and(|until| *until > now);
            !pauses && held.any(|other| other.0 == key.0 && other.1.is_some() != key.1.is_some())
        };
        let back: BTreeSet<Key> = missed
            .iter()
            .filter(|key| stands_back(key))
            .cloned()
            .collect();
        let ill = &mut self.green.ill;
        ill.retain(|key| missed.contains(key));
        let ill: BTreeSet<_> = ill.difference(&back).collect();
        match core.state() {
            ServiceState::Ready => {
                assert!(ill.is_empty(), "green, and {ill:?} fail");
                assert!(!core.withholds_leases(), "green, and nobody runs anything");
            }
            ServiceState::Degraded => {
                let empty = core.slots.iter().any(|slot| {
                    let nobody = slot.serving.is_none();
                    nobody && slot.cause == Cause::Failure
                });
                let workers = empty || core.crashes.exhausted();
                let why = core.failing();
                assert!(
                    workers || self.withheld || missed.difference(&back).next().is_some(),
                    "degraded by {why:?}"
                );
            }
            _ => {}
        }
    }
}

impl Leases {
    /// Whoever serves in its slot has such a payload.
    fn is_for(&self, core: &Core, (name, slot): &Key) -> bool {
        let Some(slot) = slot else { return true };
        let place = core.slots.get(usize::from(*slot));
        place.and_then(|place| place.serving).is_none_or(|id| {
            let mut wants = self.wants.get(&id).into_iter().flatten();
            wants.any(|want| want.name == *name && want.scope == Scope::Slot)
        })
    }
}

fn proven(core: &Core, held: &Held) -> Duration {
    let beat: Moment = core.workers[&held.worker].last_beat;
    beat.since(held.since)
}
