//! For how long nobody runs the payload when it moves, by the cause: from the last line of one writer to the first of
//! the next one. The probe writes a line every 2 to 3 ms, and that is part of what is measured.
//!
//! `PAYLOAD_TEST_GAPS=30 cargo test --test lease gaps -- --nocapture` measures each one thirty times, and without it
//! three times.

use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::judge::{Stint, gaps, silence};
use crate::ledger::Book;
use crate::manager::Manager;
use crate::support::service::{Service, signal_to};

/// What is measured is shown, not judged: a busy machine keeps a process from running for seconds, now and then. But
/// the median tells a payload that moves from one that waits for some limit: each of them is longer than this. `prompt.rs`
/// has a closer bound.
const SLACK: Duration = Duration::from_millis(900);
const HEARTBEAT: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_millis(100);
/// Longer than all that a move can take.
const BOOT: Duration = Duration::from_secs(1);
const SETTINGS: &str = "workers = 4\n[reload]\ntrial = '50ms'\n[timeouts]\n";
/// Where nobody is stuck, no limit of those who are has anything to do with it.
const LONG: &str = "heartbeat_serving = '5s'\nabort_grace = '5s'";
/// As in the constants.
const SHORT: &str = "heartbeat_serving = '1s'\nabort_grace = '100ms'";

/// One move of the payload.
pub(crate) struct Scene {
    manager: Manager,
    book: Book,
    pub(crate) service: Service,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::of("service", 1, LONG)
    }

    fn of(scope: &str, writers: usize, limits: &str) -> Self {
        Self::with(scope, writers, limits, "restart", Duration::ZERO)
    }

    /// Its workers take this long to start.
    fn with(scope: &str, writers: usize, limits: &str, policy: &str, boot: Duration) -> Self {
        let (manager, book) = (Manager::new(100), Book::new());
        let settings = format!("{SETTINGS}{limits}");
        let setup = book.written(&settings, scope, policy);
        let setup = setup.with_app(&format!("startup_delay = {:?}", boot.as_secs_f64()));
        let service = manager.serve(setup.steered());
        let scene = Self {
            manager,
            book,
            service,
        };
        scene.settled(writers);
        scene
    }

    /// Waits until this writer has written for a while.
    #[track_caller]
    fn settled(&self, number: usize) -> Vec<Stint> {
        self.book
            .ledger
            .wait_until(&format!("writer {number}"), |stints| {
                let wrote = |stint: &Stint| stint.to >= stint.from + Duration::from_millis(30);
                stints.get(number - 1).is_some_and(wrote)
            })
    }

    pub(crate) fn holder(&self) -> u32 {
        self.book.ledger.stints()[0].pid
    }

    fn serve_again(&mut self) {
        let settings = format!("{SETTINGS}{LONG}");
        let setup = self.book.setup(&settings, "service");
        self.service = self.manager.serve(setup);
    }

    /// The gap between the first two.
    pub(crate) fn gap(self) -> Duration {
        gaps(&self.settled(2))[0]
    }
}

fn killed() -> Duration {
    let scene = Scene::new();
    signal_to(scene.holder(), Signal::SIGKILL);
    scene.gap()
}

fn terminated() -> Duration {
    let scene = Scene::new();
    signal_to(scene.holder(), Signal::SIGTERM);
    scene.gap()
}

fn frozen() -> Duration {
    let scene = Scene::of("service", 1, SHORT);
    signal_to(scene.holder(), Signal::SIGSTOP);
    scene.gap()
}

fn reloaded() -> Duration {
    let scene = Scene::new();
    assert_eq!(scene.service.reload().status.code(), Some(0));
    scene.gap()
}

/// Nothing moves: the longest time without a line.
fn rolled_back() -> Duration {
    let scene = Scene::new();
    scene.service.steer("startup = 'fail'");
    let mut command = scene.service.reload_command();
    command.stderr(std::process::Stdio::null());
    assert_ne!(command.status().unwrap().code(), Some(0));
    let stints = scene.settled(1);
    assert_eq!(stints.len(), 1);
    silence(&stints)
}

fn of_slot(stints: &[Stint], slot: u32) -> Vec<Stint> {
    let mut stints: Vec<Stint> = stints.to_vec();
    stints.retain(|stint| stint.slot == slot);
    stints
}

/// The longest of the four shares, after the number of slots has changed.
fn longest_share(scene: &Scene, signal: Signal, shares: u32) -> Duration {
    scene.service.signal(signal);
    let ledger = &scene.book.ledger;
    let what = format!("{shares} shares");
    let shares = 0..shares;
    let stints = ledger.wait_until(&what, |stints| {
        let is_anew = |stint: &Stint| stint.slots == shares.end && stint.to > stint.from;
        let mut slots = shares.clone();
        slots.all(|slot| of_slot(stints, slot).iter().any(is_anew))
    });
    let gaps = shares.flat_map(|slot| gaps(&of_slot(&stints, slot)));
    gaps.max().unwrap_or_default()
}

fn shared_anew() -> Duration {
    longest_share(&Scene::of("slot", 4, LONG), Signal::SIGTTIN, 5)
}

fn shared_anew_once() -> Duration {
    let scene = Scene::with("slot", 4, LONG, "critical", BOOT);
    longest_share(&scene, Signal::SIGTTIN, 5)
}

fn shared_by_fewer_once() -> Duration {
    let scene = Scene::with("slot", 4, LONG, "critical", BOOT);
    longest_share(&scene, Signal::SIGTTOU, 3)
}

/// The log says the same.
fn slot_killed() -> Duration {
    let scene = Scene::with("slot", 4, LONG, "critical", BOOT);
    let pid = of_slot(&scene.book.ledger.stints(), 0)[0].pid;
    signal_to(pid, Signal::SIGKILL);
    let ledger = &scene.book.ledger;
    let stints = ledger.wait_until("its next worker", |stints| of_slot(stints, 0).len() > 1);
    let stints = of_slot(&stints, 0);
    let gap = gaps(&stints)[0];
    let granted = scene
        .service
        .event_where("lease-granted", |event| event["epoch"] == stints[1].epoch);
    let told = granted.seconds("gap_seconds");
    assert!(told >= BOOT.as_secs_f64(), "{told}");
    // Of a death that is seen too late, the last beat counts, which comes every second.
    assert!(told <= gap.as_secs_f64() + 1.5, "{told} {gap:?}");
    let status = scene.service.status();
    let leases = status["leases"].as_array().unwrap();
    let shown = leases.iter().find(|lease| lease["slot"] == 0).unwrap();
    assert_eq!(shown["gap"], told);
    gap
}

fn restarted() -> Duration {
    let mut scene = Scene::new();
    scene.manager.end(&scene.service);
    scene.serve_again();
    let gap = scene.settled(2);
    assert!(!gap[1].bare, "it was handed on");
    scene.gap()
}

/// As systemd does it with KillMode=mixed: what is left of the service is killed before it is started again.
fn arbiter_killed() -> Duration {
    let mut scene = Scene::new();
    scene.service.signal(Signal::SIGKILL);
    scene.service.exit_of_first();
    let _ = killpg(number_of(scene.service.pid()), Signal::SIGKILL);
    scene.service.gone();
    scene.serve_again();
    scene.gap()
}

fn number_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap())
}

#[test]
fn nobody_runs_it_for_as_long_as_it_takes_to_move_and_no_longer() {
    let times = std::env::var("PAYLOAD_TEST_GAPS");
    let times = times.ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let none = Duration::ZERO;
    let found = HEARTBEAT + GRACE;
    type Scenes = [(&'static str, fn() -> Duration, Duration, Duration); 11];
    let scenes: Scenes = [
        ("its worker is killed (SIGKILL)", killed, none, SLACK),
        ("its worker drains (SIGTERM)", terminated, none, SLACK),
        (
            "its worker is frozen (SIGSTOP)",
            frozen,
            HEARTBEAT / 2,
            found + SLACK,
        ),
        ("reload", reloaded, none, SLACK),
        ("reload that is rolled back", rolled_back, none, SLACK),
        ("all shares, when a slot is added", shared_anew, none, SLACK),
        (
            "the same, critical, 1 s to start",
            shared_anew_once,
            none,
            SLACK,
        ),
        (
            "the same, when a slot is given up",
            shared_by_fewer_once,
            none,
            SLACK,
        ),
        (
            "a slot's worker is killed, 1 s to start",
            slot_killed,
            BOOT,
            BOOT + SLACK,
        ),
        ("restart of the service", restarted, none, SLACK),
        ("the arbiter is killed", arbiter_killed, none, SLACK),
    ];
    println!("{times} times each, without a line, in ms: least, median, most");
    for (name, scene, least, most) in scenes {
        let mut measured: Vec<Duration> = (0..times).map(|_| scene()).collect();
        measured.sort_unstable();
        // Of three, two can have met the same busy moment of the machine: then the median is that of more.
        if measured[times / 2] >= most {
            measured.extend((0..2 * times + 2).map(|_| scene()));
            measured.sort_unstable();
        }
        let (middle, last) = (measured.len() / 2, measured.len() - 1);
        let [first, median, last] = [0, middle, last].map(|at| measured[at].as_secs_f64() * 1e3);
        println!("{name:42}{first:10.1}{median:10.1}{last:10.1}");
        assert!(measured[0] >= least, "{name}");
        assert!(measured[middle] < most, "{name}");
    }
}
