//! Everything at once, for a while: never two writers, nothing of what was kept is lost, and never none for longer than
//! it takes to find out.
//!
//! `PAYLOAD_TEST_STORM=60` makes a storm last a minute, `PAYLOAD_TEST_SEED=…` repeats what it does.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::ledger::{Book, Stint, gaps, silence};
use crate::manager::Manager;
use crate::support::service::Service;
use crate::support::within;

/// For how long a busy machine may keep the arbiter or a worker from running.
const SLACK: f64 = 1.0;
const SETTINGS: &str = "workers = 3\n[reload]\ntrial = '50ms'\n[timeouts]\nheartbeat_boot = '1s'\nheartbeat_serving = '1s'\nheartbeat_stopping = '1s'\n\
    abort_grace = '100ms'\ngraceful = '2s'\ncleanup = '2s'\n[restart]\nbackoff_initial = '20ms'\n\
    backoff_max = '200ms'\ncrash_budget = 1000";
/// Until one that is frozen is dead: the heartbeat's limit, the time after SIGABRT, and the time that the arbiter itself
/// is kept from running.
const FOUND: f64 = 1.0 + 0.1 + 0.2;
/// The longest pause after failures.
const PAUSE: f64 = 0.2;

struct Storm {
    scope: &'static str,
    manager: Manager,
    book: Book,
    service: Service,
    /// The lives before this one.
    past: Vec<Service>,
    /// When an arbiter was killed, with all that it knew.
    forgotten: Vec<Duration>,
    reload: Option<Child>,
    random: fastrand::Rng,
    tally: BTreeMap<&'static str, u32>,
}

/// How long a storm lasts.
fn length() -> Duration {
    let seconds = std::env::var("PAYLOAD_TEST_STORM");
    Duration::from_secs(seconds.ok().and_then(|text| text.parse().ok()).unwrap_or(6))
}

fn blow(scope: &'static str) {
    let seed = std::env::var("PAYLOAD_TEST_SEED").ok();
    let seed = seed
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("PAYLOAD_TEST_SEED={seed}");
    let mut storm = Storm::gather(scope, seed);
    let end = Instant::now() + length();
    while Instant::now() < end {
        storm.pause(150);
        storm.gust();
        storm.book.ledger.stints();
    }
    storm.pass();
}

impl Storm {
    fn gather(scope: &'static str, seed: u64) -> Self {
        let (manager, book) = (Manager::new(100), Book::new());
        let service = manager.serve(book.setup(SETTINGS, scope));
        book.ledger.wait_for(1);
        Self {
            scope,
            manager,
            book,
            service,
            past: Vec::new(),
            forgotten: Vec::new(),
            reload: None,
            random: fastrand::Rng::with_seed(seed),
            tally: BTreeMap::new(),
        }
    }

    fn gust(&mut self) {
        let Some(worker) = self.random.choice(pids(&self.service)) else {
            return;
        };
        let what = match self.random.u8(0..40) {
            0..11 => {
                strike(worker, Signal::SIGKILL);
                "kill"
            }
            11..18 => {
                strike(worker, Signal::SIGTERM);
                "terminate"
            }
            18..21 => {
                strike(worker, Signal::SIGSTOP);
                "freeze"
            }
            21..23 => {
                strike(worker, Signal::SIGSTOP);
                self.pause(300);
                strike(worker, Signal::SIGCONT);
                "freeze and thaw"
            }
            23..26 => {
                self.service.signal(Signal::SIGTTIN);
                "one more"
            }
            26..29 => {
                self.service.signal(Signal::SIGTTOU);
                "one less"
            }
            29..31 => {
                self.service.signal(Signal::SIGSTOP);
                self.pause(200);
                self.service.signal(Signal::SIGCONT);
                "freeze the arbiter"
            }
            31..35 => {
                self.begin_reload();
                "reload"
            }
            35..37 => {
                self.spoil_reload();
                "spoil a reload"
            }
            37 | 38 => {
                self.restart();
                "restart"
            }
            _ => {
                self.forget();
                "kill the arbiter"
            }
        };
        *self.tally.entry(what).or_default() += 1;
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

    /// One of the next generation dies before the commit.
    fn spoil_reload(&mut self) {
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
            strike(member.number("worker_pid"), Signal::SIGKILL);
        }
    }

    /// Somebody dies in the middle of it.
    fn restart(&mut self) {
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
        self.service.signal(Signal::SIGKILL);
        self.service.exit_of_first();
        self.clear_away();
        self.forgotten.push(now());
        self.begin_life();
    }

    /// As systemd does it with KillMode=mixed: what is left of the service is killed before it is started again.
    fn clear_away(&mut self) {
        self.end_reload();
        let _ = killpg(number_of(self.service.pid()), Signal::SIGKILL);
        self.service.gone();
        self.manager.catch_up();
    }

    fn begin_life(&mut self) {
        let next = self.book.setup(SETTINGS, self.scope);
        let next = self.manager.start(next).start();
        self.past.push(std::mem::replace(&mut self.service, next));
        self.service.event("service-ready");
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
            status["arbiter"]["state"] == "ready" && leases.iter().all(held)
        });
        self.service.stop();
        let stints = self.book.ledger.stints();
        let lives = || self.past.iter().chain([&self.service]);
        let count = |name: &str| lives().map(|life| life.events(name).len()).sum::<usize>();
        println!("{:?}", self.tally);
        println!(
            "{} writers, {} reloads, {} rolled back or refused",
            stints.len(),
            count("reloaded"),
            count("reload-failed")
        );
        if self.scope != "service" {
            return;
        }
        self.check_inheritance(&stints);
        let told: Vec<f64> = lives()
            .flat_map(|life| life.events("lease-granted"))
            .map(|event| event.seconds("gap_seconds"))
            .collect();
        let seen: Vec<f64> = gaps(&stints).iter().map(Duration::as_secs_f64).collect();
        println!("without a line: {}", spread(seen));
        println!(
            "without a live holder, while somebody could be it: {}",
            spread(told.clone())
        );
        let (told, seen) = (told.into_iter().fold(0.0, f64::max), silence(&stints));
        assert!(
            told < seen.as_secs_f64() + SLACK,
            "the log makes it worse than it is"
        );
        assert!(told < FOUND + PAUSE + SLACK, "{told}");
        // Several who are frozen can get it one after the other, and a new life takes its time.
        let bound = 3.0 * FOUND + PAUSE + SLACK;
        assert!(seen.as_secs_f64() < bound, "{seen:?}");
    }

    /// Who began with nothing was the first one since an arbiter was killed.
    fn check_inheritance(&self, stints: &[Stint]) {
        for (index, stint) in stints.iter().enumerate().filter(|(_, stint)| stint.bare) {
            let last = &stints[index - 1];
            let mut forgotten = self.forgotten.iter();
            let is_first = forgotten.any(|at| last.to <= *at && *at <= stint.from);
            assert!(is_first, "what was kept is lost: {last:?} {stint:?}");
        }
    }
}

fn spread(mut seconds: Vec<f64>) -> String {
    seconds.sort_by(f64::total_cmp);
    let at = |index: usize| seconds.get(index).copied().unwrap_or_default();
    let last = seconds.len().saturating_sub(1);
    format!(
        "least {:.3} s, median {:.3} s, most {:.3} s",
        at(0),
        at(last / 2),
        at(last)
    )
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
