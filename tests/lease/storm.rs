//! Everything at once, for a while: never two writers, and never none for longer than the log says.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ledger::{Ledger, silence, with};
use crate::support::service::Service;

/// For how long a busy machine may keep the arbiter or a worker from running.
const SLACK: f64 = 1.0;

/// How long a storm lasts; `PAYLOAD_TEST_STORM=60` makes it a minute.
fn length() -> Duration {
    let seconds = std::env::var("PAYLOAD_TEST_STORM");
    Duration::from_secs(seconds.ok().and_then(|text| text.parse().ok()).unwrap_or(6))
}

fn blow(scope: &str) {
    let seed = std::env::var("PAYLOAD_TEST_SEED").ok();
    let seed = seed
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("PAYLOAD_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let settings = "workers = 3\n[reload]\ntrial = '50ms'\n[timeouts]\nheartbeat_serving = '1s'\nabort_grace = '100ms'\n\
        [restart]\nbackoff_initial = '20ms'\nbackoff_max = '200ms'\ncrash_budget = 1000";
    let app = format!("{scope}'\nledger_policy = 'restart'\nword = '");
    let service = with(settings, &app).serve();
    let ledger = Ledger::of(&service);
    ledger.wait_for(1);
    let end = Instant::now() + length();
    let mut reload = None;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(random.u64(0..150)));
        let workers = pids(&service);
        let Some(worker) = random.choice(workers) else {
            continue;
        };
        match random.u8(0..10) {
            0..3 => strike(worker, Signal::SIGKILL),
            3 | 4 => strike(worker, Signal::SIGTERM),
            5 => {
                strike(worker, Signal::SIGSTOP);
                if random.bool() {
                    std::thread::sleep(Duration::from_millis(random.u64(0..300)));
                    strike(worker, Signal::SIGCONT);
                }
            }
            6 => service.signal(Signal::SIGTTIN),
            7 => service.signal(Signal::SIGTTOU),
            8 => {
                // The arbiter itself is slow.
                service.signal(Signal::SIGSTOP);
                std::thread::sleep(Duration::from_millis(random.u64(0..200)));
                service.signal(Signal::SIGCONT);
            }
            _ => {
                let mut command = service.reload_command();
                command.stderr(std::process::Stdio::null());
                let last = reload.replace(command.spawn().unwrap());
                last.map(|mut last: std::process::Child| last.wait().unwrap());
            }
        }
        ledger.stints();
    }
    reload.map(|mut last| last.wait().unwrap());
    service.status_where("it has calmed down", |status| {
        let leases = status["leases"].as_array().unwrap();
        let held = |lease: &serde_json::Value| lease["holder"]["leaving"] == false;
        status["arbiter"]["state"] == "ready" && leases.iter().all(held)
    });
    let stints = ledger.stints();
    service.stop();
    ledger.stints();
    println!("{} writers", stints.len());
    if scope == "service" {
        let granted = service.events("lease-granted");
        let told = granted.iter().map(|event| event.seconds("gap_seconds"));
        let told = told.fold(0.0, f64::max);
        let seen = silence(&stints).as_secs_f64();
        println!(
            "the longest time without a line: {seen:.3} s; without a live holder, while somebody could be it: {told:.3} s"
        );
        assert!(told < seen + SLACK, "the log makes it worse than it is");
        // The heartbeat's limit, which begins anew where the arbiter itself was kept from running; the time after
        // SIGABRT; the longest pause after failures.
        let bound = 2.0 * 1.0 + 0.1 + 0.2;
        assert!(told < bound + SLACK, "{told}");
    }
}

fn strike(pid: u32, signal: Signal) {
    // It may just have ended; its number is not used again so soon.
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
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
