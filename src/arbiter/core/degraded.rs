//! When the service is degraded: workers are missing or fail too often, or nobody runs a payload of which there is one,
//! since it fails wherever it is or an earlier life of the service may still run it.

use super::actions::{Cause, Notice};
use super::{Core, Moment};
use crate::status::ServiceState;

/// What was said of it last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Degraded {
    /// The service is degraded.
    pub(super) is_so: bool,
    /// A payload is among the reasons.
    pub(super) by_payload: bool,
}

impl Core {
    /// Says when the service is degraded and when it is well again; and once more if a payload becomes a reason
    /// meanwhile, which may be all that is left of them. Call after everything else that a step changes.
    pub(super) fn judge(&mut self, now: Moment) {
        self.crashes.forget(now);
        if !self.was_ready {
            return;
        }
        let failing = self.failing();
        let withheld = self.withholds_leases();
        let by_payload = failing.is_some() || withheld;
        let before = std::mem::take(&mut self.degraded);
        self.degraded = Degraded {
            is_so: self.misses_workers() || by_payload,
            by_payload,
        };
        let workers = self.slots.len();
        if self.degraded.is_so && (!before.is_so || (by_payload && !before.by_payload)) {
            self.notice(Notice::Degraded {
                serving: self.serving(),
                workers,
                crashes: self.crashes.count(),
                too_many: self.crashes.exhausted(),
                failing: failing.map(|failing| {
                    let delay = failing.retry_at.map(|at| at.since(now));
                    (failing.lease, failing.failures, delay)
                }),
                withheld,
            });
        } else if before.is_so && !self.degraded.is_so {
            self.notice(Notice::Recovered { workers });
        }
    }

    /// Every worker serves, and they do not fail too often. A payload that fails wherever it goes keeps nobody from
    /// leaving for idleness: it would keep the service for ever.
    pub(super) fn has_its_workers(&self) -> bool {
        match self.state() {
            ServiceState::Ready => true,
            ServiceState::Degraded => !self.misses_workers(),
            _ => false,
        }
    }

    fn misses_workers(&self) -> bool {
        let mut slots = self.slots.iter();
        self.crashes.exhausted()
            || slots.any(|slot| slot.serving.is_none() && slot.cause == Cause::Failure)
    }
}
