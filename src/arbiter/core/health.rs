//! Who is stuck, what the manager may be told, and when to look again.

use std::time::Duration;

use super::actions::{Action, Overdue};
use super::roster::{Ending, Worker, WorkerId};
use super::{Core, Moment};
use crate::ipc::orders::Level;
use crate::status::ServiceState;
use crate::worker::phase::Phase;

/// A killed process that is still there after this long will not go away soon: the manager has to act.
const UNKILLABLE: Duration = Duration::from_secs(10);

/// One limit on one worker: counted from, due at, and what it is called.
type Limit = (Moment, Moment, fn(Duration) -> Overdue);

impl Core {
    /// Ends workers that have overrun a limit: SIGABRT with a diagnosis, then SIGKILL.
    pub(super) fn supervise(&mut self, now: Moment) {
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            let Some(worker) = self.workers.get(&id) else {
                continue;
            };
            match worker.ending {
                Ending::None => {
                    let overdue = self.limits(worker).find(|(_, due, _)| *due <= now);
                    if let Some((from, _, name)) = overdue {
                        let phase = worker.phase;
                        self.abort(now, id, phase, name(now.since(from)));
                    }
                }
                Ending::Aborted { kill_at } if kill_at <= now => self.kill(now, id),
                Ending::Aborted { .. } | Ending::Killed { .. } => {}
            }
        }
    }

    fn abort(&mut self, now: Moment, id: WorkerId, phase: Phase, overdue: Overdue) {
        let kill_at = now + self.policy.abort_grace;
        let text = format!("{overdue} while {phase}");
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.ending = Ending::Aborted { kill_at };
            worker.overdue = Some(text.clone());
        }
        self.act(Action::Abort {
            worker: id,
            phase,
            overdue,
        });
        if self.is_member(id)
            && let Some(worker) = self.workers.get(&id)
        {
            // Not when it has gone: until then the trial could end well.
            self.member_failed(now, worker.slot, &text);
        }
    }

    pub(super) fn kill(&mut self, now: Moment, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id)
            && !matches!(worker.ending, Ending::Killed { .. })
        {
            worker.ending = Ending::Killed { at: now };
            self.act(Action::Kill { worker: id });
        }
    }

    /// The watchdog's ping, and more time in long boots and drains.
    pub(super) fn keep_manager_informed(&mut self, now: Moment) {
        if let (Some(interval), Some(due)) = (self.policy.watchdog, self.next_watchdog)
            && due <= now
        {
            if self.makes_progress(now) {
                self.act(Action::Watchdog);
            }
            self.next_watchdog = Some(now + interval);
        }
        if self.next_extension.is_some_and(|due| due <= now) {
            let waiting = matches!(
                self.state(),
                ServiceState::Booting | ServiceState::Reloading | ServiceState::Stopping
            );
            if waiting && self.makes_progress(now) {
                self.act(Action::ExtendTimeout(self.policy.extension));
            }
            self.next_extension = waiting.then(|| now + self.policy.extension_interval);
        }
    }

    /// Every slot's worker makes progress or is being replaced within its limits.
    ///
    /// A slot that waits for its next attempt is within its limits: its healthy neighbours must not die for
    /// it. Only when nobody serves and the crash budget is used up can a restart of the whole service help.
    pub(super) fn makes_progress(&self, now: Moment) -> bool {
        let unkillable = self.workers.values().any(
            |worker| matches!(worker.ending, Ending::Killed { at } if now.since(at) > UNKILLABLE),
        );
        let hopeless = self.was_ready && self.serving() == 0 && self.budget_is_spent();
        !unkillable && (!hopeless || self.stop.is_some())
    }

    /// The window forgets crashes while the pauses between them grow; failures in a row are not forgotten
    /// before somebody has served for a while.
    fn budget_is_spent(&self) -> bool {
        let in_a_row = self.slots.iter().map(|slot| u64::from(slot.failures));
        self.crashes.exhausted() || in_a_row.sum::<u64>() > u64::from(self.policy.crash_budget)
    }

    pub(super) fn worker_timeout(&self, id: WorkerId, worker: &Worker) -> Option<Moment> {
        let retire_at = worker.retire_at.filter(|_| self.waits_for_age(id, worker));
        let limit = match worker.ending {
            Ending::None => self.limits(worker).map(|(_, due, _)| due).min(),
            Ending::Aborted { kill_at } => Some(kill_at),
            Ending::Killed { .. } => None,
        };
        retire_at.into_iter().chain(limit).min()
    }

    fn waits_for_age(&self, id: WorkerId, worker: &Worker) -> bool {
        self.stop.is_none()
            && !worker.is_leaving()
            && self
                .slots
                .get(usize::from(worker.slot))
                .is_some_and(|slot| slot.serving == Some(id) && slot.recycle.is_none())
            && worker.phase == Phase::Serving
    }

    /// Every limit that counts for the worker now, the most telling first.
    fn limits(&self, worker: &Worker) -> impl Iterator<Item = Limit> {
        let (policy, own) = (&self.policy, &worker.limits);
        let limit = |from: Moment, span: Option<Duration>, name: fn(Duration) -> Overdue| {
            // While the arbiter was not running, nobody's clock ran: a frozen service must not be killed
            // for having been frozen.
            let due = from.max(self.awake_since).after(span)?;
            Some((from, due, name))
        };
        let late = |span: Option<Duration>| span.map(|span| span + policy.margin);
        let both = |a: Option<Duration>, b: Option<Duration>| a.zip(b).map(|(a, b)| a + b);

        let heartbeat = match worker.phase {
            phase if phase.is_boot() => own.heartbeat_boot,
            Phase::Serving => own.heartbeat_serving,
            _ => own.heartbeat_stopping,
        };
        let stopping = match (worker.stop_sent, worker.phase) {
            (Some((Level::Graceful, at)), _) => {
                limit(at, late(both(own.graceful, own.cleanup)), Overdue::Stop)
            }
            (Some((_, at)), _) => limit(at, late(own.cleanup), Overdue::Stop),
            (None, Phase::Draining) => limit(
                worker.phase_since,
                late(both(own.graceful, own.cleanup)),
                Overdue::Stop,
            ),
            (None, phase) if phase > Phase::Draining => {
                limit(worker.phase_since, late(own.cleanup), Overdue::Stop)
            }
            (None, _) => None,
        };
        // It keeps the limit of its startup itself, and then unwinds and waits for blocking work.
        let start = late(both(own.startup, own.cleanup));
        let starting = (worker.phase < Phase::Prepared && worker.stop_sent.is_none())
            .then(|| limit(worker.forked_at, start, Overdue::Startup))
            .flatten();
        let serving = worker
            .serve_sent
            .filter(|_| worker.phase == Phase::Prepared && worker.stop_sent.is_none())
            .and_then(|at| limit(at, late(own.heartbeat_boot), Overdue::Serve));
        let channel = worker
            .channel_closed
            .and_then(|at| limit(at, Some(policy.margin), Overdue::Channel));
        let beat = limit(
            worker.last_beat.max(worker.phase_since),
            heartbeat,
            Overdue::Heartbeat,
        );
        [beat, starting, serving, stopping, channel]
            .into_iter()
            .flatten()
    }
}
