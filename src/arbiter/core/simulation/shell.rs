//! The pretended shell: what is heard goes to the core, and what the core wants is done, as far as it can be.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::actions::{Action, Image, Notice};
use super::super::events::{Event, Exit};
use super::super::links::{Links, Seen, Tie};
use super::super::roster::WorkerId;
use super::super::saved::Saved;
use super::super::tenant::{self, Tenant};
use super::super::{Core, Moment};
use super::worker::Actor;
use super::{TRACE, World, pick};
use crate::ipc::orders::{Level, Order};
use crate::lease::Released;
use crate::status::ServiceState;
use crate::worker::phase::Phase;

impl World {
    /// When the next thing comes that some worker has said, and whose.
    pub(super) fn next_said(&self) -> Option<(WorkerId, Moment)> {
        let lines = self.actors.iter();
        let heads = lines.filter_map(|(id, actor)| Some((*id, actor.line.front()?.0)));
        heads.min_by_key(|(_, at)| *at)
    }

    /// The arbiter comes to it.
    pub(super) fn take(&mut self, id: WorkerId) {
        let line = self.actors.get_mut(&id);
        let Some((at, event)) = line.and_then(|actor| actor.line.pop_front()) else {
            return;
        };
        self.now = self.now.max(at);
        if let Event::Exited { .. } = event {
            let gone = self.actors.remove(&id);
            self.accepted_before += gone.map_or(0, |actor| actor.accepted);
        }
        self.deliver(event);
    }

    /// The arbiter closes the channel to the worker. `hears`: what it has said so far still counts.
    pub(super) fn hang_up(&mut self, id: WorkerId, hears: bool) {
        let now = self.now;
        let Some(actor) = self.actors.get_mut(&id).filter(|actor| actor.connected) else {
            return;
        };
        actor.connected = false;
        let is_end = |(_, event): &(Moment, Event)| matches!(event, Event::Exited { .. });
        let ends = actor.line.back().is_some_and(is_end);
        let exit = ends.then(|| actor.line.pop_back()).flatten();
        if !hears {
            let lost = std::mem::take(&mut actor.line);
            for (_, event) in lost {
                actor.tenant.lose(&event);
            }
        }
        for (at, _) in &mut actor.line {
            *at = now;
        }
        actor
            .line
            .push_back((now, Event::ChannelClosed { worker: id }));
        actor.line.extend(exit);
        if !actor.dead {
            actor.deserted = true;
        }
    }

    pub(super) fn deliver(&mut self, event: Event) {
        if self.left {
            return;
        }
        let ticked = event == Event::Tick;
        if ticked && self.core.look_at().is_some_and(|at| at <= self.now) {
            self.look();
        }
        self.steps += 1;
        let before: BTreeSet<WorkerId> = self
            .core
            .slots
            .iter()
            .filter_map(|slot| slot.serving)
            .collect();
        self.witness.hear(&self.core, &event);
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back((self.now, event.clone(), Vec::new()));
        let actions = self.core.handle(self.now, event);
        if let Some(last) = self.trace.back_mut() {
            last.2.clone_from(&actions);
        }
        self.witness
            .check(&self.core, self.now, ticked, &before, &actions);
        if actions.iter().any(is_idle) {
            self.nobody_is_left_behind();
        }
        let mut answers = Vec::new();
        for action in &actions {
            self.carry_out(action, &mut answers);
        }
        for answer in answers {
            self.deliver(answer);
        }
        self.link();
    }

    /// As the shell does it after every event, and before an order to leave.
    fn link(&mut self) {
        let actors = &self.actors;
        let seen = |id| {
            actors.get(&id).map(|actor| Seen {
                phase: actor.phase,
                connections: actor.connections,
            })
        };
        for tie in self.links.update(&self.core, seen) {
            match tie {
                Tie::Heir { from, to } => {
                    assert_ne!(from, to, "an own heir");
                    assert_eq!(self.actors[&to].phase, Phase::Serving, "{tie:?}");
                    assert!(!self.actors[&to].told_to_stop, "{tie:?}");
                    self.actors.get_mut(&from).unwrap().heirs.push(to);
                }
                Tie::End { from } => {
                    assert_eq!(self.core.state(), ServiceState::Stopping);
                    self.actors.get_mut(&from).unwrap().ended = true;
                }
            }
        }
        self.check_heirs();
    }

    /// As long as anybody serves, whoever leaves knows somebody who does.
    fn check_heirs(&self) {
        if self.core.state() == ServiceState::Stopping {
            return;
        }
        let serves = |id: &WorkerId| {
            let actor = self.actors.get(id);
            // Of one that is dead, nobody knows it yet.
            actor.is_some_and(|actor| actor.phase == Phase::Serving && !actor.told_to_stop)
        };
        let serving: Vec<WorkerId> = self.core.serving_workers().map(|(id, _)| id).collect();
        for (id, actor) in &self.actors {
            let leaves = actor.told_to_stop && actor.phase == Phase::Serving;
            if (leaves || actor.phase == Phase::Draining)
                && serving.iter().any(|other| other != id && serves(other))
            {
                let heirs = &actor.heirs;
                assert!(heirs.iter().any(serves), "{id} leaves, and knows {heirs:?}");
            }
        }
    }

    fn carry_out(&mut self, action: &Action, answers: &mut Vec<Event>) {
        match *action {
            Action::Fork {
                worker,
                slot,
                generation,
                ..
            } => {
                if self.chance(self.trouble / 4.0) {
                    answers.push(Event::ForkFailed {
                        worker,
                        error: "EAGAIN".to_owned(),
                    });
                    return;
                }
                let next_at = self.now + self.span(2_000);
                let (random, older) = (&mut self.random, self.older);
                let app = self.apps.entry(generation);
                let wants = app.or_insert_with(|| tenant::app(random, older)).clone();
                let tenant = Tenant::new(slot, wants, older);
                self.actors.insert(worker, Actor::new(next_at, tenant));
                let pid = u32::try_from(worker.0).unwrap_or(0) + 1000;
                answers.push(Event::Forked { worker, pid });
            }
            Action::Send { worker, order } => {
                let soon = self.now + self.span(500);
                if order == Order::Stop(Level::Graceful) {
                    self.link();
                }
                let stops = self.core.state() == ServiceState::Stopping;
                if let Order::Grant { payload, grant, .. } = order
                    && self.has_shortage(worker)
                {
                    answers.push(Event::Released {
                        worker,
                        payload,
                        epoch: grant.epoch,
                        how: Released::NotTaken,
                        at: self.now,
                    });
                } else if !self.reaches(worker, order) {
                    if let Order::Grant { payload, grant, .. } = order {
                        answers.push(Event::Undelivered {
                            worker,
                            payload,
                            epoch: grant.epoch,
                        });
                    }
                } else if let Some(actor) = self.actors.get_mut(&worker) {
                    match order {
                        Order::Serve => actor.told_to_serve = true,
                        Order::Stop(level) => {
                            actor.told_to_stop = true;
                            if level == Level::Quick && !stops {
                                assert!(!actor.told_to_serve, "{worker} may have connections");
                            }
                        }
                        Order::Grant { .. } | Order::Revoke { .. } => actor.tenant.hear(order),
                        // The shell's own.
                        Order::Receive { .. }
                        | Order::Give { .. }
                        | Order::Close
                        | Order::Because { .. }
                        | Order::Peer { .. } => {}
                        Order::Pause { .. } | Order::Resume => actor.inbox.push_back(order),
                    }
                    actor.next_at = soon;
                }
            }
            Action::Abort { worker, .. } => {
                let soon = self.now + self.span(4_000);
                if let Some(actor) = self.actors.get_mut(&worker) {
                    actor.aborted = true;
                    actor.next_at = soon;
                }
            }
            Action::Kill { worker } => {
                let soon = self.now + self.span(50);
                if let Some(actor) = self.actors.get_mut(&worker) {
                    actor.killed = true;
                    actor.next_at = soon;
                }
            }
            Action::Leave(_) => self.left = true,
            Action::Preflight => {
                let at = self.now + self.span(3_000);
                let result = if self.chance(self.trouble) {
                    Err("no such file".to_owned())
                } else {
                    Ok(())
                };
                let hangs = self.chance(self.trouble / 2.0);
                let at = if hangs {
                    at + Duration::from_secs(3_600)
                } else {
                    at
                };
                self.preflight = Some((at, result));
            }
            Action::EndPreflight => self.preflight = None,
            Action::Ready
            | Action::Reloading
            | Action::Release
            | Action::Answer { .. }
            | Action::Discard { .. }
            | Action::Settle
            | Action::Stopping
            | Action::Watchdog
            | Action::ExtendTimeout(_)
            | Action::Log(_) => {}
        }
    }

    /// The arbiter itself has no room for what goes along, although the worker would hear it.
    fn has_shortage(&mut self, worker: WorkerId) -> bool {
        let actor = self.actors.get(&worker);
        let hears = actor.is_some_and(|actor| actor.connected && !actor.dead);
        let is_short = hears && self.chance(self.trouble / 2.0);
        if is_short {
            self.witness.count("grant not sent".to_owned());
        }
        is_short
    }

    /// Whether it can be sent. What the end of a lease depends on and cannot be sent leads to the worker's.
    fn reaches(&mut self, worker: WorkerId, order: Order) -> bool {
        let Some(actor) = self.actors.get(&worker).filter(|actor| actor.connected) else {
            return false;
        };
        let is_dead = actor.dead;
        if is_dead && matches!(order, Order::Grant { .. } | Order::Revoke { .. }) {
            self.hang_up(worker, true);
        }
        !is_dead
    }

    /// The arbiter's process goes on with another image; what it knows goes through its format.
    pub(super) fn exec(&mut self, image: Image) -> Event {
        let failed = |error: &str| Event::ExecFailed {
            error: error.to_owned(),
        };
        if self.chance(self.trouble / 2.0) {
            return failed("ENOMEM");
        }
        // The other image was there, and gave everything back.
        let rejected = self.chance(self.trouble / 2.0);
        self.now = self.now + self.span(7);
        if self.chance(self.trouble)
            && let Some(id) = self.any_worker()
        {
            self.exit(id, Exit::Signal(9));
        }
        if self.next_said().is_some() {
            self.witness.count("heard by another image".to_owned());
        }
        let text = serde_json::to_string(&self.core.save()).unwrap();
        let saved: Saved = serde_json::from_str(&text).unwrap();
        let mut policy = self.core.policy.clone();
        if image == Image::Next && !rejected && self.chance(0.2) {
            policy.workers = 1 + pick(&mut self.random, 5);
        }
        self.core = Core::adopt(policy, self.random.next(), saved, 0, self.now);
        // The image that has gone knew of the links.
        self.links = Links::default();
        if rejected {
            return failed("EMFILE");
        }
        Event::Resume
    }
}

fn is_idle(action: &Action) -> bool {
    matches!(action, Action::Log(Notice::Idle { .. }))
}
