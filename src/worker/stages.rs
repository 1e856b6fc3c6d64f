//! Where the worker is: the one place that changes its phase, and tells everybody.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::phase::Phase;
use super::reports::Reports;
use crate::app::Count;
use crate::ipc::channel::{Report, cut};
use crate::ipc::scoreboard::Meter;
use crate::lifecycle;
use crate::logs::events::Event;
use crate::moment::Moment;
use crate::{logs, sys};

/// The cause of a worker that leaves by itself.
const FAILED: &str = "failed";

/// The phase of this worker, monotonic by the table in [`Phase::successors`].
pub(super) struct Stages {
    reports: Arc<Reports>,
    meter: Meter,
    current: Mutex<(Phase, Moment)>,
    /// Why it was forked: what brings it forward.
    born_for: &'static str,
    /// Why it leaves.
    cause: OnceLock<&'static str>,
}

impl Stages {
    /// `born_for`: why the worker was forked.
    pub(super) fn new(reports: Arc<Reports>, meter: Meter, born_for: &'static str) -> Self {
        meter.enter(Phase::Forked, now());
        meter.beat(now());
        Self {
            reports,
            meter,
            current: Mutex::new((Phase::Forked, now())),
            born_for,
            cause: OnceLock::new(),
        }
    }

    /// Notes why the worker is going to leave, before it begins to: an order, a signal, its own failure. The first
    /// reason is the cause.
    pub(super) fn leaves_for(&self, cause: &'static str) {
        self.cause.get_or_init(|| cause);
    }

    /// One event, one message to the arbiter, one write to the scoreboard. A phase that may not follow is not
    /// entered.
    pub(super) fn enter(&self, next: Phase) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (previous, since) = *current;
        if !previous.may_become(next) {
            return;
        }
        let now = now();
        // Who leaves without being told to has failed.
        let cause = if next > Phase::Serving {
            *self.cause.get_or_init(|| FAILED)
        } else {
            self.born_for
        };
        *current = (next, now);
        self.meter.enter(next, now);
        self.meter.beat(now);
        // Before the arbiter acts on it, so that the log has causes before their effects.
        lifecycle!(
            Event::WorkerPhase,
            phase = next.name(),
            previous = previous.name(),
            took_seconds = now.since(since).as_secs_f64(),
            cause,
            "worker entered a phase"
        );
        self.report(&Report::Entered { phase: next });
    }

    /// Says why the worker is going to end, before it does.
    pub(super) fn fail(&self, reason: &str) {
        self.leaves_for(FAILED);
        self.report(&Report::Failed {
            reason: cut(reason),
        });
    }

    /// What must be said, now or later.
    pub(super) fn report(&self, report: &Report) {
        self.reports.say(report);
    }

    /// What need not be said. False: the arbiter does not hear of it.
    pub(super) fn try_report(&self, report: &Report) -> bool {
        let sent = self.reports.offer(report);
        if let Err(error) = &sent {
            tracing::debug!(error = %error, "a report could not be sent to the arbiter");
        }
        sent.is_ok()
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Its executor runs, and what could not be said is said.
    pub(super) fn beat(&self) {
        self.reports.flush();
        self.meter.beat(now());
        self.meter.seat().log_drops.store(logs::drops(), Relaxed);
    }
}

/// What the app declares busy stands on the scoreboard.
impl Count for Meter {
    fn up(&self) {
        self.seat().busy.fetch_add(1, Relaxed);
    }

    fn down(&self) {
        self.seat().busy.fetch_sub(1, Relaxed);
    }
}

pub(super) fn now() -> Moment {
    Moment::from_nanos(sys::clock::monotonic_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::channel::{Channel, Received};
    use crate::ipc::scoreboard;
    use crate::lease::Released;

    /// The arbiter runs a preload, say, and has no room for more meanwhile.
    #[test]
    fn what_an_arbiter_had_no_room_for_comes_with_a_beat() {
        let (arbiter, worker) = Channel::pair().unwrap();
        let reports = Arc::new(Reports::new(Arc::new(worker)));
        let stages = Stages::new(
            reports.clone(),
            Meter::new(scoreboard::create().unwrap(), 0),
            "boot",
        );
        while reports.offer(&Report::Paused { round: 0 }).is_ok() {}
        stages.enter(Phase::Loading);
        let released = Report::Released {
            payload: 0,
            epoch: 1,
            how: Released::Failed,
            at: now(),
        };
        stages.report(&released);
        let said = || {
            let (received, _) = arbiter.receive_with().unwrap();
            match received {
                Received::Message(report) => Some(report),
                _ => None,
            }
        };
        while said().is_some() {}
        stages.beat();
        let phase = Phase::Loading;
        assert_eq!(said(), Some(Report::Entered { phase }));
        assert_eq!(said(), Some(released));
        assert_eq!(said(), None);
    }
}
