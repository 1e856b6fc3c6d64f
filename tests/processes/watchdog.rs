//! What the service manager's watchdog hears: that somebody makes progress, and silence when nobody does.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::notify::Manager;
use crate::support::service::{Record, Service, Setup, signal_to};

const FED: &str = "WATCHDOG=1";
/// How often it is due: half of WATCHDOG_USEC.
const INTERVAL: Duration = Duration::from_millis(100);

#[test]
fn it_is_silent_while_nobody_serves_and_no_replacement_can_start() {
    let manager = Manager::on_path();
    let setup = Setup::new(
        "workers = 2
timeouts.heartbeat_serving = '4s'
timeouts.abort_grace = '100ms'
restart.crash_budget = 3
restart.backoff_initial = '500ms'
restart.backoff_max = '500ms'
[app]",
    );
    let service = watched(setup, &manager);
    manager.hear_line(FED);

    service.steer("startup = 'fail'");
    for worker in service.workers() {
        signal_to(worker, Signal::SIGSTOP);
    }
    service.count("both are found", 2, |event| event.is("worker-stuck"));
    for worker in [1, 2] {
        service.event_where("worker-failed", |event| event.worker() == Some(worker));
    }
    // Both are killed, and both replacements fail: one more than the budget allows.
    failures(&service, 4);
    let before = manager.rest();
    assert!(
        before.iter().any(|datagram| datagram.has(FED)),
        "fed before"
    );
    // Four more in each slot, with a pause of at least a quarter of a second before each, counted from now on.
    let first = service.events("worker-failed").len();
    let failed = failures(&service, first + 8);
    let lasted = failed[first + 7].seconds_after(&failed[first]);
    assert!(lasted > 5.0 * INTERVAL.as_secs_f64(), "{lasted} s");
    let silent = manager.rest();
    assert!(
        !silent.iter().any(|datagram| datagram.has(FED)),
        "{silent:?}"
    );

    service.steer("");
    let again = manager.hear_line(FED);
    assert_eq!(again.lines, [FED], "a datagram of its own");
    replacements_serve(&service, 2);
    manager.rest();
    manager.hear_line(FED);
    assert_eq!(service.stop(), 0);
}

/// The healthy one must not die with it.
#[test]
fn it_is_fed_while_one_of_two_serves() {
    let manager = Manager::on_path();
    let setup = Setup::new(
        "workers = 2
restart.crash_budget = 1
restart.backoff_initial = '200ms'
restart.backoff_max = '200ms'
[app]",
    );
    let service = watched(setup, &manager);
    service.steer("startup = 'fail'");
    signal_to(service.workers()[0], Signal::SIGKILL);
    failures(&service, 4);
    for _ in 0..5 {
        manager.rest();
        manager.hear_line(FED);
    }
    // One that fails while the service stops would make it an unclean stop.
    service.steer("");
    replacements_serve(&service, 1);
    assert_eq!(service.stop(), 0);
}

/// One whose watchdog is fed.
#[track_caller]
fn watched(setup: Setup, manager: &Manager) -> Service {
    let usec = (2 * INTERVAL).as_micros().to_string();
    let setup = setup.steered().notify(manager);
    let service = setup.env("WATCHDOG_USEC", &usec).serve();
    manager.hear_until("READY=1");
    service
}

#[track_caller]
fn failures(service: &Service, number: usize) -> Vec<Record> {
    service.count("failures", number, |event| event.is("worker-failed"))
}

#[track_caller]
fn replacements_serve(service: &Service, number: usize) {
    service.count("replacements serve", number, |event| {
        event.is("worker-phase") && event.text("phase") == "serving" && event.worker() > Some(2)
    });
}
