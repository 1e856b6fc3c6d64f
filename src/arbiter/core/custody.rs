//! What must hold of leases after every step, by what was sent and what was heard alone.

mod green;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::actions::{Action, Cause, Notice};
use super::events::Event;
use super::lease::{FORGIVEN, Want};
use super::roster::{Ending, WorkerId};
use super::{Core, Moment};
use crate::ipc::orders::{Order, Recycle};
use crate::lease::{Deposit, FAILING, Grant, Released};
use crate::status::{Scope, ServiceState};
use crate::worker::phase::Phase;
use green::Green;

/// A payload's name, and a slot if it is one for each.
pub(super) type Key = (String, Option<u16>);
/// Where each worker says that it is, by its slot.
type Said = BTreeMap<WorkerId, (u16, Phase)>;

/// No move takes so long: somebody had to be waited for.
const LONG: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Leases {
    wants: BTreeMap<WorkerId, Vec<Want>>,
    held: BTreeMap<Key, Held>,
    last_epoch: u64,
    /// The generation of its last holder.
    before: BTreeMap<Key, u32>,
    /// Where it has nothing more to do, by generation.
    finished: BTreeSet<(Key, u32)>,
    /// They cannot run it any more.
    spent: BTreeSet<(WorkerId, u32)>,
    deaf: BTreeSet<WorkerId>,
    /// How often each has failed in a row, at most.
    failures: BTreeMap<Key, u32>,
    /// For how long its last holder had it, if no other slot was empty at the end.
    lived: BTreeMap<Key, Duration>,
    /// Nobody has it since then, and it is missed.
    free_since: BTreeMap<Key, Moment>,
    /// Nobody may get it before that.
    paused: BTreeMap<Key, Moment>,
    /// The newest that was left for each lease.
    deposits: BTreeMap<Key, u64>,
    /// What was left and nobody may get, until that is said.
    doomed: BTreeSet<u64>,
    /// Processes of an earlier life may hold them.
    pub(super) withheld: bool,
    green: Green,
}

struct Held {
    worker: WorkerId,
    payload: u32,
    grant: Grant,
    since: Moment,
    revoked: bool,
}

impl Leases {
    /// The service has left something to itself.
    pub(super) fn inherit(&mut self, name: &str, slot: Option<u16>, number: u64) {
        self.deposits.insert((name.to_owned(), slot), number);
    }

    pub(super) fn is_finished(&self, key: &Key, generation: u32) -> bool {
        self.finished.contains(&(key.clone(), generation))
    }

    /// Call before each `handle`. What has happened, for the tally.
    pub(super) fn hear(&mut self, core: &Core, event: &Event) -> Vec<String> {
        let mut happened = Vec::new();
        match event {
            Event::Wants { worker, wants } => {
                self.wants.insert(*worker, wants.clone());
            }
            Event::Claimed => {
                self.withheld = false;
                happened.push("claimed".to_owned());
            }
            Event::ChannelClosed { worker } => {
                self.deaf.insert(*worker);
            }
            Event::Released {
                worker,
                payload,
                epoch,
                how,
                at,
            } => {
                let is_it = |held: &Held| {
                    (held.worker, held.payload, held.grant.epoch) == (*worker, *payload, *epoch)
                };
                let key = self.held.iter().find(|(_, held)| is_it(held));
                let Some(key) = key.map(|(key, _)| key.clone()) else {
                    return happened;
                };
                let held = self.held.remove(&key).unwrap();
                if *how == Released::NotTaken {
                    self.end(core, &key, &held, held.since);
                } else {
                    self.forgive(core, &key, &held, *at);
                    self.end(core, &key, &held, *at);
                }
                if matches!(
                    how,
                    Released::Failed | Released::NotTaken | Released::Unknown
                ) {
                    *self.failures.entry(key.clone()).or_default() += 1;
                }
                match how {
                    Released::Stopped if held.revoked => {}
                    Released::NotTaken | Released::Unknown => {}
                    Released::Finished => {
                        let generation = core.workers[worker].generation;
                        self.finished.insert((key, generation));
                    }
                    _ => drop(self.spent.insert((*worker, *payload))),
                }
                happened.push(format!("lease {how:?}").to_lowercase());
            }
            Event::Kept {
                worker,
                payload,
                epoch,
                deposit,
            } => {
                let source = (*worker, *payload, *epoch);
                let is_it = |held: &Held| (held.worker, held.payload, held.grant.epoch) == source;
                let key = self.held.iter().find(|(_, held)| is_it(held));
                let key = key.map(|(key, _)| key.clone());
                let what = if key.is_some() {
                    "kept"
                } else {
                    "kept too late"
                };
                happened.push(what.to_owned());
                let outdated = match key {
                    Some(key) => self.deposits.insert(key, deposit.number),
                    None => Some(deposit.number),
                };
                self.doomed.extend(outdated);
            }
            Event::Undelivered {
                worker,
                payload,
                epoch,
            } => {
                let source = (*worker, *payload, *epoch);
                let of = |held: &Held| (held.worker, held.payload, held.grant.epoch);
                self.held.retain(|key, held| {
                    let stays = of(held) != source;
                    if !stays {
                        self.free_since.insert(key.clone(), held.since);
                    }
                    stays
                });
                self.deaf.insert(*worker);
                happened.push("lease undelivered".to_owned());
            }
            Event::Exited { worker, at, .. } => {
                let lost = self.held.extract_if(.., |_, held| held.worker == *worker);
                for (key, held) in lost.collect::<Vec<_>>() {
                    // One that was given up counts to its last beat only.
                    let at = if core.workers[worker].ending == Ending::None {
                        self.forgive(core, &key, &held, *at);
                        *at
                    } else {
                        core.workers[worker].last_beat
                    };
                    self.end(core, &key, &held, at);
                    *self.failures.entry(key).or_default() += 1;
                    happened.push("lease died".to_owned());
                }
                self.wants.remove(worker);
            }
            _ => {}
        }
        happened
    }

    /// It went well for a while.
    fn forgive(&mut self, core: &Core, key: &Key, held: &Held, until: Moment) {
        if until.since(held.since) >= core.policy.stable_after {
            self.failures.remove(key);
        }
    }

    fn end(&mut self, core: &Core, key: &Key, held: &Held, at: Moment) {
        self.green.held(core, key, at.since(held.since));
        self.free_since.insert(key.clone(), at.max(held.since));
        let slot = core.workers[&held.worker].slot;
        let mut slots = core.slots.iter().zip(0..);
        if slots.all(|(place, index)| place.serving.is_some() || index == slot) {
            self.lived.insert(key.clone(), at.since(held.since));
        } else {
            self.lived.remove(key);
        }
    }

    /// Call for each action.
    pub(super) fn see(
        &mut self,
        core: &Core,
        now: Moment,
        action: &Action,
        said: &Said,
        ended: &BTreeSet<WorkerId>,
    ) -> Vec<&'static str> {
        match action {
            Action::Send {
                worker,
                order:
                    Order::Grant {
                        payload,
                        grant,
                        kept,
                    },
            } => {
                let mut happened =
                    self.see_grant(core, now, *worker, *payload, *grant, said, ended);
                happened.extend(self.see_kept(*worker, *payload, *kept));
                happened
            }
            Action::Discard { deposit } => self.see_discard(core, *deposit),
            Action::Send {
                worker,
                order: Order::Revoke { payload, epoch },
            } => {
                let mut held = self.held.values_mut();
                let held = held.find(|held| (held.worker, held.payload) == (*worker, *payload));
                let held = held.expect("a lease is taken from somebody who has none");
                assert_eq!(held.grant.epoch, *epoch);
                let leaves = core.workers[worker].is_leaving() || said[worker].1 > Phase::Serving;
                assert!(!held.revoked && !leaves, "it gives back by itself");
                held.revoked = true;
                vec!["lease revoked"]
            }
            Action::Log(Notice::LeasePauses {
                lease,
                failures,
                delay,
            }) => {
                assert!(*delay <= core.policy.backoff_max);
                let key = (lease.payload.clone(), lease.slot);
                let known = self.failures.get(&key).copied().unwrap_or_default();
                assert!(
                    (FAILING..=known).contains(failures),
                    "{key:?} has failed {known}"
                );
                let limit = core.policy.backoff_initial * (1 << (failures - 2).min(20));
                let limit = limit.min(core.policy.backoff_max) * FORGIVEN;
                let lived = self.lived.get(&key).copied().unwrap_or_default();
                assert!(lived < limit, "{key:?} pauses after {lived:?}");
                self.green.paused(&key, *failures);
                self.paused.insert(key, now + *delay);
                vec!["lease paused"]
            }
            Action::Fork {
                cause: Cause::Recycle(Recycle::Slots),
                ..
            } if usize::from(core.leases.shares()) != core.target() => vec!["shares waited"],
            Action::Log(Notice::LeaseGranted { lease, gap, .. }) => {
                let key = (lease.payload.clone(), lease.slot);
                let Some(since) = self.free_since.remove(&key) else {
                    return Vec::new();
                };
                let span = now.since(since);
                assert!(*gap >= span, "nobody had {key:?} for {span:?}, not {gap:?}");
                vec![if span > LONG {
                    "a long gap is told"
                } else {
                    "a gap is told"
                }]
            }
            // New code, or the old one again: it may try at once.
            Action::Release => {
                self.paused.clear();
                self.green.decided(core.generation);
                Vec::new()
            }
            Action::Log(Notice::Degraded {
                failing: Some((lease, failures, _)),
                ..
            }) => {
                let key = (lease.payload.clone(), lease.slot);
                let known = self.failures.get(&key).copied().unwrap_or_default();
                assert!((FAILING..=known).contains(failures));
                vec!["degraded by a payload"]
            }
            Action::Log(Notice::Degraded { withheld: true, .. }) => {
                assert!(self.withheld);
                vec!["degraded by an earlier life"]
            }
            _ => Vec::new(),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that a grant depends on")]
    fn see_grant(
        &mut self,
        core: &Core,
        now: Moment,
        worker: WorkerId,
        payload: u32,
        grant: Grant,
        said: &Said,
        ended: &BTreeSet<WorkerId>,
    ) -> Vec<&'static str> {
        assert!(!self.withheld, "a grant while others may have it");
        let wants = &self.wants[&worker];
        let want = wants.iter().find(|want| want.payload == payload);
        let want = want.expect("a grant of what it does not want");
        let (slot, phase) = said[&worker];
        assert_eq!(phase, Phase::Serving, "a grant to one that does not serve");
        assert!(!ended.contains(&worker), "a grant to one that leaves");
        assert!(!self.spent.contains(&(worker, payload)), "it cannot");
        let key = (
            want.name.clone(),
            (want.scope == Scope::Slot).then_some(slot),
        );
        let paused = self.paused.get(&key);
        assert!(paused.is_none_or(|until| *until <= now), "{key:?} pauses");
        for ((name, other), held) in &self.held {
            let disjoint = key.1.is_some() && other.is_some() && key.1 != *other;
            assert!(
                *name != key.0 || (disjoint && held.grant.slots == grant.slots),
                "{key:?} is granted to {worker} ({grant:?}), and {} has {other:?} ({:?})",
                held.worker,
                held.grant
            );
        }
        assert!(grant.epoch > self.last_epoch, "epochs do not rise");
        self.last_epoch = grant.epoch;
        let shares = core.leases.shares();
        let expected = key.1.map_or(core.target(), |_| usize::from(shares));
        assert_eq!(usize::from(grant.slots), expected);
        assert!(key.1.is_none_or(|slot| slot < shares), "no share");
        let generation = core.workers[&worker].generation;
        assert!(!self.finished.contains(&(key.clone(), generation)), "again");
        if core.is_member(worker) || generation > core.generation {
            let others = said.iter().filter(|(id, (_, phase))| {
                *phase == Phase::Serving && !ended.contains(id) && !self.deaf.contains(id)
            });
            for (other, _) in others {
                let theirs = core.workers[other].generation;
                let in_place = core.slots.iter().any(|slot| slot.serving == Some(*other));
                assert!(
                    theirs > core.generation || !in_place,
                    "worker {worker} is not committed, and {other} serves"
                );
            }
        }
        let held = Held {
            worker,
            payload,
            grant,
            since: now,
            revoked: false,
        };
        self.held.insert(key.clone(), held);
        let mut happened = vec!["lease granted"];
        if let Some(before) = self.before.insert(key, generation) {
            happened.push("lease granted again");
            if before != generation {
                happened.push("lease granted to another generation");
            }
        }
        happened
    }

    /// What was left last, and nothing else, goes along.
    fn see_kept(
        &self,
        worker: WorkerId,
        payload: u32,
        kept: Option<Deposit>,
    ) -> Option<&'static str> {
        let mut held = self.held.iter();
        let of = |held: &Held| (held.worker, held.payload) == (worker, payload);
        let (key, _) = held.find(|(_, held)| of(held)).expect("it was granted");
        let number = kept.map(|kept| kept.number);
        assert_eq!(number, self.deposits.get(key).copied(), "{key:?}");
        kept.map(|_| "something kept goes along")
    }

    /// It was replaced or came too late; or nobody can ever get it, and no reload can be rolled back.
    fn see_discard(&mut self, core: &Core, number: u64) -> Vec<&'static str> {
        if self.doomed.remove(&number) {
            return Vec::new();
        }
        let mut deposits = self.deposits.iter();
        let key = deposits.find(|(_, other)| **other == number);
        let key = key.expect("discarded twice").0.clone();
        assert!(!self.held.contains_key(&key), "{key:?} has a holder");
        assert!(self.is_outdated(core, &key), "{key:?} may be wanted");
        self.deposits.remove(&key);
        vec!["something kept is discarded"]
    }

    fn is_outdated(&self, core: &Core, (name, slot): &Key) -> bool {
        let scope = slot.map_or(Scope::Service, |_| Scope::Slot);
        let mut wants = self.wants.values().flatten();
        let declared = wants.any(|want| want.name == *name && want.scope == scope);
        let complete = core.slots.iter().all(|slot| slot.serving.is_some());
        let given_up = slot.is_some_and(|slot| usize::from(slot) >= core.target());
        let undecided = ["executing", "preparing", "trial", "going back"];
        let decided = core
            .reload_stage()
            .is_none_or(|stage| !undecided.contains(&stage));
        decided && (given_up || (complete && !declared))
    }

    /// Call after each `handle`: what somebody could have, somebody has, or is told to give back, or it pauses.
    pub(super) fn check(
        &mut self,
        core: &Core,
        now: Moment,
        said: &Said,
        ended: &BTreeSet<WorkerId>,
    ) {
        assert!(self.doomed.is_empty(), "nobody gets {:?}", self.doomed);
        self.check_green(core, now);
        let missed = |key: &Key| self.is_missed(core, key);
        let free: Vec<Key> = self.free_since.keys().cloned().collect();
        for key in free
            .into_iter()
            .filter(|key| !missed(key))
            .collect::<Vec<_>>()
        {
            self.free_since.remove(&key);
        }
        if matches!(core.state(), ServiceState::Stopping | ServiceState::Booting) {
            return;
        }
        for key in self.deposits.keys() {
            let free = !self.held.contains_key(key);
            assert!(!free || !self.is_outdated(core, key), "{key:?} stays");
        }
        let shares = core.leases.shares();
        // A share that is not there is forgotten.
        let is_there = |key: &Key| key.1.is_none_or(|slot| slot < shares);
        self.paused.retain(|key, _| is_there(key));
        for (key, held) in &self.held {
            let Some(slot) = key.1 else { continue };
            let place = core.slots.get(usize::from(slot));
            let rightful = place.is_some_and(|place| place.serving == Some(held.worker));
            // It was given up, and the others are not ready to share the work without it.
            let rightful = rightful || (place.is_none() && slot < shares);
            // It was given up and is there again; who served in it does so until somebody else does.
            let vacant = place.is_some_and(|place| place.serving.is_none());
            let rightful = rightful || (vacant && core.surplus.contains(&held.worker));
            assert!(
                (rightful && held.grant.slots == shares) || is_told(held, said, ended),
                "{key:?} is held by the wrong worker, {}",
                held.worker
            );
        }
        let complete = core.slots.iter().all(|slot| slot.serving.is_some());
        let settled = usize::from(shares) == core.target();
        assert!(settled || !complete || self.waits(core), "not shared");
        assert!(usize::from(shares) <= core.target() || self.waits(core));
        for (id, wants) in &self.wants {
            let (slot, phase) = said[id];
            let place = core.slots.get(usize::from(slot));
            let in_place = place.is_some_and(|place| place.serving == Some(*id));
            if phase != Phase::Serving || ended.contains(id) || self.deaf.contains(id) || !in_place
            {
                continue;
            }
            for want in wants {
                let key = (
                    want.name.clone(),
                    (want.scope == Scope::Slot).then_some(slot),
                );
                if key.1.is_some_and(|slot| slot >= shares) {
                    continue;
                }
                let generation = core.workers[id].generation;
                let done = self.finished.contains(&(key.clone(), generation));
                if done || self.spent.contains(&(*id, want.payload)) {
                    continue;
                }
                self.check_held(core, now, id, &key, said, ended);
            }
        }
    }

    /// The app of a worker that stays has it, or an empty slot may get one that has; and it is not done.
    fn is_missed(&self, core: &Core, key: &Key) -> bool {
        let scope = key.1.map_or(Scope::Service, |_| Scope::Slot);
        let mut declared = self.wants.iter().filter(|(_, wants)| {
            let mut wants = wants.iter();
            wants.any(|want| want.name == key.0 && want.scope == scope)
        });
        let declared = declared.any(|(id, _)| {
            let worker = &core.workers[id];
            let counts = !worker.is_leaving() && worker.generation <= core.generation;
            counts && !self.is_finished(key, worker.generation)
        });
        let incomplete = core.slots.iter().any(|slot| slot.serving.is_none());
        let there = key.1.is_none_or(|slot| slot < core.leases.shares());
        there && (declared || (incomplete && !self.is_finished(key, core.generation)))
    }

    /// Somebody has a share that cannot be started again there, and nobody is prepared to take his place.
    fn waits(&self, core: &Core) -> bool {
        let once = |held: &Held| {
            let mut wants = self.wants[&held.worker].iter();
            wants.any(|want| want.payload == held.payload && want.once)
        };
        let prepared = |id| core.workers[&id].phase == Phase::Prepared;
        self.held.iter().any(|(key, held)| {
            let place = key.1.and_then(|slot| core.slots.get(usize::from(slot)));
            place.is_some_and(|place| {
                place.serving == Some(held.worker) && !place.incoming.is_some_and(prepared)
            }) && once(held)
        })
    }

    fn check_held(
        &self,
        core: &Core,
        now: Moment,
        candidate: &WorkerId,
        key: &Key,
        said: &Said,
        ended: &BTreeSet<WorkerId>,
    ) {
        if self.withheld {
            return;
        }
        let slots = core.leases.shares();
        let told = |held: &Held| is_told(held, said, ended);
        if let Some(held) = self.held.get(key) {
            let outdated = key.1.is_some() && held.grant.slots != slots;
            assert!(!outdated || told(held), "{key:?} is held for too long");
            return;
        }
        let pause = core.lease_pauses_until(&key.0, key.1);
        if let Some(until) = pause {
            assert!(now < until && until <= now + core.policy.backoff_max);
            return;
        }
        // Something of the same name is in the way, and is about to go.
        let in_the_way = |(other, held): (&Key, &Held)| {
            let disjoint = key.1.is_some() && other.1.is_some();
            other.0 == key.0 && (!disjoint || held.grant.slots != slots)
        };
        let way: Vec<_> = self.held.iter().filter(|pair| in_the_way(*pair)).collect();
        assert!(!way.is_empty(), "nobody has {key:?}, and nobody knows why");
        for (other, held) in way {
            // Two apps that do not agree on the scope can serve side by side: in a trial, until it ends, and where even
            // the way back of a reload has failed.
            let generation = |id| core.workers[id].generation;
            assert!(
                told(held) || generation(&held.worker) != generation(candidate),
                "{other:?} is in the way of {key:?} for ever"
            );
        }
    }
}

/// It gives back what it has, or is gone soon.
fn is_told(held: &Held, said: &Said, ended: &BTreeSet<WorkerId>) -> bool {
    held.revoked || ended.contains(&held.worker) || said[&held.worker].1 > Phase::Serving
}
