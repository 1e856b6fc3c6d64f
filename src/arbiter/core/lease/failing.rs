//! Leases whose holders have failed in a row: somebody misses the payload, and the service is degraded by it.
//!
//! 1. A lease fails from the failure on that it pauses after, and as long as somebody wants it.
//! 2. That it was granted again proves nothing. It is well when a holder has had it for so long that a failure of it
//!    would count as the first one, and has given a sign of life after that.
//! 3. Where the way back of a reload has failed, two apps can serve side by side. What the worker of a slot does not have
//!    is not missed there, nor what stands back for good behind a payload of the same name in another scope.
//! 4. New code has its failures before it.

use std::time::Duration;

use super::super::{Core, Moment, backoff};
use super::{Lease, LeaseName};
use crate::lease::FAILING;

/// A holder that has run for so many times the pause that its failure would cause is not paused for.
pub(in crate::arbiter::core) const FORGIVEN: u32 = 10;

/// How often a holder's last sign of life is looked at, once its time has passed.
const LOOK: Duration = Duration::from_secs(1);

/// A payload that fails wherever it goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failing {
    pub(crate) lease: LeaseName,
    /// In a row.
    pub(crate) failures: u32,
    /// Some worker tries it.
    pub(crate) is_held: bool,
    /// It pauses until then.
    pub(crate) retry_at: Option<Moment>,
}

impl Core {
    /// The one that has failed most.
    pub(crate) fn failing(&self) -> Option<Failing> {
        let failing = self.leases.all.iter().filter(|lease| self.fails(lease));
        let worst = failing.max_by_key(|lease| lease.failures)?;
        Some(Failing {
            lease: worst.named(),
            failures: worst.failures,
            is_held: worst.holder.is_some(),
            retry_at: worst.retry_at.filter(|_| worst.holder.is_none()),
        })
    }

    fn fails(&self, lease: &Lease) -> bool {
        let stands_back = lease.retry_at.is_none() && self.leases.runs_otherwise(lease);
        let is_wanted = self.is_missed(lease) && self.is_for(lease);
        lease.failures >= FAILING && is_wanted && !stands_back
    }

    /// The worker of its slot has such a payload, or that is still to come.
    fn is_for(&self, lease: &Lease) -> bool {
        let slot = lease
            .slot
            .and_then(|slot| self.slots.get(usize::from(slot)));
        let own = slot.and_then(|slot| slot.serving);
        own.is_none_or(|id| self.leases.declares(id, lease))
    }

    /// Forgets the failures before holders that are well.
    pub(in crate::arbiter::core) fn prove_holders(&mut self, now: Moment) {
        let before = self.leases.look_at.take();
        for index in 0..self.leases.all.len() {
            let lease = &self.leases.all[index];
            let Some(holder) = lease.holder.as_ref().filter(|_| lease.failures > 0) else {
                continue;
            };
            let Some(worker) = self.workers.get(&holder.worker) else {
                continue;
            };
            let due = holder.since + self.time_to_prove(lease.failures, worker.slot);
            if worker.last_beat >= due {
                self.leases.all[index].failures = 0;
                continue;
            }
            let look_at = if due > now {
                due
            } else {
                // What comes in between does not put it off.
                let before = before.filter(|at| *at > now);
                before.map_or(now + LOOK, |at| at.min(now + LOOK))
            };
            let next = &mut self.leases.look_at;
            *next = Some(next.map_or(look_at, |next| next.min(look_at)));
        }
    }

    /// Who has had it for so long has not failed in a row: long by any measure, or measured by the pause that comes next,
    /// when of whoever ran it before nobody is missing any more. `slot`: of its worker.
    pub(super) fn time_to_prove(&self, failures: u32, slot: u16) -> Duration {
        let (initial, max) = (self.policy.backoff_initial, self.policy.backoff_max);
        let pause = backoff::longest(failures, initial, max);
        let mut slots = self.slots.iter().zip(0..);
        let others_serve = slots.all(|(place, index)| place.serving.is_some() || index == slot);
        let long = self.policy.stable_after;
        if others_serve {
            long.min(pause.saturating_mul(FORGIVEN))
        } else {
            long
        }
    }
}
