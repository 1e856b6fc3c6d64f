//! Leaving when nobody needs the service: the manager keeps the sockets, and the next connection starts it again.
//!
//! ```text
//! Watching ── idle for the whole time ──→ Pausing ── every worker has paused, and one more look ──→ stop
//!     ↑                                      │
//!     └───── needed, or no answer in time ───┘ Resume
//! ```
//! A connection that comes after the last look at the scoreboard must not be closed by the stop. So the workers
//! stop accepting first. What has been accepted by then is on the scoreboard, and what comes later waits in the
//! queue of the socket, which nobody closes.

use std::collections::BTreeSet;
use std::time::Duration;

use super::actions::{Action, Notice};
use super::roster::{Ending, Slot, WorkerId};
use super::{Core, Moment};
use crate::ipc::orders::Order;
use crate::worker::phase::Phase;

/// The slowest look at the scoreboard. It is faster where the time is short.
const SLOWEST_LOOK: Duration = Duration::from_secs(1);
const FASTEST_LOOK: Duration = Duration::from_millis(5);
/// How long connections may wait for a worker that does not say that it has paused. Its executor is busy.
const PATIENCE: Duration = Duration::from_secs(1);

/// How much the service is needed: all workers together, those that are gone included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// That are open.
    pub(crate) connections: u64,
    /// Requests without a whole answer.
    pub(crate) in_flight: u64,
    /// What apps have declared busy.
    pub(crate) busy: u64,
    /// Connections accepted so far: what has come and gone between two looks shows here.
    pub(crate) accepted: u64,
    /// A connection waits to be accepted, or to be taken over from the service's last life.
    pub(crate) waiting: bool,
}

/// What the core remembers of it. Another image begins anew.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// When the service was needed last, as far as anybody looked.
    needed_at: Moment,
    accepted: u64,
    /// `None`: before the first READY.
    look_at: Option<Moment>,
    pause: Option<Pause>,
}

#[derive(Debug)]
struct Pause {
    /// The moment that it began: no other one has that, in no other image.
    round: u64,
    /// Since when nobody had needed the service then.
    idle_since: Moment,
    deadline: Moment,
    told: BTreeSet<WorkerId>,
    /// Those that may still accept.
    missing: BTreeSet<WorkerId>,
}

impl Idle {
    /// Of a service that is needed now.
    pub(super) fn needed(now: Moment) -> Self {
        Self {
            needed_at: now,
            ..Self::default()
        }
    }
}

impl Activity {
    fn is_none(&self) -> bool {
        self.connections == 0 && self.in_flight == 0 && self.busy == 0 && !self.waiting
    }
}

impl Core {
    /// When [`Event::Activity`](super::Event::Activity) is to be told.
    pub(crate) fn look_at(&self) -> Option<Moment> {
        self.idle.look_at.filter(|_| self.stop.is_none())
    }

    /// Decides by a fresh look at the scoreboard.
    pub(super) fn look(&mut self, now: Moment, activity: Activity) {
        let Some(limit) = self.policy.idle_exit.filter(|_| self.stop.is_none()) else {
            return;
        };
        let idle = &mut self.idle;
        idle.look_at = idle.look_at.map(|_| now + pace(limit));
        let moved = std::mem::replace(&mut idle.accepted, activity.accepted) != activity.accepted;
        if moved || !activity.is_none() || !self.has_its_workers() {
            self.idle.needed_at = now;
            self.resume_accepting();
            return;
        }
        // Nobody could have connected while the arbiter itself was not running.
        let idle_since = self.idle.needed_at.max(self.awake_since);
        match &self.idle.pause {
            Some(pause) if pause.missing.is_empty() => {
                // The arbiter may have been kept from its last look for a while.
                let idle = now.since(pause.idle_since);
                self.notice(Notice::Idle { idle });
                self.begin_idle_stop(now, limit);
            }
            Some(pause) if pause.deadline <= now => {
                self.idle.needed_at = now;
                self.resume_accepting();
            }
            None if now.since(idle_since) >= limit && self.is_at_rest() => {
                self.pause_accepting(now, idle_since);
            }
            _ => {}
        }
    }

    /// The worker accepts nothing, and its part of the scoreboard says so. Of an earlier pause it says nothing.
    pub(super) fn paused(&mut self, now: Moment, id: WorkerId, round: u64) {
        let Some(pause) = &mut self.idle.pause else {
            return;
        };
        if pause.round == round && pause.missing.remove(&id) && pause.missing.is_empty() {
            // Only what is seen from now on is the last word.
            self.idle.look_at = Some(now);
        }
    }

    /// Begins to look, once the service is ready.
    pub(super) fn begin_idle_time(&mut self, now: Moment) {
        if let Some(limit) = self.policy.idle_exit
            && self.was_ready
            && self.idle.look_at.is_none()
        {
            self.idle.needed_at = now;
            self.idle.look_at = Some(now + pace(limit));
        }
    }

    /// When something else happens to the workers, they do not wait for each other.
    pub(super) fn end_disturbed_pause(&mut self, now: Moment) {
        if self.idle.pause.is_some() && !self.is_at_rest() {
            self.idle.needed_at = now;
            self.resume_accepting();
        }
    }

    #[cfg(test)]
    pub(super) fn is_pausing(&self) -> bool {
        self.idle.pause.is_some()
    }

    /// A service that stops accepts nothing more anyway.
    pub(super) fn forget_pause(&mut self) {
        self.idle.pause = None;
    }

    fn pause_accepting(&mut self, now: Moment, idle_since: Moment) {
        let round = now.as_nanos();
        let told: BTreeSet<WorkerId> = self.workers.keys().copied().collect();
        for id in &told {
            let order = Order::Pause { round };
            self.act(Action::Send { worker: *id, order });
        }
        self.idle.pause = Some(Pause {
            round,
            idle_since,
            deadline: now + PATIENCE,
            missing: told.clone(),
            told,
        });
    }

    fn resume_accepting(&mut self) {
        let Some(pause) = self.idle.pause.take() else {
            return;
        };
        for id in pause.told {
            if self.workers.get(&id).is_some_and(|one| !one.is_leaving()) {
                let order = Order::Resume;
                self.act(Action::Send { worker: id, order });
            }
        }
    }

    /// Every slot has its worker, which serves, and there is no other one.
    fn is_at_rest(&self) -> bool {
        let rests = |slot: &Slot| {
            let worker = slot.serving.and_then(|id| self.workers.get(&id));
            slot.incoming.is_none()
                && slot.recycle.is_none()
                && worker.is_some_and(|worker| {
                    worker.phase == Phase::Serving
                        && worker.ending == Ending::None
                        && !worker.is_leaving()
                        && worker.channel_closed.is_none()
                })
        };
        self.has_its_workers()
            && self.reload.is_none()
            && self.workers.len() == self.slots.len()
            && self.slots.iter().all(rests)
    }
}

fn pace(limit: Duration) -> Duration {
    (limit / 4).clamp(FASTEST_LOOK, SLOWEST_LOOK)
}
