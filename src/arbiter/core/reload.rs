//! The reload as a transaction: preflight, exec, prepare, trial, commit; or the way back.
//!
//! ```text
//! old image   Waiting → Preflight → Leaving ─┐ exec
//! new image                                  └→ Preparing → Trial → Retiring → answered
//!                                                    └───────┴→ Returning ─┐ exec
//! old image                                                                └→ answered
//! ```
//! The old generation serves through all of it. Its workers are retired when every new one has served for the
//! trial, and not before; so the way back never needs anything that is gone. What the new image cannot do is
//! fork an old worker: while it is not committed, a slot whose old worker ends stays empty.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::actions::{Action, Cause, Image, Notice};
use super::roster::{Slot, Worker, WorkerId};
use super::{Core, Moment};
use crate::ipc::orders::{Level, Order, Why};
use crate::worker::phase::Phase;

/// Who asked for a reload; the shell knows where the answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Trigger(pub(crate) u64);

/// A reload under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reload {
    begun: Moment,
    triggers: Vec<Trigger>,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// For the first READY.
    Waiting,
    /// The binary on disk is being tried, until then at most.
    Preflight { deadline: Moment },
    /// This image is about to be replaced by the one on disk.
    Leaving,
    /// The next generation is on its way to Prepared. One member per slot.
    Preparing { members: Vec<WorkerId> },
    /// It serves, beside the old one. `until`: since every member serves.
    Trial {
        members: Vec<WorkerId>,
        until: Option<Moment>,
    },
    /// Committed. The old workers were told to leave, and may take a connection until they have heard it.
    Retiring {
        leaving: Vec<WorkerId>,
        deadline: Moment,
    },
    /// This image is about to be replaced by the one before it.
    Returning { reason: String },
}

/// A worker that has not heard by then is busy or stuck, and its limits see to it.
const HEARD: Duration = Duration::from_secs(1);

impl Reload {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            begun: now,
            triggers: Vec::new(),
            stage: Stage::Waiting,
        }
    }

    /// The next generation's workers.
    pub(super) fn members(&self) -> &[WorkerId] {
        match &self.stage {
            Stage::Preparing { members } | Stage::Trial { members, .. } => members,
            _ => &[],
        }
    }

    /// The old generation cannot be forked, or nothing should be forked any more by this image.
    pub(super) fn suspends_forks(&self) -> bool {
        !matches!(
            self.stage,
            Stage::Waiting | Stage::Preflight { .. } | Stage::Retiring { .. }
        )
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.stage != Stage::Waiting
    }

    /// What this image is to be replaced by.
    pub(super) fn leaves_for(&self) -> Option<Image> {
        match self.stage {
            Stage::Leaving => Some(Image::Next),
            Stage::Returning { .. } => Some(Image::Last),
            _ => None,
        }
    }

    pub(super) fn goes_back(&self) -> bool {
        matches!(self.stage, Stage::Returning { .. })
    }

    pub(super) fn stage_name(&self) -> &'static str {
        match self.stage {
            Stage::Waiting => "waiting",
            Stage::Preflight { .. } => "checking",
            Stage::Leaving => "executing",
            Stage::Preparing { .. } => "preparing",
            Stage::Trial { .. } => "trial",
            Stage::Retiring { .. } => "retiring",
            Stage::Returning { .. } => "going back",
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        match self.stage {
            Stage::Preflight { deadline } | Stage::Retiring { deadline, .. } => Some(deadline),
            Stage::Trial { until, .. } => until,
            _ => None,
        }
    }
}

impl Core {
    pub(super) fn ask_to_reload(&mut self, now: Moment, trigger: Trigger) {
        if self.stop.is_some() {
            let outcome = Err("the service is stopping".to_owned());
            self.act(Action::Answer { trigger, outcome });
            return;
        }
        let reload = self.reload.get_or_insert_with(|| Reload::new(now));
        reload.triggers.push(trigger);
        if reload.is_under_way() {
            // The manager that has just asked waits for a moment that is not before its question (sd_notify(3)).
            self.act(Action::Reloading);
        }
    }

    /// Takes the reload as far as it can go without another event.
    pub(super) fn advance_reload(&mut self, now: Moment) {
        let Some(reload) = &self.reload else { return };
        match &reload.stage {
            Stage::Waiting if self.was_ready => self.begin_preflight(now),
            Stage::Preflight { deadline } if *deadline <= now => {
                self.act(Action::EndPreflight);
                let limit = self.policy.preflight;
                self.end_reload(
                    now,
                    &Err(format!(
                        "the new binary did not finish its check within {limit:?}; raise reload.preflight if its preload needs longer"
                    )),
                );
            }
            Stage::Preparing { members } if self.all_in(members, Phase::Prepared) => {
                self.begin_trial(now);
            }
            Stage::Trial {
                until: Some(until), ..
            } if *until <= now => self.commit(now),
            _ => {}
        }
        // Also in the same step as the commit.
        if let Some(Stage::Retiring { leaving, deadline }) =
            self.reload.as_ref().map(|reload| &reload.stage)
            && (*deadline <= now || leaving.iter().all(|id| self.has_heard(*id)))
        {
            self.end_reload(now, &Ok(self.generation));
        }
    }

    /// The worker takes no new connection any more.
    fn has_heard(&self, id: WorkerId) -> bool {
        self.workers
            .get(&id)
            .is_none_or(|worker| worker.phase > Phase::Serving)
    }

    fn begin_preflight(&mut self, now: Moment) {
        let deadline = now + self.policy.preflight;
        self.set_stage(Stage::Preflight { deadline });
        self.next_extension = Some(now + self.policy.extension_interval);
        self.notice(Notice::ReloadStarted);
        self.act(Action::Reloading);
        self.act(Action::Preflight);
    }

    pub(super) fn preflighted(&mut self, now: Moment, result: Result<(), String>) {
        let in_preflight = self
            .reload
            .as_ref()
            .is_some_and(|reload| matches!(reload.stage, Stage::Preflight { .. }));
        // It may have been given up already.
        if !in_preflight {
            return;
        }
        match result {
            Ok(()) => self.set_stage(Stage::Leaving),
            Err(reason) => self.end_reload(now, &Err(reason)),
        }
    }

    pub(super) fn exec_failed(&mut self, now: Moment, error: &str) {
        match self.reload.as_ref().map(|reload| reload.stage.clone()) {
            Some(Stage::Leaving) => {
                self.act(Action::Release);
                self.end_reload(
                    now,
                    &Err(format!("the new binary could not take over: {error}")),
                );
            }
            Some(Stage::Returning { reason }) => {
                // The old workers serve on, with listeners that only they may have: nothing is released. What is
                // forked from now on has the new code: that is said, and it is better than a slot that stays empty.
                self.generation = self.last_generation;
                let outcome = format!(
                    "{reason}; and the way back to the old binary failed: {error}: workers that end are replaced by the new one"
                );
                self.end_reload(now, &Err(outcome));
            }
            _ => {}
        }
    }

    /// The first event in a new image: the state was adopted.
    pub(super) fn resume(&mut self, now: Moment) {
        match self.reload.as_ref().map(|reload| reload.stage.clone()) {
            Some(Stage::Leaving) => self.begin_preparing(now),
            Some(Stage::Returning { reason }) => {
                self.act(Action::Release);
                self.end_reload(now, &Err(reason));
            }
            _ => {}
        }
    }

    fn begin_preparing(&mut self, now: Moment) {
        self.last_generation += 1;
        let generation = self.last_generation;
        let mut members = Vec::new();
        // What the operator made of it stands until the configuration itself changes.
        let slots = if self.policy.workers == self.configured_before {
            self.target_number()
        } else {
            self.policy.workers
        };
        for slot in 0..slots {
            let restarts = self
                .slots
                .get(usize::from(slot))
                .map_or(0, |slot| slot.restarts);
            let worker = self.new_worker(now, slot, generation);
            members.push(worker);
            self.act(Action::Fork {
                worker,
                slot,
                generation,
                restarts,
                cause: Cause::Reload,
            });
        }
        self.set_stage(Stage::Preparing { members });
    }

    fn begin_trial(&mut self, now: Moment) {
        let Some(reload) = &self.reload else { return };
        let members = reload.members().to_vec();
        for id in &members {
            if let Some(worker) = self.workers.get_mut(id) {
                worker.serve_sent = Some(now);
            }
            self.act(Action::Send {
                worker: *id,
                order: Order::Serve,
            });
        }
        self.set_stage(Stage::Trial {
            members,
            until: None,
        });
    }

    /// A member has come to Serving. When all have, the trial's time begins.
    pub(super) fn member_serves(&mut self, now: Moment, id: WorkerId) {
        self.begin_service(now, id);
        let trial = self.policy.trial;
        let all = self
            .reload
            .as_ref()
            .is_some_and(|reload| self.all_in(reload.members(), Phase::Serving));
        if let Some(Reload {
            stage: Stage::Trial { until, .. },
            ..
        }) = &mut self.reload
            && all
        {
            *until = Some(now + trial);
        }
    }

    /// A member has ended, or is about to: the whole generation goes.
    pub(super) fn member_failed(&mut self, now: Moment, slot: u16, reason: &str) {
        self.abort_reload(
            now,
            format!("the new worker of slot {slot} failed: {reason}"),
        );
    }

    pub(super) fn abort_reload(&mut self, now: Moment, reason: String) {
        let Some(reload) = &self.reload else { return };
        let members = reload.members().to_vec();
        for id in members {
            match self.workers.get(&id) {
                // It has connections; and if the whole old generation has crashed, it is all there is until a
                // worker of that one serves again.
                Some(worker) if worker.phase == Phase::Serving => self.surplus.push(id),
                // It may have connections as well: one that was told to serve has not said so yet, or one that
                // leaves by itself.
                Some(worker) if worker.serve_sent.is_some() => {
                    self.retire(now, id, Why::ReloadFailed);
                }
                _ => self.order_to_stop(now, id, Level::Quick, Why::ReloadFailed),
            }
        }
        self.set_stage(Stage::Returning { reason });
    }

    fn commit(&mut self, now: Moment) {
        let Some(reload) = &self.reload else { return };
        let members = reload.members().to_vec();
        self.generation = self.last_generation;
        let mut old = std::mem::take(&mut self.slots).into_iter();
        let mut leaving = Vec::new();
        for id in &members {
            let before = old.next();
            let mut slot = Slot::new(Cause::Reload);
            slot.serving = Some(*id);
            slot.recycle = self.workers.get(id).and_then(|worker| worker.recycle);
            if let Some(before) = before {
                slot.restarts = before.restarts;
                leaving.extend(before.serving.into_iter().chain(before.incoming));
            }
            self.slots.push(slot);
        }
        leaving.extend(old.flat_map(|slot| slot.serving.into_iter().chain(slot.incoming)));
        // New code: its crashes are counted from now on.
        self.crashes.clear();
        self.leases.forgive();
        self.act(Action::Release);
        for id in &leaving {
            self.retire(now, *id, Why::Reload);
        }
        // Whoever is told that the reload has succeeded meets the new generation only.
        self.set_stage(Stage::Retiring {
            leaving,
            deadline: now + HEARD,
        });
    }

    /// One answer for every trigger, and READY=1 in every outcome.
    pub(super) fn end_reload(&mut self, now: Moment, outcome: &Result<u32, String>) {
        let Some(reload) = self.reload.take() else {
            return;
        };
        let outcome = &outcome.clone().map_err(|reason| one_line(&reason));
        if reload.is_under_way() {
            self.reload_failure = outcome.as_ref().err().cloned();
            self.notice(match outcome {
                Ok(_) => Notice::Reloaded {
                    workers: self.slots.len(),
                    took: now.since(reload.begun),
                },
                Err(reason) => Notice::ReloadFailed {
                    reason: reason.clone(),
                    took: now.since(reload.begun),
                },
            });
            self.next_extension = None;
            self.act(Action::Ready);
        }
        for trigger in reload.triggers {
            let outcome = outcome.clone();
            self.act(Action::Answer { trigger, outcome });
        }
        if let Some(target) = self.wanted_slots.take() {
            self.scale(now, target);
        }
    }

    /// A stop wins over a reload.
    pub(super) fn stop_reload(&mut self, now: Moment, reason: &str) {
        let Some(reload) = &self.reload else { return };
        let outcome = match reload.stage {
            Stage::Retiring { .. } => Ok(self.generation),
            _ => Err(reason.to_owned()),
        };
        if matches!(reload.stage, Stage::Preflight { .. }) {
            self.act(Action::EndPreflight);
        }
        self.wanted_slots = None;
        self.end_reload(now, &outcome);
    }

    pub(super) fn is_member(&self, id: WorkerId) -> bool {
        self.reload
            .as_ref()
            .is_some_and(|reload| reload.members().contains(&id))
    }

    pub(super) fn suspends_forks(&self) -> bool {
        self.reload.as_ref().is_some_and(Reload::suspends_forks)
    }

    fn all_in(&self, members: &[WorkerId], phase: Phase) -> bool {
        members.iter().all(|id| {
            self.workers
                .get(id)
                .is_some_and(|worker: &Worker| worker.phase == phase)
        })
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(reload) = &mut self.reload {
            reload.stage = stage;
        }
    }
}

/// Reasons come from anywhere, and are told in one line everywhere.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}
