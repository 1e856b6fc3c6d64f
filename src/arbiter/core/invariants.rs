//! What must hold after every step, checked from outside the core's own decisions.

use std::collections::{BTreeMap, BTreeSet};

use super::actions::{Action, Cause, Notice};
use super::custody::{Key, Leases};
use super::events::{Event, Request};
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
    /// Where each worker says that it is, by its slot.
    said: BTreeMap<WorkerId, (u16, Phase)>,
    generation: u32,
    ready: u32,
    leaves: u32,
    stopping: u32,
    /// The service is to be started again.
    restarts: bool,
    settled: u32,
    /// RELOADING was said, and no READY since.
    reloading: bool,
    /// This step is about a further trigger.
    joins: bool,
    /// Who asked for a reload and has no answer yet.
    waiting: BTreeSet<Trigger>,
    /// What has happened, and how often: a search that never gets somewhere proves nothing about it.
    pub(super) tally: BTreeMap<String, u32>,
    leases: Leases,
    /// Those that were told to accept nothing.
    paused: BTreeSet<WorkerId>,
    /// Workers that ever served and the core then told to stop or killed, still alive.
    ended: BTreeSet<WorkerId>,
}

impl Witness {
    /// Call before each `handle`.
    pub(super) fn hear(&mut self, core: &Core, event: &Event) {
        let stage = core.reload_stage().unwrap_or("none");
        self.joins = matches!(event, Event::Asked(Request::Reload(_)));
        for what in self.leases.hear(core, event) {
            self.count(what);
        }
        match event {
            Event::Asked(Request::Reload(trigger)) => {
                assert!(self.waiting.insert(*trigger), "{trigger:?} twice");
                self.count(format!("asked again while {stage}"));
            }
            Event::Asked(Request::Stop(_)) => self.count(format!("stopped while {stage}")),
            Event::Asked(Request::Restart) => {
                self.count(format!("restarted while {stage}"));
                self.restarts |= core.state() != ServiceState::Stopping;
            }
            Event::ExecFailed { .. } => self.count(format!("exec failed while {stage}")),
            Event::Entered { worker, phase } => {
                if let Some((_, said)) = self.said.get_mut(worker) {
                    *said = *phase;
                }
            }
            Event::Exited { worker, .. } => {
                let outdated = core.workers[worker].generation < core.last_generation;
                let whose = if outdated { "old" } else { "new" };
                self.count(format!("{whose} worker ended while {stage}"));
                self.exited(*worker);
            }
            Event::ForkFailed { worker, .. } => self.exited(*worker),
            _ => {}
        }
    }

    /// What was left for that payload before the beginning.
    pub(super) fn inherit(&mut self, name: &str, slot: Option<u16>, number: u64) {
        self.leases.inherit(name, slot, number);
    }

    /// Call with [`Core::withhold_leases`].
    pub(super) fn withhold_leases(&mut self) {
        self.leases.withheld = true;
    }

    pub(super) fn withholds_leases(&self) -> bool {
        self.leases.withheld
    }

    /// That payload has nothing more to do in that generation.
    pub(super) fn is_finished(&self, key: &Key, generation: u32) -> bool {
        self.leases.is_finished(key, generation)
    }

    fn exited(&mut self, id: WorkerId) {
        assert!(self.alive.remove(&id), "worker {id} ended twice");
        self.ended.remove(&id);
        self.paused.remove(&id);
        self.said.remove(&id);
    }

    pub(super) fn count(&mut self, what: String) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// Those that serve, by what they say themselves, and that nobody has told to stop.
    fn serving(&self) -> impl Iterator<Item = (WorkerId, u16)> {
        let serves = |(id, (slot, phase)): (&WorkerId, &(u16, Phase))| {
            (*phase == Phase::Serving && !self.ended.contains(id)).then_some((*id, *slot))
        };
        self.said.iter().filter_map(serves)
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
                    self.said.insert(*worker, (*slot, Phase::Forked));
                    assert!(
                        usize::from(*slot) < core.slots.len() || core.is_member(*worker),
                        "{action:?} has no slot"
                    );
                }
                Action::Send { worker, order } => {
                    assert!(self.alive.contains(worker), "{action:?} to nobody");
                    self.check_order(core, *worker, *order, before);
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
                    assert_eq!(self.settled, u32::from(self.restarts));
                    assert!(self.alive.is_empty(), "it left {:?} behind", self.alive);
                    assert!(
                        self.waiting.is_empty(),
                        "nobody answered {:?}",
                        self.waiting
                    );
                }
                Action::Settle => {
                    self.settled += 1;
                    assert!(self.alive.is_empty(), "{:?} may have more", self.alive);
                }
                Action::Reloading => {
                    assert!(!self.reloading || self.joins, "RELOADING went out twice");
                    assert!(self.ready > 0, "RELOADING before READY");
                    self.reloading = true;
                }
                Action::Answer { trigger, outcome } => {
                    assert!(
                        self.waiting.remove(trigger),
                        "{trigger:?} was answered twice"
                    );
                    let outcome = outcome.as_ref().map_or("failed", |_| "reloaded");
                    self.count(outcome.to_owned());
                }
                Action::Release if core.generation != self.generation => self.check_commit(core),
                Action::Log(Notice::Idle { .. }) => {
                    self.count("left for idleness".to_owned());
                    assert!(core.policy.idle_exit.is_some(), "it leaves unasked");
                    assert_eq!(self.paused, self.alive, "somebody may accept");
                }
                Action::Preflight
                | Action::EndPreflight
                | Action::Release
                | Action::Discard { .. }
                | Action::Watchdog
                | Action::ExtendTimeout(_)
                | Action::Log(_) => {}
            }
        }
        for action in actions {
            for what in self.leases.see(core, now, action, &self.said, &self.ended) {
                self.count(what.to_owned());
            }
        }
        self.leases.check(core, now, &self.said, &self.ended);
        self.generation = core.generation;
        assert!(
            self.paused.is_empty() || core.is_pausing(),
            "{:?} will never accept again",
            self.paused
        );
        self.check_roster(core);
        self.check_service(core, actions);
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

    fn check_order(
        &mut self,
        core: &Core,
        worker: WorkerId,
        order: Order,
        before: &BTreeSet<WorkerId>,
    ) {
        match order {
            Order::Stop(level) => {
                assert_ne!(level, Level::Kill, "a kill is not an order");
                self.ended.insert(worker);
                self.paused.remove(&worker);
                self.check_retirement(core, worker, before);
            }
            Order::Pause { .. } => {
                assert!(self.paused.insert(worker), "worker {worker} paused twice");
                self.count("paused".to_owned());
            }
            Order::Resume => {
                assert!(self.paused.remove(&worker), "worker {worker} did not pause");
                self.count("resumed".to_owned());
            }
            _ => {}
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

    /// Every slot has a worker of the new generation, which serves. A change of their number may have made more in
    /// the same step.
    fn check_commit(&self, core: &Core) {
        let serving: BTreeMap<_, _> = self.serving().collect();
        let slots = core.slots.iter().filter(|slot| slot.cause == Cause::Reload);
        assert!(slots.clone().count() > 0);
        for slot in slots {
            let id = slot.serving.expect("a commit that is not complete");
            assert_eq!(core.workers[&id].generation, core.last_generation);
            assert!(serving.contains_key(&id), "worker {id} does not serve");
        }
    }

    /// After the first READY the core never ends the last that serves, and no slot serves twice but in a trial.
    fn check_service(&self, core: &Core, actions: &[Action]) {
        if self.ready == 0 || core.state() == ServiceState::Stopping {
            assert!(core.leaves_for().is_none(), "another image, and no READY");
            return;
        }
        if actions.is_empty() {
            return;
        }
        let told = |action: &Action| match action {
            Action::Send {
                worker,
                order: Order::Stop(_),
            } => self
                .said
                .get(worker)
                .is_some_and(|said| said.1 == Phase::Serving),
            _ => false,
        };
        if actions.iter().any(told) {
            assert!(self.serving().next().is_some(), "the last one was ended");
        }
        if core.reload_stage() == Some("trial") {
            return;
        }
        let mut taken = BTreeSet::new();
        // After a way back that failed both generations may have somebody in one that was given up, until another serves.
        let kept = |(_, slot): &(WorkerId, u16)| usize::from(*slot) < core.target();
        for (id, slot) in self.serving().filter(kept) {
            assert!(taken.insert(slot), "worker {id} serves slot {slot} as well");
        }
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
