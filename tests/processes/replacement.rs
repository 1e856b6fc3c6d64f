//! Replacements that fail, after the service was once ready: it stays, degraded, and recovers.

use nix::sys::signal::Signal;

use crate::support::eventually;
use crate::support::service::{LIMIT, Service, Setup, lives, number, signal_to};

const QUICK: &str = "workers = 2
restart.backoff_initial = '200ms'
restart.backoff_max = '2s'
restart.crash_budget = 1000
[app]
";

/// From the fourth failure on the waits are longer than the first one's, whatever the jitter.
const ATTEMPTS: usize = 4;

/// What hangs is found by a limit, which the first workers and the last one keep also where they are stopped for a while.
const LIMITS: &str = "timeouts.startup = '4s'
timeouts.heartbeat_boot = '4s'
timeouts.abort_grace = '100ms'";

fn fails_and_recovers(app: &str, reason: &str) {
    fails(Setup::new(QUICK), app, reason, ATTEMPTS);
}

/// Twice: that the waits grow, others show.
fn hangs_and_recovers(app: &str, reason: &str) {
    let limit = "timeouts.startup = '4s'";
    fails(Setup::new(QUICK).with(limit), app, reason, 3);
}

fn fails(setup: Setup, app: &str, reason: &str, attempts: usize) {
    let service = setup.steered().serve();
    let workers = service.workers();
    service.steer(app);
    signal_to(workers[0], Signal::SIGKILL);
    let waits = service.count("its replacements fail", attempts, |record| {
        record.is("worker-backoff")
    });
    let delays: Vec<f64> = waits
        .iter()
        .map(|wait| wait.seconds("delay_seconds"))
        .collect();
    assert!(delays[0] <= 0.2, "{delays:?}");
    assert!(
        attempts < ATTEMPTS || delays[attempts - 1] > delays[0] * 1.5,
        "they grow: {delays:?}"
    );
    for (wait, failures) in waits.iter().zip(1..) {
        assert_eq!(wait.number("failures"), failures);
    }
    service.event_where("worker-failed", |event| {
        event.text("reason").contains(reason)
    });
    service.event("service-degraded");
    let status = service.status();
    assert_eq!(status["arbiter"]["state"], "degraded");
    let line = status["arbiter"]["status"].as_str().unwrap();
    assert!(line.starts_with("degraded: 1/2 workers serving"), "{line}");
    assert!(lives(workers[1]), "the healthy one stays");
    assert_eq!(service.get("/").trim(), workers[1].to_string());
    service.steer("");
    recovers(&service);
    assert_eq!(service.workers()[1], workers[1]);
    assert_eq!(service.stop(), 0);
}

#[track_caller]
fn recovers(service: &Service) {
    service.event("service-recovered");
    service.status_where("it is ready", |status| {
        status["arbiter"]["state"] == "ready"
    });
    assert_eq!(service.workers().len(), 2);
}

#[test]
fn a_step_fails() {
    fails_and_recovers("startup = 'fail'", "read the table: no such table");
}

#[test]
fn a_step_panics() {
    fails_and_recovers("startup = 'panic'", "asked to panic");
}

#[test]
fn a_step_hangs() {
    hangs_and_recovers("startup = 'hang'", "did not end within 4s");
}

#[test]
fn load_fails() {
    fails_and_recovers(
        "load = 'fail'",
        "load failed: read the table: no such table",
    );
}

#[test]
fn load_panics() {
    fails_and_recovers("load = 'panic'", "load panicked: asked to panic");
}

#[test]
fn load_hangs() {
    hangs_and_recovers("load = 'hang'", "load did not end within 4s");
}

#[test]
fn a_blocked_startup() {
    let service = Setup::new(QUICK).with(LIMITS).steered().serve();
    let workers = service.workers();
    service.steer("startup = 'block'");
    signal_to(workers[0], Signal::SIGKILL);
    let stuck = service.event("worker-stuck");
    assert_eq!(stuck.text("phase"), "starting");
    service.steer("");
    recovers(&service);
    assert!(lives(workers[1]));
    assert_eq!(service.stop(), 0);
}

#[test]
fn crashes_within_the_budget_degrade_nothing() {
    let service = crashing("restart.crash_budget = 5");
    for _ in 0..2 {
        crash_one(&service);
    }
    assert!(
        !service
            .records()
            .iter()
            .any(|record| { record.is("service-degraded") && record.number("serving") == 2 }),
        "two crashes are within a budget of five"
    );
    assert_eq!(service.stop(), 0);
}

#[test]
fn crashes_beyond_the_budget_degrade_the_service_until_they_are_forgotten() {
    let service = crashing(
        "restart.crash_budget = 2\nrestart.crash_window = '8s'\nrestart.backoff_max = '200ms'",
    );
    // Three of them within the window; a busy machine may need more.
    let degraded = eventually("too many crashes", LIMIT, || {
        crash_one(&service);
        let degraded = service.events("service-degraded").into_iter();
        degraded.rev().find(|event| event.number("crashes") > 2)
    });
    assert!(degraded.number("workers") == 2);
    let many = "the service is degraded: workers fail too often";
    assert_eq!(degraded.text("message"), many);
    recovers(&service);
    assert_eq!(service.stop(), 0);
}

fn crashing(restart: &str) -> Service {
    Setup::new("workers = 2\nrestart.backoff_initial = '50ms'")
        .with(restart)
        .serve()
}

/// And waits for its replacement.
fn crash_one(service: &Service) {
    let victim = service.workers()[0];
    signal_to(victim, Signal::SIGKILL);
    service.status_where("it is replaced", |status| {
        let workers = status["workers"].as_array().unwrap();
        // The arbiter hears of it after the scoreboard.
        let line = status["arbiter"]["status"].as_str().unwrap();
        line.contains("2/2 workers serving")
            && workers.len() == 2
            && workers
                .iter()
                .all(|w| w["phase"] == "serving" && number(&w["pid"]) != victim)
    });
}
