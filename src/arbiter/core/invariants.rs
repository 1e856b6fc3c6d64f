//! What must hold after every step, checked from outside the core's own decisions.

use std::collections::BTreeSet;

use super::actions::{Action, Cause};
use super::reload::Trigger;
use super::roster::WorkerId;
use super::{Core, MAX_SLOTS, Moment};
use crate::ipc::orders::{Level, Order};
use crate::status::ServiceState;
use crate::worker::phase::Phase;

/// Follows one run of the core and panics, with what it saw, when a promise is broken.
#[derive(Default)]
pub(super) struct Witness {
    alive: BTreeSet<WorkerId>,
    ready: u32,
    leaves: u32,
    stopping: u32,
    /// RELOADING was said, and no READY since.
    reloading: bool,
    /// Who asked for a reload and has no answer yet.
    waiting: BTreeSet<Trigger>,
    pub(super) reloaded: u32,
    pub(super) rolled_back: u32,
    /// Workers that ever served and the core then told to stop or killed, still alive.
    ended: BTreeSet<WorkerId>,
}

impl Witness {
    pub(super) fn asked(&mut self, trigger: Trigger) {
        self.waiting.insert(trigger);
    }

    pub(super) fn exited(&mut self, id: WorkerId) {
        assert!(self.alive.remove(&id), "worker {id} ended twice");
        self.ended.remove(&id);
    }

    /// Call after each `handle`, with what it returned, what had been serving before, and whether it was a tick.
    pub(super) fn check(
        &mut self,
        core: &Core,
        now: Moment,
        ticked: bool,
        before: &BTreeSet<WorkerId>,
        actions: &[Action],
    ) {
        assert_eq!(self.leaves, 0, "an action after Leave: {actions:?}");
        for action in actions {
            match action {
                Action::Fork { worker, slot, .. } => {
                    assert_eq!(self.stopping, 0, "a fork after the stop: {action:?}");
                    assert!(
                        self.alive.insert(*worker),
                        "worker {worker} was forked twice"
                    );
                    assert!(
                        usize::from(*slot) < core.slots.len() || core.is_member(*worker),
                        "{action:?} has no slot"
                    );
                }
                Action::Send { worker, order } => {
                    assert!(self.alive.contains(worker), "{action:?} to nobody");
                    if let Order::Stop(level) = order {
                        assert_ne!(*level, Level::Kill, "a kill is not an order");
                        self.ended.insert(*worker);
                        self.check_retirement(core, *worker, before);
                    }
                }
                Action::Abort { worker, .. } | Action::Kill { worker } => {
                    assert!(self.alive.contains(worker), "{action:?} to nobody");
                    self.ended.insert(*worker);
                }
                Action::Ready => {
                    self.ready += 1;
                    if std::mem::take(&mut self.reloading) {
                        continue;
                    }
                    assert_eq!(self.ready, 1, "READY went out twice");
                    assert_eq!(
                        core.serving(),
                        core.target(),
                        "READY before every slot served"
                    );
                }
                Action::Stopping => {
                    self.stopping += 1;
                    assert_eq!(self.stopping, 1, "STOPPING went out twice");
                    assert!(!self.reloading, "STOPPING and no READY after RELOADING");
                }
                Action::Leave(_) => {
                    self.leaves += 1;
                    assert!(self.alive.is_empty(), "it left {:?} behind", self.alive);
                    assert!(
                        self.waiting.is_empty(),
                        "nobody answered {:?}",
                        self.waiting
                    );
                }
                Action::Reloading => {
                    assert!(!self.reloading, "RELOADING went out twice");
                    assert!(self.ready > 0, "RELOADING before READY");
                    self.reloading = true;
                }
                Action::Answer { trigger, outcome } => {
                    assert!(
                        self.waiting.remove(trigger),
                        "{trigger:?} was answered twice"
                    );
                    match outcome {
                        Ok(_) => self.reloaded += 1,
                        Err(_) => self.rolled_back += 1,
                    }
                }
                Action::Exec(_) => {
                    assert_eq!(actions.last(), Some(action), "an action after Exec");
                    assert_eq!(self.stopping, 0, "an exec after the stop");
                }
                Action::Committed => {
                    for slot in core.slots.iter().filter(|slot| slot.cause == Cause::Reload) {
                        let serving = slot.serving.map(|id| core.workers[&id].generation);
                        assert_eq!(
                            serving,
                            Some(core.generation),
                            "a commit that is not complete"
                        );
                    }
                }
                Action::Preflight
                | Action::EndPreflight
                | Action::Watchdog
                | Action::ExtendTimeout(_)
                | Action::Log(_) => {}
            }
        }
        self.check_roster(core);
        if ticked
            && self.leaves == 0
            && let Some(due) = core.poll_timeout()
        {
            assert!(
                due > now,
                "it would spin: timeout {due:?} at {now:?}, state {:?}",
                core.state()
            );
        }
        if self.stopping > 0 && self.leaves == 0 {
            assert!(!self.alive.is_empty(), "it should have left");
        }
    }

    /// A worker that served is told to stop only when its slot has another one that serves, its slot is
    /// given up, or the service stops.
    fn check_retirement(&self, core: &Core, id: WorkerId, before: &BTreeSet<WorkerId>) {
        if core.state() == ServiceState::Stopping || !before.contains(&id) {
            return;
        }
        let slot = usize::from(core.workers[&id].slot);
        let replaced = core
            .slots
            .get(slot)
            .is_none_or(|slot| slot.serving.is_some_and(|other| other != id));
        let outdated = core.workers[&id].generation != core.generation;
        assert!(
            replaced || outdated,
            "worker {id} was retired with nobody in its place"
        );
        assert!(core.serving() > 0, "worker {id} was the last that served");
    }

    fn check_roster(&self, core: &Core) {
        if core.reload.is_none() {
            assert!(self.waiting.is_empty(), "nobody answers {:?}", self.waiting);
            assert!(!self.reloading, "no READY after RELOADING");
        }
        let known: BTreeSet<WorkerId> = core.workers.keys().copied().collect();
        assert_eq!(known, self.alive, "the core's roster is not what lives");
        let mut seated = BTreeSet::new();
        assert!(core.slots.len() <= usize::from(MAX_SLOTS));
        for slot in &core.slots {
            for id in slot.serving.iter().chain(&slot.incoming) {
                assert!(seated.insert(*id), "worker {id} has two places");
                assert!(
                    self.alive.contains(id),
                    "worker {id} has a place and is gone"
                );
            }
            if let Some(id) = slot.serving {
                let worker = &core.workers[&id];
                assert!(
                    worker.phase >= Phase::Serving,
                    "worker {id} is in {} and counts as serving",
                    worker.phase
                );
                assert!(slot.retry_at.is_none() || slot.recycle.is_some());
            }
            if let Some(id) = slot.incoming {
                let worker = &core.workers[&id];
                assert!(
                    worker.phase != Phase::Serving,
                    "worker {id} serves and is not promoted"
                );
                assert!(
                    slot.retry_at.is_none(),
                    "a slot waits although somebody comes"
                );
            }
        }
        let forks = core.state() != ServiceState::Booting && !core.suspends_forks();
        if core.state() != ServiceState::Stopping && forks {
            for (index, slot) in core.slots.iter().enumerate() {
                assert!(
                    slot.serving.is_some() || slot.incoming.is_some() || slot.retry_at.is_some(),
                    "slot {index} is forgotten"
                );
            }
        }
    }
}
