//! What the service manager's watchdog hears: that somebody makes progress, and silence when nobody does.

use std::time::Instant;

use nix::sys::signal::Signal;

use crate::manager::{Manager, WATCHDOG};
use crate::support::service::{Service, Setup, signal_to};

const FED: &str = "WATCHDOG=1";

#[test]
fn it_is_silent_while_nobody_serves_and_no_replacement_can_start() {
    let manager = Manager::new();
    let setup = Setup::new(
        "workers = 2
timeouts.heartbeat_serving = '1s'
timeouts.abort_grace = '100ms'
restart.crash_budget = 3
restart.backoff_initial = '500ms'
restart.backoff_max = '500ms'
[app]",
    );
    let service = manager.serve(setup.steered());
    manager.hear(|text| text == FED);

    service.steer("startup = 'fail'");
    for worker in service.workers() {
        signal_to(worker, Signal::SIGSTOP);
    }
    service.count("both are found", 2, |event| event.is("worker-stuck"));
    // Both are killed, and both replacements fail: one more than the budget allows.
    failures(&service, 4);
    let before = manager.rest();
    assert!(before.iter().any(|text| text == FED), "fed before");
    let begun = Instant::now();
    // Four more in each slot, with a pause of at least a quarter of a second before each.
    failures(&service, 12);
    assert!(begun.elapsed() > 5 * WATCHDOG, "{:?}", begun.elapsed());
    let silent = manager.rest();
    assert!(
        !silent.iter().any(|text| text.contains("WATCHDOG")),
        "{silent:?}"
    );

    service.steer("");
    let again = manager.hear(|text| text.contains("WATCHDOG"));
    assert_eq!(again, FED, "a datagram of its own");
    service.count("both serve", 2, |event| {
        event.is("worker-phase") && event.text("phase") == "serving" && event.worker() > Some(2)
    });
    manager.rest();
    manager.hear(|text| text == FED);
    assert_eq!(service.stop(), 0);
}

/// The healthy one must not die with it.
#[test]
fn it_is_fed_while_one_of_two_serves() {
    let manager = Manager::new();
    let setup = Setup::new(
        "workers = 2
restart.crash_budget = 1
restart.backoff_initial = '200ms'
restart.backoff_max = '200ms'
[app]",
    );
    let service = manager.serve(setup.steered());
    service.steer("startup = 'fail'");
    signal_to(service.workers()[0], Signal::SIGKILL);
    failures(&service, 4);
    for _ in 0..5 {
        manager.rest();
        manager.hear(|text| text == FED);
    }
    assert_eq!(service.stop(), 0);
}

#[track_caller]
fn failures(service: &Service, number: usize) {
    service.count("failures", number, |event| event.is("worker-failed"));
}
