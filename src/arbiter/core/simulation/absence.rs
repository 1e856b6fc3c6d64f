//! The proof that no payload stays without a worker that could run it, by what the pretended workers do, whatever the
//! core thinks of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::Moment;
use super::super::custody::Key;
use super::super::roster::WorkerId;
use super::World;
use super::worker::Actor;
use crate::lease::Grant;
use crate::status::ServiceState;

/// How long it takes at most that a worker's word or its end is heard, and that the next one looks at its grant.
const MOVE: Duration = Duration::from_secs(3);
/// The same if somebody has to be found stuck before: its heartbeat, its time after SIGABRT, its end.
const FIND: Duration = Duration::from_secs(13);

/// From the fork of a worker to the moment when it serves, where nothing goes wrong.
const BOOT: Duration = Duration::from_secs(12);

/// What nobody runs although somebody could.
#[derive(Default)]
pub(super) struct Absence {
    able: BTreeMap<Key, Since>,
    /// What nobody runs since the worker in its place cannot start it again.
    spent: BTreeMap<(Key, WorkerId), Moment>,
}

struct Since {
    at: Moment,
    /// Who has it, or had it, and is stuck, or not heard any more.
    stuck: Option<WorkerId>,
}

impl Absence {
    /// The arbiter did not run: nobody's time has passed.
    pub(super) fn forget(&mut self) {
        self.able.clear();
        self.spent.clear();
    }
}

impl World {
    /// What some worker could run, one runs within its time, unless it pauses after failures.
    pub(super) fn check_absence(&mut self) {
        let asked = matches!(
            self.core.state(),
            ServiceState::Stopping | ServiceState::Booting
        );
        let waits = self.witness.withholds_leases();
        if asked || waits || self.left || self.core.leaves_for().is_some() {
            return self.absence.forget();
        }
        self.check_spent();
        let wanted = self.wanted();
        self.absence.able.retain(|key, _| wanted.contains(key));
        for key in wanted {
            let place = self.occupied(&key);
            let pauses = self.core.lease_pauses_until(&key.0, key.1);
            if place == Place::Runs || pauses.is_some_and(|until| until > self.now) {
                self.absence.able.remove(&key);
                continue;
            }
            let at = self.now;
            let since = Since { at, stuck: None };
            let since = self.absence.able.entry(key.clone()).or_insert(since);
            if let Place::Stuck(id) = place
                && since.stuck != Some(id)
            {
                // Perhaps after somebody else who had to be found as well.
                (since.at, since.stuck) = (at, Some(id));
            }
            let limit = since.stuck.map_or(MOVE, |_| FIND);
            let span = at.since(since.at);
            assert!(span <= limit, "nobody runs {key:?} for {span:?}");
        }
    }

    /// A share that cannot be started again in its worker has its successor by then, where nothing goes wrong.
    fn check_spent(&mut self) {
        if self.troubled || self.core.suspends_forks() {
            return self.absence.spent.clear();
        }
        let spent = self.spent();
        self.absence.spent.retain(|which, _| spent.contains(which));
        let limit = if self.older || self.killed {
            BOOT + MOVE
        } else {
            MOVE
        };
        for which in spent {
            let since = self.absence.spent.entry(which.clone());
            let span = self.now.since(*since.or_insert(self.now));
            assert!(span <= limit, "nobody runs {which:?} for {span:?}");
        }
    }

    /// What would be run where it was run before, if it could be started again there.
    fn spent(&self) -> BTreeSet<(Key, WorkerId)> {
        let mut all = BTreeSet::new();
        for (id, actor) in self.actors.iter().filter(|(_, actor)| actor.is_well()) {
            let worker = &self.core.workers[id];
            let place = self.core.slots.get(usize::from(worker.slot));
            if place.is_none_or(|place| place.serving != Some(*id)) {
                continue;
            }
            for (slot, want) in actor.tenant.spent() {
                let key = (want.name.clone(), slot);
                if !self.witness.is_finished(&key, worker.generation) {
                    all.insert((key, *id));
                }
            }
        }
        all
    }

    /// What somebody could run, now.
    fn wanted(&self) -> BTreeSet<Key> {
        let shares = self.core.leases.shares();
        let mut slots = self.core.slots.iter();
        let nobody = slots.all(|slot| slot.serving.is_none());
        let mut wanted = BTreeSet::new();
        for (id, actor) in self.actors.iter().filter(|(_, actor)| actor.is_well()) {
            let worker = &self.core.workers[id];
            let place = self.core.slots.get(usize::from(worker.slot));
            let in_place = place.is_some_and(|place| place.serving == Some(*id));
            for (slot, want) in actor.tenant.able() {
                let key = (want.name.clone(), slot);
                let has_turn = match slot {
                    None => in_place || nobody,
                    Some(slot) => in_place && slot < shares,
                };
                if has_turn && !self.witness.is_finished(&key, worker.generation) {
                    wanted.insert(key);
                }
            }
        }
        wanted
    }

    fn occupied(&self, key: &Key) -> Place {
        let shares = self.core.leases.shares();
        // Something of the same name that cannot be together with this; how it comes to an end is looked at in `custody`.
        let in_the_way = |slot: Option<u16>, grant: Grant| {
            let disjoint = key.1.is_some() && slot.is_some();
            !disjoint || grant.slots != shares
        };
        let mut found = Place::Free;
        for (id, actor) in self.actors.iter().filter(|(_, actor)| !actor.dead) {
            for (slot, want, grant) in actor.tenant.running() {
                if want.name == key.0 && (slot == key.1 || in_the_way(slot, grant)) {
                    found = found.max(Place::of(*id, actor));
                }
            }
            for want in actor.tenant.withheld() {
                if want.name == key.0 && !(actor.moves() && actor.connected) {
                    found = found.max(Place::Stuck(*id));
                }
            }
        }
        found
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Free,
    /// Who has it does nothing with it, and nobody else may.
    Stuck(WorkerId),
    Runs,
}

impl Place {
    /// Where it runs, as far as anything does there.
    fn of(id: WorkerId, actor: &Actor) -> Self {
        if actor.moves() {
            Self::Runs
        } else {
            Self::Stuck(id)
        }
    }
}
