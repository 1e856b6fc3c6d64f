//! Workers whose executor does not come around any more.

use std::time::Duration;

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

use crate::support::service::{Record, Service, Setup, lives, number, signal_to, wait_for_end_of};
use crate::worker_of;

/// Short, and long enough for a worker that is only stopped for a while. It has all the time to say where it is: whoever
/// says it is gone then.
const SHORT: &str = "timeouts.heartbeat_boot = '4s'
timeouts.heartbeat_serving = '4s'
timeouts.heartbeat_stopping = '4s'
timeouts.abort_grace = '20s'";

/// For workers that cannot say it.
const GRACE: &str = "1s";

#[test]
fn a_stopped_worker_is_diagnosed_killed_and_replaced() {
    let short = SHORT.replace("20s", GRACE);
    let service = Setup::new("workers = 2").with(&short).serve();
    let workers = service.workers();
    signal_to(workers[0], Signal::SIGSTOP);
    let stuck = service.event("worker-stuck");
    assert_eq!(stuck.worker(), Some(worker_of(&service, workers[0])));
    assert_eq!(stuck.text("phase"), "serving");
    assert!(stuck.seconds("overdue_seconds") >= 4.0);
    assert!(
        stuck.text("threads").contains(" T "),
        "that it is stopped: {}",
        stuck.0
    );
    // A stopped process keeps SIGABRT waiting.
    service.event("worker-killed");
    let failed = end_of(&service, workers[0]);
    assert_eq!(failed.text("exit"), "killed by SIGKILL");
    wait_for_end_of(workers[0]);
    service.status_where("it is replaced", |status| {
        status["arbiter"]["state"] == "ready" && number(&status["workers"][0]["pid"]) != workers[0]
    });
    assert!(lives(workers[1]), "the healthy one stays");
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_blocked_worker_says_where_and_is_replaced() {
    let service = Setup::new("workers = 1").with(SHORT).serve();
    let worker = service.workers()[0];
    let mut client = service.client();
    client.send("/block?ms=600000").unwrap();
    let stuck = service.event("worker-stuck");
    assert_eq!(stuck.text("phase"), "serving");
    assert!(stuck.number("answered") >= 1, "{}", stuck.0);
    names_the_blocking_function(&service);
    let failed = end_of(&service, worker);
    assert_eq!(failed.text("exit"), "killed by SIGABRT");
    assert!(client.answer().is_err(), "its request is lost");
    assert_ne!(service.get("/").trim(), worker.to_string());
    assert_eq!(service.stop(), 0);
}

/// The machine does not let each thread run at once.
#[test]
fn a_blocked_worker_that_answers_late_says_where_too() {
    let service = Setup::new("workers = 1").with(SHORT).serve();
    let worker = service.workers()[0];
    let mut client = service.client();
    client.send("/deaf").unwrap();
    names(&service, "probe::deaf::hold");
    end_of(&service, worker);
    assert!(client.answer().is_err(), "its request is lost");
    service.wait_until_replaced(worker);
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_worker_that_is_busy_for_less_than_its_limit_is_left_alone() {
    let service = Setup::new("workers = 1\ntimeouts.heartbeat_serving = '10s'").serve();
    let worker = service.workers()[0];
    assert_eq!(service.get("/block?ms=1500").trim(), worker.to_string());
    assert_eq!(service.workers(), [worker]);
    assert_eq!(service.stop(), 0);
    assert!(
        !service
            .records()
            .iter()
            .any(|record| record.is("worker-stuck"))
    );
}

#[test]
fn blocked_in_its_startup() {
    let service = Setup::new("workers = 1\n[app]\nstartup = 'block'")
        .with(SHORT)
        .start();
    assert_eq!(service.exit(), 70);
    assert_eq!(service.event("worker-stuck").text("phase"), "starting");
    names_the_blocking_function(&service);
    service.event("boot-failed");
}

#[test]
fn blocked_in_load() {
    let service = Setup::new("workers = 1\n[app]\nload = 'block'")
        .with(SHORT)
        .start();
    assert_eq!(service.exit(), 70);
    assert_eq!(service.event("worker-stuck").text("phase"), "loading");
    names_the_blocking_function(&service);
}

/// Each of the other limits would let it be for as long as the test is willing to wait.
#[test]
fn blocked_in_its_drain() {
    let limits = "timeouts.heartbeat_boot = '10m'\ntimeouts.heartbeat_serving = '10m'\n\
                  timeouts.heartbeat_stopping = '1s'\ntimeouts.graceful = '10m'\ntimeouts.abort_grace = '20s'";
    let service = Setup::new("workers = 1").with(limits).serve();
    let mut client = service.client();
    client.send("/drain-block?ms=600000").unwrap();
    service.wait_for_sum("in_flight", 1);
    assert_eq!(service.stop(), 70);
    let stuck = service.event("worker-stuck");
    assert_eq!(
        (stuck.text("phase"), stuck.text("limit")),
        ("draining", "heartbeat")
    );
    names_the_blocking_function(&service);
}

/// By a payload, while it could serve.
#[test]
fn blocked_by_its_payload() {
    let service = Setup::new("workers = 1\n[app]\npayload = 'block'")
        .with(SHORT)
        .serve();
    let worker = service.workers()[0];
    let mut client = service.client();
    client.send("/payload").unwrap();
    let stuck = service.event("worker-stuck");
    assert_eq!(
        (stuck.text("phase"), stuck.text("limit")),
        ("serving", "heartbeat")
    );
    names_the_blocking_function(&service);
    let end = end_of(&service, worker);
    assert_eq!(end.text("exit"), "killed by SIGABRT");
    let reason = end.text("reason");
    assert!(
        reason.starts_with("no heartbeat for ") && reason.ends_with(" s while serving"),
        "{end}"
    );
    service.wait_until_replaced(worker);
    assert_eq!(
        service.stop(),
        70,
        "so does that of its successor, at the stop"
    );
}

#[test]
fn blocked_in_its_teardown() {
    let service = Setup::new("workers = 1\n[app]\nteardown = 'block'")
        .with(SHORT)
        .serve();
    service.signal(Signal::SIGTERM);
    assert_eq!(service.exit_of_first(), 70);
    let left = service.processes();
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    let waited = now.saturating_sub(service.event("service-stopped").when());
    // For five seconds: where the machine has no time for it, it is left behind.
    assert!(
        left.is_empty() || waited > Duration::from_millis(4_900),
        "who logs the backtrace is waited for: {left:?} after {waited:?}"
    );
    assert_eq!(service.exit(), 70);
    assert_eq!(service.event("worker-stuck").text("phase"), "cleaning");
    names_the_blocking_function(&service);
}

/// The first beat comes from the runtime: stopped before it, the worker is found all the same.
#[test]
fn a_worker_that_is_stopped_at_its_birth_is_found() {
    let service = Setup::new("workers = 1\n[app]\nstartup_delay = 600")
        .with(&SHORT.replace("20s", GRACE))
        .start();
    let forked = service.event("worker-forked");
    signal_to(forked.number("worker_pid"), Signal::SIGSTOP);
    assert_eq!(service.exit(), 70);
    service.event("worker-stuck");
}

fn end_of(service: &Service, pid: u32) -> Record {
    let worker = worker_of(service, pid);
    service.event_where("worker-failed", |event| event.worker() == Some(worker))
}

#[track_caller]
fn names_the_blocking_function(service: &Service) {
    names(service, "probe::hold_the_thread");
}

#[track_caller]
fn names(service: &Service, function: &str) {
    service.event_where("worker-trace", |event| {
        event.text("backtrace").contains(function)
    });
}
