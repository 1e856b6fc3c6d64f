//! The pretended workers, which crash, hang, dawdle and lie.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::Moment;
use super::super::events::{Event, Exit};
use super::super::idle::Activity;
use super::super::roster::WorkerId;
use super::super::tenant::{self, Tenant, Word};
use super::World;
use crate::ipc::orders::Order;
use crate::lease::{Deposit, Released};
use crate::status::ServiceState;
use crate::worker::phase::Phase;

/// A pretended worker: where it is, what it does next and when.
pub(super) struct Actor {
    pub(super) phase: Phase,
    pub(super) next_at: Moment,
    pub(super) told_to_serve: bool,
    pub(super) told_to_stop: bool,
    pub(super) aborted: bool,
    pub(super) killed: bool,
    /// Neither beats nor moves any more.
    pub(super) hung: bool,
    /// What its app does with leases.
    pub(super) tenant: Tenant,
    /// Whom it may give them to, the last link last.
    pub(super) heirs: Vec<WorkerId>,
    /// It knows that nobody takes them.
    pub(super) ended: bool,
    pub(super) draining_since: Option<Moment>,
    /// Orders about accepting that it has not read yet.
    pub(super) inbox: VecDeque<Order>,
    pub(super) paused: bool,
    pub(super) connections: u64,
    pub(super) accepted: u64,
    /// What it has said and nobody has heard yet, and when that will be.
    pub(super) line: VecDeque<(Moment, Event)>,
    /// It can be heard, and hears.
    pub(super) connected: bool,
    /// It has found its channel closed, or will when it looks.
    pub(super) deserted: bool,
    /// Its process has ended, and nobody knows it yet.
    pub(super) dead: bool,
}

impl Actor {
    pub(super) fn new(next_at: Moment, tenant: Tenant) -> Self {
        Self {
            phase: Phase::Forked,
            next_at,
            told_to_serve: false,
            told_to_stop: false,
            aborted: false,
            killed: false,
            hung: false,
            tenant,
            heirs: Vec::new(),
            ended: false,
            draining_since: None,
            inbox: VecDeque::new(),
            paused: false,
            connections: 0,
            accepted: 0,
            line: VecDeque::new(),
            connected: true,
            deserted: false,
            dead: false,
        }
    }

    /// It does something by itself yet.
    pub(super) fn moves(&self) -> bool {
        !(self.dead || self.hung || self.aborted || self.killed)
    }

    /// It serves and stays, and can be told things.
    pub(super) fn is_well(&self) -> bool {
        let stays = !self.told_to_stop && !self.deserted && self.connected;
        self.moves() && stays && self.phase == Phase::Serving
    }

    fn is_to_leave(&self) -> bool {
        self.told_to_stop || self.deserted
    }
}

impl World {
    /// The worker says something, which is heard when the arbiter comes to it.
    pub(super) fn say(&mut self, id: WorkerId, event: Event) {
        let late = match self.random.fraction() {
            luck if luck < 0.7 => Duration::ZERO,
            luck if luck < 0.95 => self.span(10),
            _ => self.span(500),
        };
        let at = self.now + late;
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        let is_end = matches!(event, Event::Exited { .. });
        if !actor.connected && !is_end {
            actor.tenant.lose(&event);
            return;
        }
        // One after the other.
        let last = actor.line.back().map_or(at, |(last, _)| *last);
        actor.line.push_back((at.max(last), event));
    }

    pub(super) fn look(&mut self) {
        let activity = self.activity();
        // What is told is not what is true any more.
        if self.chance(0.3) {
            self.backlog += 1;
            if let Some(id) = self.any_worker() {
                self.accept(id);
            }
        }
        self.deliver(Event::Activity(activity));
    }

    fn activity(&self) -> Activity {
        let sum = |count: fn(&Actor) -> u64| self.actors.values().map(count).sum::<u64>();
        Activity {
            connections: sum(|actor| actor.connections),
            in_flight: 0,
            busy: 0,
            accepted: self.accepted_before + sum(|actor| actor.accepted),
            waiting: self.backlog > 0,
        }
    }

    /// Takes a connection if it may, or ends one.
    fn accept(&mut self, id: WorkerId) {
        let ends = self.chance(0.9);
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        if actor.phase == Phase::Serving && !actor.paused && self.backlog > 0 {
            self.backlog -= 1;
            actor.accepted += 1;
            actor.connections += 1;
        } else if ends {
            actor.connections = actor.connections.saturating_sub(1);
        }
    }

    /// When the service leaves by itself, nobody has a connection, and nobody can get one any more.
    pub(super) fn nobody_is_left_behind(&self) {
        for (id, actor) in &self.actors {
            if actor.dead {
                continue;
            }
            assert_eq!(actor.connections, 0, "worker {id} has a connection");
            assert!(actor.paused, "worker {id} accepts");
            assert!(actor.inbox.is_empty(), "worker {id} is going to accept");
        }
    }

    pub(super) fn beat(&mut self) {
        let now = self.now;
        let beats = self
            .actors
            .iter()
            .filter(|(_, actor)| !actor.hung && !actor.aborted && !actor.dead)
            .map(|(id, _)| (*id, now))
            .collect();
        self.deliver(Event::Beats(beats));
    }

    /// The worker does what it does next.
    pub(super) fn act(&mut self, id: WorkerId, at: Moment) {
        self.now = self.now.max(at);
        let pause = self.span(4_000);
        let (trouble, serve_trouble) = (self.trouble, self.trouble / 5.0);
        let (crash, hang, quit) = (
            self.chance(trouble),
            self.chance(trouble / 2.0),
            self.chance(serve_trouble),
        );
        let dead_channel = self.chance(0.1);
        let Some(actor) = self.actors.get_mut(&id).filter(|actor| !actor.dead) else {
            return;
        };
        actor.next_at = self.now + pause;
        let order = (!actor.hung).then(|| actor.inbox.pop_front()).flatten();
        actor.paused = match order {
            Some(Order::Pause { .. }) => true,
            Some(Order::Resume) => false,
            _ => actor.paused,
        };
        if let Some(Order::Pause { round }) = order
            && actor.phase == Phase::Serving
        {
            // What came after it is looked at right then.
            actor.next_at = self.now;
            return self.say(id, Event::Paused { worker: id, round });
        }
        if actor.killed
            || (actor.aborted && !actor.hung)
            || (actor.aborted && pause > Duration::from_millis(200))
        {
            let signal = if actor.killed { 9 } else { 6 };
            return self.exit(id, Exit::Signal(signal));
        }
        if actor.hung {
            return;
        }
        if hang {
            actor.hung = true;
            return;
        }
        if !crash && self.work(id) {
            return;
        }
        if crash {
            if dead_channel {
                self.hang_up(id, true);
            }
            // What kills one may kill another as well.
            if self.chance(0.3)
                && let Some(other) = self.any_worker()
            {
                self.exit(other, Exit::Signal(9));
            }
            return self.exit(id, Exit::Signal(11));
        }
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        let next = match actor.phase {
            Phase::Forked => Phase::Loading,
            Phase::Loading | Phase::Starting if actor.is_to_leave() || quit => Phase::Cleaning,
            Phase::Loading => Phase::Starting,
            Phase::Starting => {
                let wants = actor.tenant.wants.clone();
                self.say(id, Event::Wants { worker: id, wants });
                Phase::Prepared
            }
            Phase::Prepared if actor.is_to_leave() => Phase::Cleaning,
            Phase::Prepared if actor.told_to_serve => Phase::Serving,
            Phase::Serving if actor.is_to_leave() || quit => Phase::Draining,
            Phase::Draining => {
                if !self.hand_on(id) {
                    return;
                }
                Phase::Cleaning
            }
            Phase::Cleaning => {
                let code = i32::from(!actor.is_to_leave());
                if code != 0 {
                    let reason = "a payload ended".to_owned();
                    self.say(id, Event::Failed { worker: id, reason });
                }
                return self.exit(id, Exit::Code(code));
            }
            Phase::Serving => return self.accept(id),
            Phase::Prepared | Phase::Exited | Phase::Failed => return,
        };
        if let Some(actor) = self.actors.get_mut(&id) {
            actor.phase = next;
        }
        let (worker, phase) = (id, next);
        self.say(id, Event::Entered { worker, phase });
    }

    /// What its payloads do. True: one has failed, and the worker drains.
    fn work(&mut self, id: WorkerId) -> bool {
        let Some(actor) = self.actors.get_mut(&id) else {
            return false;
        };
        let serves = actor.phase == Phase::Serving && !actor.is_to_leave();
        let reports = actor.tenant.work(&mut self.random, serves, self.trouble);
        let crossed = std::mem::take(&mut actor.tenant.crossed);
        if crossed {
            self.witness.count("revoked too late".to_owned());
        }
        let mut failed = false;
        for word in reports {
            let event = match word {
                Word::Keeps(payload, epoch) => Event::Kept {
                    worker: id,
                    payload,
                    epoch,
                    deposit: self.deposit(),
                },
                Word::Back(payload, epoch, how) => {
                    failed |= how == Released::Failed;
                    Event::Released {
                        worker: id,
                        payload,
                        epoch,
                        how,
                        at: self.now,
                    }
                }
            };
            self.say(id, event);
        }
        if failed && let Some(actor) = self.actors.get_mut(&id) {
            let (worker, phase) = (id, Phase::Draining);
            actor.phase = phase;
            self.say(id, Event::Entered { worker, phase });
        }
        tenant::check(self.actors.iter().map(|(id, actor)| (*id, &actor.tenant)));
        failed
    }

    pub(super) fn deposit(&mut self) -> Deposit {
        self.deposits += 1;
        Deposit {
            number: self.deposits,
            length: 5,
        }
    }

    /// What the service's last life has left in the manager's store.
    pub(super) fn inherit(&mut self) {
        for (name, slot) in tenant::places() {
            if self.chance(0.5) {
                let deposit = self.deposit();
                assert!(self.core.inherit(name, slot, deposit));
                self.witness.inherit(name, slot, deposit.number);
            }
        }
    }

    /// What a worker does with its connections when it drains. True: it has none any more.
    fn hand_on(&mut self, id: WorkerId) -> bool {
        let now = self.now;
        let graceful = self.core.policy.graceful;
        let Some(actor) = self.actors.get_mut(&id) else {
            return false;
        };
        let since = *actor.draining_since.get_or_insert(now);
        let takes = |heir: &&WorkerId| {
            let heir = &self.actors[*heir];
            heir.phase == Phase::Serving && !heir.dead
        };
        let (count, ended, told) = {
            let actor = &self.actors[&id];
            (actor.connections, actor.ended, actor.is_to_leave())
        };
        let heirs = self.actors[&id].heirs.iter().rev();
        let mut heirs = heirs.filter(|heir| self.actors.contains_key(heir));
        let heir = heirs.find(takes).copied();
        let stops = self.core.state() == ServiceState::Stopping;
        let what = match heir {
            _ if count == 0 => return true,
            Some(heir) => {
                self.actors.get_mut(&heir).unwrap().connections += count;
                "handed on"
            }
            None if ended => "closed",
            None if told && stops => "closed",
            None if graceful.is_some_and(|limit| now >= since + limit) => "cut off",
            None => return false,
        };
        if let Some(actor) = self.actors.get_mut(&id) {
            actor.connections = 0;
        }
        let stage = self.core.reload_stage().unwrap_or("none");
        self.witness.count(format!("{what} while {stage}"));
        // Without crashes somebody always serves, and takes over.
        assert!(what != "cut off" || self.troubled, "{id} found no heir");
        true
    }

    /// Its process ends. What it has said is heard first.
    pub(super) fn exit(&mut self, id: WorkerId, exit: Exit) {
        let others = self.actors.values().any(|actor| actor.dead);
        let Some(actor) = self.actors.get_mut(&id).filter(|actor| !actor.dead) else {
            return;
        };
        actor.dead = true;
        let lost = actor.tenant.die();
        if lost {
            self.witness.count("grant lost".to_owned());
        }
        if others {
            self.witness.count("two dead at once".to_owned());
        }
        let (worker, at) = (id, self.now);
        self.say(id, Event::Exited { worker, exit, at });
    }
}
