//! What must hold after every step, checked from outside the core's own decisions.

use std::collections::BTreeSet;

use super::actions::Action;
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
    /// Workers that ever served and the core then told to stop or killed, still alive.
    ended: BTreeSet<WorkerId>,
}

impl Witness {
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
                        usize::from(*slot) < core.slots.len(),
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
                }
                Action::Leave(_) => {
                    self.leaves += 1;
                    assert!(self.alive.is_empty(), "it left {:?} behind", self.alive);
                }
                Action::Watchdog | Action::ExtendTimeout(_) | Action::Log(_) => {}
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
        assert!(replaced, "worker {id} was retired with nobody in its place");
    }

    fn check_roster(&self, core: &Core) {
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
        if core.state() != ServiceState::Stopping && core.state() != ServiceState::Booting {
            for (index, slot) in core.slots.iter().enumerate() {
                assert!(
                    slot.serving.is_some() || slot.incoming.is_some() || slot.retry_at.is_some(),
                    "slot {index} is forgotten"
                );
            }
        }
    }
}
