//! Seeded random runs of the core against a world of workers that crash, hang, dawdle and lie.
//!
//! `PAYLOAD_TEST_SEED=…` replays one run; `PAYLOAD_TEST_STEPS=…` changes how long the search is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::actions::{Action, Image};
use super::backoff::Random;
use super::events::{Event, Exit, Request};
use super::invariants::Witness;
use super::lease::Want;
use super::reload::Trigger;
use super::roster::WorkerId;
use super::saved::Saved;
use super::tenant::{self, Tenant};
use super::{Core, MAX_SLOTS, Moment, Policy};
use crate::ipc::orders::{Level, Order, Recycle};
use crate::lease::Released;
use crate::status::ServiceState;
use crate::worker::phase::Phase;

const STEPS: u64 = 1_200_000;
/// Random steps of one run, before it may come to rest.
const STEPS_PER_RUN: u64 = 400;
const TRACE: usize = 40;

pub(super) fn policy() -> Policy {
    let seconds = Duration::from_secs;
    Policy {
        workers: 3,
        startup: Some(seconds(20)),
        graceful: Some(seconds(15)),
        cleanup: Some(seconds(5)),
        heartbeat_boot: Some(seconds(10)),
        heartbeat_serving: Some(seconds(6)),
        heartbeat_stopping: Some(seconds(6)),
        abort_grace: seconds(2),
        margin: seconds(2),
        backoff_initial: Duration::from_millis(100),
        backoff_max: seconds(30),
        crash_budget: 10,
        crash_window: seconds(60),
        stable_after: seconds(10),
        max_age: None,
        preflight: seconds(10),
        trial: seconds(1),
        watchdog: Some(seconds(15)),
        extension_interval: seconds(10),
        extension: seconds(30),
    }
}

/// A pretended worker: where it is, what it does next and when.
struct Actor {
    phase: Phase,
    next_at: Moment,
    told_to_serve: bool,
    told_to_stop: bool,
    aborted: bool,
    killed: bool,
    /// Neither beats nor moves any more.
    hung: bool,
    /// What its app does with leases.
    tenant: Tenant,
}

struct World {
    core: Core,
    witness: Witness,
    random: Random,
    now: Moment,
    actors: BTreeMap<WorkerId, Actor>,
    left: bool,
    /// When the check of the new binary answers, and what.
    preflight: Option<(Moment, Result<(), String>)>,
    triggers: u64,
    /// The payloads that need leases, by generation.
    apps: BTreeMap<u32, Vec<Want>>,
    /// The last steps, for whoever has to understand a failure.
    trace: VecDeque<(Moment, Event, Vec<Action>)>,
    /// How likely bad things are, in this run.
    trouble: f64,
    steps: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut policy = policy();
        policy.workers = 1 + pick(&mut random, 5);
        if random.fraction() < 0.3 {
            policy.max_age = Some(Duration::from_secs(40));
        }
        if random.fraction() < 0.1 {
            policy.graceful = None;
            policy.startup = None;
        }
        let trouble = [0.0, 0.01, 0.05, 0.3][usize::from(pick(&mut random, 4))];
        Self {
            core: Core::new(policy, random.next()),
            witness: Witness::default(),
            random,
            now: Moment::from_nanos(1_000_000_000),
            actors: BTreeMap::new(),
            left: false,
            preflight: None,
            triggers: 0,
            apps: BTreeMap::new(),
            trace: VecDeque::new(),
            trouble,
            steps: 0,
        }
    }

    fn chance(&mut self, share: f64) -> bool {
        self.random.fraction() < share
    }

    fn span(&mut self, max_millis: u16) -> Duration {
        Duration::from_millis(u64::from(pick(&mut self.random, max_millis.max(1))))
    }

    fn deliver(&mut self, event: Event) {
        if self.left {
            return;
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
        let ticked = event == Event::Tick;
        let actions = self.core.handle(self.now, event);
        if let Some(last) = self.trace.back_mut() {
            last.2.clone_from(&actions);
        }
        self.witness
            .check(&self.core, self.now, ticked, &before, &actions);
        let mut answers = Vec::new();
        for action in &actions {
            self.carry_out(action, &mut answers);
        }
        for answer in answers {
            self.deliver(answer);
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
                let random = &mut self.random;
                let app = self.apps.entry(generation);
                let wants = app.or_insert_with(|| tenant::app(random)).clone();
                self.actors.insert(
                    worker,
                    Actor {
                        phase: Phase::Forked,
                        next_at,
                        told_to_serve: false,
                        told_to_stop: false,
                        aborted: false,
                        killed: false,
                        hung: false,
                        tenant: Tenant::new(slot, wants),
                    },
                );
                let pid = u32::try_from(worker.0).unwrap_or(0) + 1000;
                answers.push(Event::Forked { worker, pid });
            }
            Action::Send { worker, order } => {
                let soon = self.now + self.span(500);
                if let Some(actor) = self.actors.get_mut(&worker) {
                    match order {
                        Order::Serve => actor.told_to_serve = true,
                        Order::Stop(_) => actor.told_to_stop = true,
                        Order::Grant { .. } | Order::Revoke { .. } => actor.tenant.hear(order),
                        // The shell's own.
                        Order::Receive { .. } | Order::Give { .. } | Order::Close => {}
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
            | Action::Stopping
            | Action::Watchdog
            | Action::ExtendTimeout(_)
            | Action::Log(_) => {}
        }
    }

    /// The arbiter's process goes on with another image; what it knows goes through its format.
    fn exec(&mut self, image: Image) -> Event {
        let failed = |error: &str| Event::ExecFailed {
            error: error.to_owned(),
        };
        if self.chance(self.trouble / 2.0) {
            return failed("ENOMEM");
        }
        // The other image was there, and gave everything back.
        let rejected = self.chance(self.trouble / 2.0);
        self.now = self.now + self.span(7);
        let text = serde_json::to_string(&self.core.save()).unwrap();
        let saved: Saved = serde_json::from_str(&text).unwrap();
        let mut policy = self.core.policy.clone();
        if image == Image::Next && !rejected && self.chance(0.2) {
            policy.workers = 1 + pick(&mut self.random, 5);
        }
        self.core = Core::adopt(policy, self.random.next(), saved, self.now);
        if rejected {
            return failed("EMFILE");
        }
        Event::Resume
    }

    /// When the image is to be changed: that, or one more thing that was heard before. True: something was done.
    fn leave(&mut self) -> bool {
        let Some(image) = self.core.leaves_for() else {
            return false;
        };
        let event = if self.chance(0.7) {
            self.exec(image)
        } else if self.chance(0.5) {
            self.operator()
        } else {
            let Some(id) = self.any_worker() else {
                return false;
            };
            self.exit(id, Exit::Signal(9));
            return true;
        };
        self.deliver(event);
        true
    }

    /// The check of the new binary, when it is the next thing to happen.
    fn preflight_answers(&mut self, before: Option<Moment>) -> bool {
        match &self.preflight {
            Some((at, _)) if before.is_none_or(|before| *at <= before) => {
                let (at, result) = self.preflight.take().unwrap();
                self.now = self.now.max(at);
                self.deliver(Event::Preflighted(result));
                true
            }
            _ => false,
        }
    }

    fn reload(&mut self) -> Event {
        self.triggers += 1;
        Event::Asked(Request::Reload(Trigger(self.triggers)))
    }

    /// One step: the next thing that a worker does, the core's timeout, or an operator.
    fn step(&mut self) {
        if self.leave() {
            return;
        }
        let share = match self.core.state() {
            ServiceState::Booting => 0.1,
            ServiceState::Reloading => 0.05,
            _ => 0.02,
        };
        if self.chance(share) {
            self.now = self.now + self.span(500);
            let event = self.operator();
            self.deliver(event);
            return;
        }
        let actor = self
            .actors
            .iter()
            .min_by_key(|(_, actor)| actor.next_at)
            .map(|(id, actor)| (*id, actor.next_at));
        let timeout = self.core.poll_timeout();
        let next = actor.map(|(_, at)| at).into_iter().chain(timeout).min();
        if self.preflight_answers(next) {
            return;
        }
        match (actor, timeout) {
            (Some((id, at)), Some(due)) if at <= due => self.act(id, at),
            (Some((id, at)), None) => self.act(id, at),
            (_, Some(due)) => {
                self.now = self.now.max(due);
                if self.chance(self.trouble / 10.0) {
                    // The arbiter itself was stopped for a while.
                    self.now = self.now + self.span(60_000);
                }
                self.beat();
                self.deliver(Event::Tick);
            }
            (None, None) => panic!(
                "nobody lives and nothing is awaited: {:?}",
                self.core.state()
            ),
        }
    }

    fn beat(&mut self) {
        let now = self.now;
        let beats = self
            .actors
            .iter()
            .filter(|(_, actor)| !actor.hung && !actor.aborted)
            .map(|(id, _)| (*id, now))
            .collect();
        self.deliver(Event::Beats(beats));
    }

    fn any_worker(&mut self) -> Option<WorkerId> {
        let count = u16::try_from(self.actors.len().max(1)).unwrap_or(1);
        let number = pick(&mut self.random, count);
        self.actors.keys().nth(usize::from(number)).copied()
    }

    fn operator(&mut self) -> Event {
        let any = self.any_worker();
        match pick(&mut self.random, 40) {
            0 => Event::Asked(Request::Stop(Level::Graceful)),
            1 => Event::Asked(Request::Stop(Level::Quick)),
            2..6 => Event::Asked(Request::OneMore),
            6..10 => Event::Asked(Request::OneLess),
            10 => Event::Asked(Request::Scale(pick(&mut self.random, 10))),
            12..20 => self.reload(),
            11 => Event::Asked(Request::Scale(MAX_SLOTS + 1 + pick(&mut self.random, 9))),
            n => match any {
                Some(worker) if n < 25 => Event::Recycle {
                    worker,
                    cause: Recycle::Requests,
                },
                Some(worker) if n < 26 && self.trouble > 0.0 => Event::ChannelClosed { worker },
                _ => Event::Tick,
            },
        }
    }

    /// The worker does what it does next.
    fn act(&mut self, id: WorkerId, at: Moment) {
        self.now = self.now.max(at);
        let pause = self.span(4_000);
        let (trouble, serve_trouble) = (self.trouble, self.trouble / 5.0);
        let (crash, hang, quit) = (
            self.chance(trouble),
            self.chance(trouble / 2.0),
            self.chance(serve_trouble),
        );
        let dead_channel = self.chance(0.1);
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        actor.next_at = self.now + pause;
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
                self.deliver(Event::ChannelClosed { worker: id });
            }
            return self.exit(id, Exit::Signal(11));
        }
        let Some(actor) = self.actors.get_mut(&id) else {
            return;
        };
        let next = match actor.phase {
            Phase::Forked => Phase::Loading,
            Phase::Loading | Phase::Starting if actor.told_to_stop || quit => Phase::Cleaning,
            Phase::Loading => Phase::Starting,
            Phase::Starting => {
                let wants = actor.tenant.wants.clone();
                self.deliver(Event::Wants { worker: id, wants });
                Phase::Prepared
            }
            Phase::Prepared if actor.told_to_stop => Phase::Cleaning,
            Phase::Prepared if actor.told_to_serve => Phase::Serving,
            Phase::Serving if actor.told_to_stop || quit => Phase::Draining,
            Phase::Draining => Phase::Cleaning,
            Phase::Cleaning => {
                let code = i32::from(!actor.told_to_stop);
                if code != 0 {
                    self.deliver(Event::Failed {
                        worker: id,
                        reason: "a payload ended".to_owned(),
                    });
                }
                return self.exit(id, Exit::Code(code));
            }
            Phase::Prepared | Phase::Serving | Phase::Exited | Phase::Failed => return,
        };
        if let Some(actor) = self.actors.get_mut(&id) {
            actor.phase = next;
        }
        self.deliver(Event::Entered {
            worker: id,
            phase: next,
        });
    }

    /// What its payloads do. True: one has failed, and the worker drains.
    fn work(&mut self, id: WorkerId) -> bool {
        let Some(actor) = self.actors.get_mut(&id) else {
            return false;
        };
        let serves = actor.phase == Phase::Serving && !actor.told_to_stop;
        let reports = actor.tenant.work(&mut self.random, serves, self.trouble);
        let mut failed = false;
        for (payload, epoch, how) in reports {
            failed |= how == Released::Failed;
            self.deliver(Event::Released {
                worker: id,
                payload,
                epoch,
                how,
            });
        }
        if failed && let Some(actor) = self.actors.get_mut(&id) {
            actor.phase = Phase::Draining;
            self.deliver(Event::Entered {
                worker: id,
                phase: Phase::Draining,
            });
        }
        tenant::check(self.actors.iter().map(|(id, actor)| (*id, &actor.tenant)));
        failed
    }

    fn exit(&mut self, id: WorkerId, exit: Exit) {
        self.actors.remove(&id);
        self.deliver(Event::Exited { worker: id, exit });
    }

    /// After the random part: with no more trouble, the service must come to rest as it should.
    fn settle(&mut self) {
        self.trouble = 0.0;
        let deadline = self.now + Duration::from_secs(600);
        while !self.left && self.now < deadline {
            if self.core.state() == ServiceState::Ready && self.core.serving() == self.core.target()
            {
                break;
            }
            self.calm_step();
        }
        if self.left {
            return;
        }
        assert_eq!(self.core.state(), ServiceState::Ready, "it did not recover");
        self.deliver(Event::Asked(Request::Stop(Level::Graceful)));
        let deadline = self.now + Duration::from_secs(600);
        while !self.left {
            assert!(self.now < deadline, "it did not stop");
            self.calm_step();
        }
    }

    fn calm_step(&mut self) {
        if let Some(image) = self.core.leaves_for() {
            let event = self.exec(image);
            return self.deliver(event);
        }
        let actor = self
            .actors
            .iter()
            .min_by_key(|(_, actor)| actor.next_at)
            .map(|(id, actor)| (*id, actor.next_at));
        let next = actor
            .map(|(_, at)| at)
            .into_iter()
            .chain(self.core.poll_timeout())
            .min();
        if self.preflight_answers(next) {
            return;
        }
        match (actor, self.core.poll_timeout()) {
            (Some((id, at)), due) if due.is_none_or(|due| at <= due) => self.act(id, at),
            (_, Some(due)) => {
                self.now = self.now.max(due);
                self.beat();
                self.deliver(Event::Tick);
            }
            (_, None) => panic!("nothing is awaited: {:?}", self.core.state()),
        }
    }
}

fn pick(random: &mut Random, below: u16) -> u16 {
    u16::try_from(random.next() % u64::from(below)).unwrap_or(0)
}

/// One run: what happened in it, and the number of steps it took.
fn run(seed: u64) -> (BTreeMap<String, u32>, u64) {
    let mut world = World::new(seed);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.deliver(Event::Start);
        while world.steps < STEPS_PER_RUN && !world.left {
            world.step();
        }
        world.settle();
    }));
    match outcome {
        Ok(()) => (world.witness.tally, world.steps),
        Err(panic) => {
            for (now, event, actions) in &world.trace {
                eprintln!("{now:?} {event:?}");
                for action in actions {
                    eprintln!("    {action:?}");
                }
            }
            eprintln!("replay with PAYLOAD_TEST_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_million_random_steps_keep_every_promise() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    if let Some(seed) = number("PAYLOAD_TEST_SEED") {
        run(seed);
        return;
    }
    let wanted = number("PAYLOAD_TEST_STEPS").unwrap_or(STEPS);
    // Known seeds first, so that a failure is the same for everybody.
    let (mut seed, mut steps) = (1, 0);
    let mut tally = BTreeMap::<String, u32>::new();
    while steps < wanted {
        let (more, taken) = run(seed);
        for (what, count) in more {
            *tally.entry(what).or_default() += count;
        }
        steps += taken;
        seed += 1;
    }
    assert!(steps >= wanted);
    if wanted >= STEPS {
        check_reach(&tally);
    }
}

/// The search has been everywhere: every bad thing has happened in every stage.
fn check_reach(tally: &BTreeMap<String, u32>) {
    let stages = [
        "none",
        "waiting",
        "checking",
        "executing",
        "preparing",
        "trial",
        "retiring",
        "going back",
    ];
    let mut wanted: Vec<String> = ["reloaded", "failed"].map(str::to_owned).into();
    for what in [
        "asked again",
        "stopped",
        "old worker ended",
        "new worker ended",
    ] {
        wanted.extend(stages.map(|stage| format!("{what} while {stage}")));
    }
    wanted.extend(["executing", "going back"].map(|stage| format!("exec failed while {stage}")));
    wanted.extend(
        [
            "lease granted",
            "lease granted again",
            "lease revoked",
            "lease stopped",
            "lease spent",
            "lease finished",
            "lease failed",
            "lease died",
            "lease paused",
            "lease granted to another generation",
        ]
        .map(str::to_owned),
    );
    // Before the first READY there is one generation.
    wanted.retain(|what| what != "old worker ended while waiting");
    let missing: Vec<_> = wanted
        .iter()
        .filter(|what| tally.get(*what).is_none_or(|count| *count < 5))
        .collect();
    assert!(missing.is_empty(), "hardly ever: {missing:?}");
}
