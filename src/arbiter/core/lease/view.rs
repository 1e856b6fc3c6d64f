//! Leases for people, and for tests.

use super::super::{Core, Moment};
use super::Lease;
use crate::status;
use crate::worker::phase::Phase;

impl Core {
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
            failures: if self.is_missed(lease) {
                lease.failures
            } else {
                0
            },
            again_in: lease
                .retry_at
                .filter(|_| lease.holder.is_none())
                .map(|retry_at| retry_at.since(at).as_secs_f64()),
        }
    }

    #[cfg(test)]
    pub(in crate::arbiter::core) fn lease_pauses_until(
        &self,
        name: &str,
        slot: Option<u16>,
    ) -> Option<Moment> {
        let mut all = self.leases.all.iter();
        let lease = all.find(|lease| lease.name == name && lease.slot == slot);
        lease.and_then(|lease| lease.retry_at)
    }
}
