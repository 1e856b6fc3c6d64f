//! Seeded random runs of the core against a world of workers that crash, hang, dawdle and lie.
//!
//! What a worker says is heard after a while, its end last; what is sent to one that is dead, or has no channel any
//! more, does not arrive, as in the shell; nor does what the arbiter has no room for, now and then.
//!
//! `PAYLOAD_TEST_SEED=…` replays one run; `PAYLOAD_TEST_STEPS=…` changes how long the search is.

mod absence;
mod reach;
mod shell;
mod worker;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::actions::Action;
use super::backoff::Random;
use super::events::{Event, Exit, Request};
use super::invariants::Witness;
use super::lease::Want;
use super::links::Links;
use super::reload::Trigger;
use super::roster::WorkerId;
use super::{Core, MAX_SLOTS, Moment, Policy};
use crate::ipc::orders::{Level, Recycle};
use crate::status::ServiceState;
use absence::Absence;
use reach::check_reach;
use worker::Actor;

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
        idle_exit: None,
        preflight: seconds(10),
        trial: seconds(1),
        watchdog: Some(seconds(15)),
        extension_interval: seconds(10),
        extension: seconds(30),
    }
}

struct World {
    core: Core,
    links: Links,
    witness: Witness,
    absence: Absence,
    random: Random,
    now: Moment,
    actors: BTreeMap<WorkerId, Actor>,
    left: bool,
    /// When the check of the new binary answers, and what.
    preflight: Option<(Moment, Result<(), String>)>,
    triggers: u64,
    /// The last number of what was kept.
    deposits: u64,
    /// The payloads that need leases, by generation.
    apps: BTreeMap<u32, Vec<Want>>,
    /// They do not say which of them can be started only once.
    older: bool,
    /// Somebody was killed, although nothing bad is likely.
    killed: bool,
    /// Connections that nobody has accepted.
    backlog: u64,
    /// What workers had accepted that are gone.
    accepted_before: u64,
    /// The last steps, for whoever has to understand a failure.
    trace: VecDeque<(Moment, Event, Vec<Action>)>,
    /// How likely bad things are at present.
    trouble: f64,
    /// There was a time of this run when they were.
    troubled: bool,
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
        if random.fraction() < 0.3 {
            policy.idle_exit = Some(Duration::from_secs(u64::from(1 + pick(&mut random, 20))));
        }
        let older = random.fraction() < 0.3;
        let trouble = [0.0, 0.01, 0.05, 0.3][usize::from(pick(&mut random, 4))];
        Self {
            core: Core::new(policy, random.next()),
            links: Links::default(),
            witness: Witness::default(),
            absence: Absence::default(),
            random,
            now: Moment::from_nanos(1_000_000_000),
            actors: BTreeMap::new(),
            left: false,
            preflight: None,
            triggers: 0,
            deposits: 0,
            apps: BTreeMap::new(),
            older,
            killed: false,
            backlog: 0,
            accepted_before: 0,
            trace: VecDeque::new(),
            trouble,
            troubled: trouble > 0.0,
            steps: 0,
        }
    }

    fn chance(&mut self, share: f64) -> bool {
        self.random.fraction() < share
    }

    fn span(&mut self, max_millis: u16) -> Duration {
        Duration::from_millis(u64::from(pick(&mut self.random, max_millis.max(1))))
    }

    /// When the image is to be changed: that, or one more thing that was heard before. True: something was done.
    fn leave(&mut self) -> bool {
        let Some(image) = self.core.leaves_for() else {
            return false;
        };
        let event = if self.chance(0.7) {
            self.exec(image)
        } else if self.chance(0.1) {
            Event::Asked(Request::Stop(Level::Graceful))
        } else if self.chance(0.5) {
            self.operator();
            return true;
        } else {
            if self.chance(0.5)
                && let Some(id) = self.any_worker()
            {
                self.killed = true;
                self.exit(id, Exit::Signal(9));
            }
            let Some((id, _)) = self.next_said() else {
                return false;
            };
            self.take(id);
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

    /// One step: whatever happens next, or an operator.
    fn step(&mut self) {
        if self.witness.withholds_leases() && self.chance(0.02) {
            self.deliver(Event::Claimed);
        } else if !self.leave() {
            let share = match self.core.state() {
                ServiceState::Booting => 0.1,
                ServiceState::Reloading => 0.05,
                _ => 0.02,
            };
            if self.chance(share) {
                self.now = self.now + self.span(500);
                self.backlog += u64::from(self.chance(0.5));
                self.operator();
            } else {
                self.go_on();
            }
        }
        self.check_absence();
    }

    fn calm_step(&mut self) {
        if let Some(image) = self.core.leaves_for() {
            let event = self.exec(image);
            self.deliver(event);
        } else {
            self.go_on();
        }
        self.check_absence();
    }

    /// The next thing that is heard of a worker, or that one does, or the core's timeout.
    fn go_on(&mut self) {
        let said = self.next_said();
        let moving = self.actors.iter().filter(|(_, actor)| !actor.dead);
        let actor = moving
            .min_by_key(|(_, actor)| actor.next_at)
            .map(|(id, actor)| (*id, actor.next_at));
        let timeout = self.core.poll_timeout();
        let others = [said.map(|(_, at)| at), actor.map(|(_, at)| at), timeout];
        let next = others.into_iter().flatten().min();
        if self.preflight_answers(next) {
            return;
        }
        let is_next = |at: Moment| next.is_none_or(|next| at <= next);
        match (said, actor) {
            (Some((id, at)), _) if is_next(at) => self.take(id),
            (_, Some((id, at))) if is_next(at) => self.act(id, at),
            _ => self.tick(timeout),
        }
    }

    fn tick(&mut self, due: Option<Moment>) {
        let Some(due) = due else {
            panic!(
                "nobody lives and nothing is awaited: {:?}",
                self.core.state()
            );
        };
        self.now = self.now.max(due);
        if self.chance(self.trouble / 10.0) {
            // The arbiter itself was stopped for a while.
            self.now = self.now + self.span(60_000);
            self.absence.forget();
        }
        self.beat();
        self.deliver(Event::Tick);
    }

    fn any_worker(&mut self) -> Option<WorkerId> {
        let living = self.actors.iter().filter(|(_, actor)| !actor.dead);
        let living: Vec<WorkerId> = living.map(|(id, _)| *id).collect();
        let count = u16::try_from(living.len().max(1)).unwrap_or(1);
        let number = pick(&mut self.random, count);
        living.get(usize::from(number)).copied()
    }

    fn operator(&mut self) {
        let any = self.any_worker();
        let event = match pick(&mut self.random, 40) {
            0 => Event::Asked(Request::Stop(Level::Graceful)),
            1 => Event::Asked(Request::Stop(Level::Quick)),
            2..6 => Event::Asked(Request::OneMore),
            6..10 => Event::Asked(Request::OneLess),
            10 => Event::Asked(Request::Scale(pick(&mut self.random, 10))),
            12..20 => self.reload(),
            11 => Event::Asked(Request::Scale(MAX_SLOTS + 1 + pick(&mut self.random, 9))),
            n => match any {
                Some(worker) if n < 25 => {
                    let cause = Recycle::Requests;
                    return self.say(worker, Event::Recycle { worker, cause });
                }
                // What it has said cannot be read.
                Some(worker) if n < 26 && self.trouble > 0.0 => {
                    return self.hang_up(worker, false);
                }
                _ if n == 26 => Event::Asked(Request::Restart),
                _ => Event::Tick,
            },
        };
        self.deliver(event);
    }

    /// After the random part: with no more trouble, the service must come to rest as it should.
    fn settle(&mut self) {
        self.trouble = 0.0;
        if self.witness.withholds_leases() && !self.left {
            self.deliver(Event::Claimed);
        }
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
        // Whatever pauses has its turn.
        let rest = self.core.policy.backoff_max + Duration::from_secs(20);
        let deadline = self.now + rest.mul_f64(self.random.fraction());
        while !self.left && self.now < deadline {
            self.calm_step();
        }
        if self.left {
            return;
        }
        let request = if self.chance(0.5) {
            Request::Restart
        } else {
            Request::Stop(Level::Graceful)
        };
        self.deliver(Event::Asked(request));
        let deadline = self.now + Duration::from_secs(600);
        while !self.left {
            assert!(self.now < deadline, "it did not stop");
            self.calm_step();
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
        if world.chance(0.3) {
            world.inherit();
        }
        if world.chance(0.2) {
            world.core.withhold_leases();
            world.witness.withhold_leases();
        }
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
