//! Everything at once, for a while: never two writers, nothing of what was kept is lost, and never none for longer than
//! it takes to find out, and to boot where a new worker is needed for it.
//!
//! Each share is judged by itself, in each life of the service from the first moment when it was ready to its end. A busy
//! machine may keep anybody from running for a while: so it is the median, and nine of ten, that are judged strictly.
//!
//! What can happen is a deck of cards, which is shuffled and dealt to its last card, again and again: so everything has
//! happened when it is over. `PAYLOAD_TEST_STORM=60` makes a storm last a minute, `PAYLOAD_TEST_SEED=…` repeats what it
//! does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::judge::{Stint, silences};
use crate::ledger::Book;
use crate::manager::Manager;
use crate::support::service::{Service, Setup, number};
use crate::support::status::workers_of;
use crate::support::{DEADLINE, eventually, within};
use crate::verdict::{Life, Verdict};

const SETTINGS: &str = "workers = 3\n[reload]\ntrial = '50ms'\n[timeouts]\nheartbeat_boot = '1s'\n\
    heartbeat_serving = '1s'\nheartbeat_stopping = '1s'\n\
    abort_grace = '100ms'\ngraceful = '2s'\ncleanup = '2s'\n[restart]\nbackoff_initial = '20ms'\n\
    backoff_max = '200ms'\ncrash_budget = 1000";
const LONGEST_WATCH: Duration = Duration::from_secs(10);

/// What happens, and how often in each deck.
const DECK: [(Gust, usize); 15] = [
    (Gust::Kill, 7),
    (Gust::KillAndWatch, 3),
    (Gust::Terminate, 7),
    (Gust::Freeze, 1),
    (Gust::FreezeAndWatch, 2),
    (Gust::FreezeAndThaw, 2),
    (Gust::OneMore, 3),
    (Gust::OneLess, 3),
    (Gust::FreezeTheArbiter, 2),
    (Gust::Reload, 4),
    (Gust::StrikeAReload, 2),
    (Gust::SpoilAReload, 1),
    (Gust::Restart, 2),
    (Gust::KillTheArbiter, 1),
    (Gust::KillTheArbiterAlone, 1),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Gust {
    Kill,
    /// One that writes dies, and nothing else happens until the next one writes: else no wait is ever seen to its end.
    KillAndWatch,
    Terminate,
    Freeze,
    /// In the same way.
    FreezeAndWatch,
    FreezeAndThaw,
    OneMore,
    OneLess,
    FreezeTheArbiter,
    Reload,
    /// One of the next generation dies while it is made ready or tried: the reload may come to nothing.
    StrikeAReload,
    /// The next generation does not start: it comes to nothing.
    SpoilAReload,
    Restart,
    KillTheArbiter,
    /// And start it again while its workers are left.
    KillTheArbiterAlone,
}

struct Storm {
    scope: &'static str,
    /// What the payload's failure means, and when it stops.
    policy: &'static str,
    after: bool,
    manager: Manager,
    book: Book,
    service: Service,
    /// The lives before this one.
    past: Vec<Service>,
    /// When a life began as the only one, by its arbiter, where another one was there before.
    alone: BTreeMap<u32, Duration>,
    /// When its arbiter was told to stop, or killed.
    stops: Vec<Duration>,
    /// When who was frozen, and not thawed.
    freezes: Vec<(Duration, u32)>,
    /// When who was killed or frozen with nothing else to happen.
    watched: Vec<(Duration, u32)>,
    /// From when to when nothing was left of one whose arbiter was killed, with all that it knew.
    forgotten: Vec<(Duration, Duration)>,
    reload: Option<Child>,
    /// Workers of this life that are about to end, and those that are frozen, until they are found or thawed.
    struck: BTreeSet<u32>,
    frozen: BTreeSet<u32>,
    random: fastrand::Rng,
    tally: BTreeMap<Gust, usize>,
}

/// How long a storm lasts, at least.
fn length() -> Duration {
    let seconds = std::env::var("PAYLOAD_TEST_STORM");
    Duration::from_secs(
        seconds
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(15),
    )
}

fn blow(scope: &'static str) {
    let seed = std::env::var("PAYLOAD_TEST_SEED").ok();
    let seed = seed
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("PAYLOAD_TEST_SEED={seed}");
    let mut storm = Storm::gather(scope, seed);
    let end = Instant::now() + length();
    for deck in 1.. {
        for gust in storm.deck() {
            storm.pause(150);
            storm.blow(gust);
            storm.book.ledger.stints();
        }
        // Each reload of a deck can meet a death.
        if Instant::now() >= end && (storm.count("reloaded") > 0 || deck >= 5) {
            break;
        }
    }
    storm.pass();
}

impl Storm {
    fn gather(scope: &'static str, seed: u64) -> Self {
        let (manager, book) = (Manager::new(100), Book::new());
        let mut random = fastrand::Rng::with_seed(seed);
        let policy = if random.bool() { "critical" } else { "restart" };
        let after = random.bool();
        println!("{scope}, {policy}, after the requests: {after}");
        let service = manager.serve(setup(&book, scope, policy, after));
        book.ledger.wait_for(1);
        Self {
            scope,
            policy,
            after,
            manager,
            book,
            service,
            past: Vec::new(),
            alone: BTreeMap::new(),
            stops: Vec::new(),
            freezes: Vec::new(),
            watched: Vec::new(),
            forgotten: Vec::new(),
            reload: None,
            struck: BTreeSet::new(),
            frozen: BTreeSet::new(),
            random,
            tally: BTreeMap::new(),
        }
    }

    fn deck(&mut self) -> Vec<Gust> {
        let cards = DECK.iter().map(|(gust, count)| vec![*gust; *count]);
        let mut deck = cards.collect::<Vec<_>>().concat();
        self.random.shuffle(&mut deck);
        deck
    }

    fn blow(&mut self, gust: Gust) {
        match gust {
            Gust::Kill => self.strike_one(Signal::SIGKILL),
            Gust::KillAndWatch => self.watch(Signal::SIGKILL),
            Gust::FreezeAndWatch => self.watch(Signal::SIGSTOP),
            Gust::Terminate => self.strike_one(Signal::SIGTERM),
            Gust::Freeze => {
                let worker = self.one();
                strike(worker, Signal::SIGSTOP);
                self.freezes.push((now(), worker));
                self.frozen.insert(worker);
            }
            Gust::FreezeAndThaw => {
                let worker = self.one();
                strike(worker, Signal::SIGSTOP);
                self.pause(300);
                strike(worker, Signal::SIGCONT);
                self.frozen.remove(&worker);
            }
            Gust::OneMore => self.service.signal(Signal::SIGTTIN),
            Gust::OneLess => self.service.signal(Signal::SIGTTOU),
            Gust::FreezeTheArbiter => {
                self.service.signal(Signal::SIGSTOP);
                self.pause(200);
                self.service.signal(Signal::SIGCONT);
            }
            Gust::Reload => self.begin_reload(),
            Gust::StrikeAReload => self.strike_reload(),
            Gust::SpoilAReload => self.spoil_reload(),
            Gust::Restart => self.restart(),
            Gust::KillTheArbiter => self.forget(),
            Gust::KillTheArbiterAlone => self.forget_alone(),
        }
        *self.tally.entry(gust).or_default() += 1;
    }

    /// One of the workers that there are.
    fn one(&mut self) -> u32 {
        let workers = eventually("a worker", DEADLINE, || {
            Some(pids(&self.service)).filter(|workers| !workers.is_empty())
        });
        self.random.choice(workers).expect("there is one")
    }

    fn strike_one(&mut self, signal: Signal) {
        let worker = self.one();
        strike(worker, signal);
        self.struck.insert(worker);
    }

    fn watch(&mut self, signal: Signal) {
        self.end_reload();
        let workers = pids(&self.service);
        let mut stints = self.book.ledger.stints();
        stints.retain(|stint| !stint.ended && workers.contains(&stint.pid));
        stints.retain(|stint| !self.frozen.contains(&stint.pid));
        let Some(writer) = self.random.choice(stints) else {
            return self.strike_one(signal);
        };
        let (at, pid) = (now(), writer.pid);
        strike(pid, signal);
        if signal == Signal::SIGSTOP {
            self.freezes.push((at, pid));
            self.frozen.insert(pid);
        } else {
            self.struck.insert(pid);
        }
        self.watched.push((at, pid));
        // Whoever does not come is found when all is judged.
        within(LONGEST_WATCH, || {
            let stints = self.book.ledger.stints();
            let mut later = stints.iter().filter(|stint| stint.from > at);
            let goes_on = |stint: &Stint| {
                self.scope == "service" || stint.slot == writer.slot || stint.slots <= writer.slot
            };
            later.any(goes_on).then_some(())
        });
    }

    fn begin_reload(&mut self) {
        self.end_reload();
        let mut command = self.service.reload_command();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.reload = Some(command.spawn().unwrap());
    }

    fn end_reload(&mut self) {
        if let Some(mut last) = self.reload.take() {
            last.wait().unwrap();
        }
    }

    fn strike_reload(&mut self) {
        let members = |service: &Service| {
            let mut forked = service.events("worker-forked");
            forked.retain(|event| event.text("cause") == "reload");
            forked
        };
        let before = members(&self.service).len();
        self.begin_reload();
        let limit = Duration::from_secs(1);
        let member = within(limit, || members(&self.service).into_iter().nth(before));
        if let Some(member) = member {
            self.pause(60);
            let member = member.number("worker_pid");
            strike(member, Signal::SIGKILL);
            self.struck.insert(member);
        }
    }

    fn spoil_reload(&mut self) {
        self.end_reload();
        self.service.steer("startup = 'fail'");
        let mut command = self.service.reload_command();
        let code = command.stderr(Stdio::null()).status().unwrap().code();
        assert_ne!(code, Some(0), "nobody of the next generation comes up");
        fs::remove_file(self.service.folder().join("steer")).unwrap();
    }

    /// Somebody dies in the middle of it.
    fn restart(&mut self) {
        self.stops.push(now());
        self.service.signal(Signal::SIGUSR2);
        self.pause(30);
        if let Some(worker) = self.random.choice(pids(&self.service)) {
            strike(worker, Signal::SIGKILL);
        }
        self.service.exit_of_first();
        self.clear_away();
        self.begin_life();
    }

    fn forget(&mut self) {
        let killed = now();
        self.stops.push(killed);
        self.service.signal(Signal::SIGKILL);
        self.service.exit_of_first();
        self.clear_away();
        self.forgotten.push((killed, now()));
        self.begin_life();
    }

    fn forget_alone(&mut self) {
        let killed = now();
        self.stops.push(killed);
        self.service.signal(Signal::SIGKILL);
        self.service.exit_of_first();
        self.end_reload();
        // Those would be waited for until somebody does this.
        for frozen in std::mem::take(&mut self.frozen) {
            strike(frozen, Signal::SIGKILL);
        }
        self.begin_life();
        let last = self.past.last().expect("there was one");
        last.gone();
        self.struck.clear();
        self.alone.insert(self.service.pid(), now());
        self.forgotten.push((killed, now()));
    }

    /// As systemd does it with KillMode=mixed: what is left of the service is killed before it is started again.
    fn clear_away(&mut self) {
        self.end_reload();
        let _ = killpg(number_of(self.service.pid()), Signal::SIGKILL);
        self.service.gone();
        self.manager.catch_up();
        self.struck.clear();
        self.frozen.clear();
    }

    fn begin_life(&mut self) {
        let next = setup(&self.book, self.scope, self.policy, self.after);
        let next = self.manager.start(next).start();
        self.past.push(std::mem::replace(&mut self.service, next));
        self.service.event("service-ready");
    }

    fn lives(&self) -> impl Iterator<Item = &Service> {
        self.past.iter().chain([&self.service])
    }

    /// How often there was this event, in all lives.
    fn count(&self, event: &str) -> usize {
        self.lives().map(|life| life.events(event).len()).sum()
    }

    fn pause(&mut self, millis: u64) {
        sleep(Duration::from_millis(self.random.u64(0..millis)));
    }

    /// It is over: the service comes to rest.
    fn pass(mut self) {
        self.end_reload();
        self.service.status_where("it has calmed down", |status| {
            let leases = status["leases"].as_array().unwrap();
            let held = |lease: &serde_json::Value| lease["holder"]["leaving"] == false;
            let workers = workers_of(status);
            let well = |worker: &serde_json::Value| {
                let pid = number(&worker["pid"]);
                let goes = self.struck.contains(&pid) || self.frozen.contains(&pid);
                worker["phase"] == "serving" && !goes
            };
            status["arbiter"]["state"] == "ready"
                && leases.iter().all(held)
                && workers.iter().all(well)
        });
        self.stops.push(now());
        let code = self.service.stop();
        // A worker that gets no processor for a second is taken for stuck, and rightly.
        let records = self.service.records().into_iter();
        let mut last = records.skip_while(|record| !record.is("service-stopping"));
        let starved = last.any(|record| record.is("worker-stuck"));
        assert!(
            code == 0 || starved,
            "{code}: whoever is left stops in order"
        );
        let stints = self.book.ledger.stints();
        println!("{:?}", self.tally);
        println!(
            "{} writers, {} reloads, {} rolled back or refused",
            stints.len(),
            self.count("reloaded"),
            self.count("reload-failed")
        );
        for (gust, count) in DECK {
            assert!(self.tally[&gust] >= count, "{gust:?}: {:?}", self.tally);
        }
        assert!(self.count("reloaded") > 0);
        assert!(self.count("reload-failed") >= self.tally[&Gust::SpoilAReload]);
        self.check_inheritance(&stints);
        let mut verdict = Verdict::default();
        let by_slot = self.scope == "slot";
        for (life, stop) in self.lives().zip(&self.stops) {
            let ready = life.event("service-ready").when();
            let alone = self.alone.get(&life.pid());
            let from = alone.map_or(ready, |alone| ready.max(*alone));
            let silences = silences(&stints, by_slot, from, *stop);
            let life = Life::of(life);
            verdict.add(&life, &silences, &self.freezes, &self.watched, by_slot);
        }
        assert_eq!(verdict.judge(), Ok(()));
    }

    /// Who began with nothing was the first one since an arbiter was killed.
    fn check_inheritance(&self, stints: &[Stint]) {
        // With the other slots goes what they have kept.
        let kept = |stint: &&Stint| self.scope == "service" || stint.slot == 0;
        let stints: Vec<&Stint> = stints.iter().filter(kept).collect();
        let pairs = stints.windows(2).map(|pair| (pair[0], pair[1]));
        for (last, stint) in pairs.filter(|(_, stint)| stint.bare) {
            let mut forgotten = self.forgotten.iter();
            let is_first = forgotten.any(|(from, to)| last.to <= *to && *from <= stint.from);
            assert!(is_first, "what was kept is lost: {last:?} {stint:?}");
        }
    }
}

fn setup(book: &Book, scope: &str, policy: &str, after: bool) -> Setup {
    let setup = book.written(SETTINGS, scope, policy);
    setup.with_app(&format!("ledger_after = {after}")).steered()
}

fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into()
}

fn number_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap())
}

fn strike(pid: u32, signal: Signal) {
    // It may just have ended; its number is not used again so soon.
    let _ = kill(number_of(pid), signal);
}

fn pids(service: &Service) -> Vec<u32> {
    let arbiter = service.pid();
    let processes = service.processes().into_iter();
    let workers = processes.filter(|process| process.parent == arbiter);
    workers.map(|process| process.pid).collect()
}

#[test]
fn one_in_the_service() {
    blow("service");
}

#[test]
fn one_for_each_slot() {
    blow("slot");
}
