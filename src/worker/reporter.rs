//! This worker's lifecycle events on their way to the arbiter, which tells everybody.

use std::sync::Arc;
use std::time::Duration;

use super::reports::Reports;
use super::stages::now;
use crate::events::{FieldValue, LifecycleEvent, UNSENT};
use crate::ipc::channel::Report;
use crate::moment::Moment;

/// So many at once, and one more each [`REFILL`]: a payload that fails as fast as it starts must not keep the arbiter
/// from its work. An arbiter that does not read, since it runs a preload or changes its image, gets none after a while,
/// so that there is room for what must not be lost. The log has them all.
const BURST: u32 = 64;
const REFILL: Duration = Duration::from_millis(50);

/// Counts what it does not send, and says so with the next that it sends.
pub(super) struct Reporter {
    reports: Arc<Reports>,
    allowance: Allowance,
    unsent: u64,
}

impl Reporter {
    pub(super) fn new(reports: Arc<Reports>) -> Self {
        Self {
            reports,
            allowance: Allowance::new(now()),
            unsent: 0,
        }
    }

    /// Never blocks, never logs.
    pub(super) fn report(&mut self, mut event: LifecycleEvent) {
        if !self.allowance.take(now()) || !self.reports.has_room() {
            self.unsent += 1;
            return;
        }
        if self.unsent > 0 {
            let unsent = FieldValue::Count(self.unsent);
            event.fields.insert(UNSENT.to_owned(), unsent);
        }
        let event = Box::new(event);
        match self.reports.offer(&Report::Happened { event }) {
            Ok(()) => self.unsent = 0,
            Err(_) => self.unsent += 1,
        }
    }
}

struct Allowance {
    left: u32,
    since: Moment,
}

impl Allowance {
    fn new(now: Moment) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    fn take(&mut self, now: Moment) -> bool {
        let earned = now.since(self.since).as_nanos() / REFILL.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(BURST).min(BURST);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.since = now;
        }
        let has_any = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::events::Level;
    use crate::ipc::channel::Channel;
    use crate::lease::Released;

    #[test]
    fn events_that_nobody_reads_leave_room_for_a_lease_that_is_given_back() {
        let (_arbiter, worker) = Channel::pair().unwrap();
        let worker = Arc::new(worker);
        let reports = Arc::new(Reports::new(worker.clone()));
        let mut reporter = Reporter::new(reports);
        for _ in 0..BURST {
            reporter.report(LifecycleEvent {
                number: 0,
                time: 0.0,
                name: "payload-failed".to_owned(),
                level: Level::Warn,
                message: "x".repeat(8_000),
                worker: None,
                slot: None,
                generation: None,
                pid: None,
                fields: BTreeMap::new(),
            });
        }
        assert!(reporter.unsent > 0, "the arbiter reads nothing");
        for payload in 0..32 {
            let released = Report::Released {
                payload,
                epoch: 1,
                how: Released::Stopped,
                at: now(),
            };
            worker.send(&released).unwrap();
        }
    }

    #[test]
    fn a_storm_is_cut_and_what_comes_after_it_is_not() {
        let start = Moment::default() + Duration::from_secs(100);
        let mut allowance = Allowance::new(start);
        assert_eq!((0..1000).filter(|_| allowance.take(start)).count(), 64);
        let second = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| allowance.take(second)).count(), 20);
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| allowance.take(later)).count(), 64);
    }
}
