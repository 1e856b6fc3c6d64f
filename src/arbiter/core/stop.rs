//! Ending the service: each signal one phase further, cleanup never skipped without a word.

use std::time::Duration;

use super::actions::{Action, Fatal, Notice};
use super::roster::WorkerId;
use super::{Core, Moment};
use crate::exit::ExitCode;
use crate::ipc::orders::{Level, Order, Why};

/// Signals this close together come from one hand: `timeout` and terminals send to a process and its group.
const ONE_HAND: Duration = Duration::from_millis(100);

/// A stop under way.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(super) level: Level,
    /// When its level last rose, or another hand asked for it.
    asked_at: Moment,
    pub(super) occasion: Occasion,
    /// What the arbiter leaves with, unless a worker ends badly.
    pub(super) code: ExitCode,
    /// A worker did not end with 0.
    pub(super) unclean: bool,
    pub(super) left: bool,
}

/// Why the service stops. What was first asked for counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    Asked,
    /// It is to be started again: connections are kept, not closed.
    Restart,
    /// Nobody has asked: it was not needed for so long.
    Idle(Duration),
    Failure,
}

impl Occasion {
    fn why(self) -> Why {
        match self {
            Occasion::Asked => Why::Stop,
            Occasion::Restart => Why::Restart,
            Occasion::Idle(_) => Why::Idle,
            Occasion::Failure => Why::BootFailed,
        }
    }
}

impl Core {
    pub(super) fn ask_to_stop(&mut self, now: Moment, asked: Level, occasion: Occasion) {
        let workers = self.workers.len();
        match &mut self.stop {
            None => {
                self.stop_reload(now, "the service was told to stop");
                self.notice(Notice::Stopping {
                    level: asked,
                    restarts: occasion == Occasion::Restart,
                    workers,
                });
                self.begin_stop(now, asked, ExitCode::Ok, occasion);
            }
            Some(stop) => {
                // The first who asks hurries nobody.
                let is_first = matches!(stop.occasion, Occasion::Idle(_));
                if is_first {
                    stop.occasion = Occasion::Asked;
                }
                let same_hand = is_first || now.since(stop.asked_at) < ONE_HAND;
                let level = if same_hand {
                    asked.max(stop.level)
                } else {
                    asked.max(stop.level.next())
                };
                let changed = level != stop.level;
                stop.level = level;
                // Whoever goes on and on, a key that is held down for example, is heard again after that time.
                if changed || is_first || !same_hand {
                    stop.asked_at = now;
                }
                if changed {
                    self.notice(Notice::StopHurried { level, workers });
                    self.stop_everybody(now, level);
                }
            }
        }
    }

    pub(super) fn begin_idle_stop(&mut self, now: Moment, idle: Duration) {
        let (level, workers) = (Level::Graceful, self.workers.len());
        self.notice(Notice::Stopping {
            level,
            restarts: false,
            workers,
        });
        self.begin_stop(now, level, ExitCode::Ok, Occasion::Idle(idle));
    }

    /// The first boot failed: whoever is up unwinds, and the service ends with its own exit code.
    pub(super) fn give_up(&mut self, now: Moment, fatal: Fatal) {
        let code = match &fatal {
            Fatal::Boot { .. } => ExitCode::Software,
            Fatal::Fork { .. } => ExitCode::Os,
        };
        self.notice(Notice::BootFailed(fatal));
        self.begin_stop(now, Level::Quick, code, Occasion::Failure);
    }

    fn begin_stop(&mut self, now: Moment, level: Level, code: ExitCode, occasion: Occasion) {
        self.stop_reload(now, "the service cannot start");
        self.stop = Some(Stop {
            level,
            occasion,
            asked_at: now,
            code,
            unclean: false,
            left: false,
        });
        self.forget_pause();
        self.next_extension = Some(now);
        for slot in &mut self.slots {
            slot.retry_at = None;
        }
        self.act(Action::Stopping);
        self.stop_everybody(now, level);
    }

    fn stop_everybody(&mut self, now: Moment, level: Level) {
        let why = self
            .stop
            .as_ref()
            .map_or(Why::Stop, |stop| stop.occasion.why());
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            self.order_to_stop(now, id, level, why);
        }
    }

    /// Tells one worker, unless it was told the same or more before.
    pub(super) fn order_to_stop(&mut self, now: Moment, id: WorkerId, level: Level, why: Why) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.stop_sent.is_some_and(|(sent, _)| sent >= level) {
            return;
        }
        worker.stop_sent = Some((level, now));
        worker.leaves_for.get_or_insert(why);
        if level == Level::Kill {
            self.kill(now, id);
        } else {
            self.act(Action::Send {
                worker: id,
                order: Order::Stop(level),
            });
        }
    }

    pub(super) fn finish_stop(&mut self) {
        let Some(stop) = &mut self.stop else { return };
        if stop.left || !self.workers.is_empty() {
            return;
        }
        stop.left = true;
        let code = match (stop.code, stop.unclean) {
            (ExitCode::Ok, true) => ExitCode::Software,
            (code, _) => code,
        };
        if stop.occasion == Occasion::Restart {
            self.act(Action::Settle);
        }
        self.notice(Notice::Stopped { code });
        self.act(Action::Leave(code));
    }
}
