//! The first boot, going wrong: the service ends with its own code, says why once, and leaves nothing.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::service::{Record, Service, Setup};
use crate::trace;

/// The worker's failure, as the arbiter says it, and nobody else.
#[track_caller]
fn the_reason(service: &Service) -> String {
    let errors: Vec<Record> = service
        .records()
        .into_iter()
        .filter(|record| record.text("level") == "error" && record.is("boot-failed"))
        .collect();
    assert_eq!(errors.len(), 1, "one error record");
    errors[0].text("reason").to_owned()
}

/// Runs until the end. Slot 0 fails, the healthy worker in slot 1 unwinds.
fn fails(app: &str) -> Service {
    fails_with("", app)
}

/// The same by a limit, which a healthy worker keeps that is stopped for a while.
fn fails_in_time(app: &str) -> Service {
    fails_with("timeouts.startup = '4s'", app)
}

fn fails_with(limit: &str, app: &str) -> Service {
    let settings = format!("workers = 2\n{limit}\n[app]\nslot = 0\n{app}");
    let service = Setup::new(&settings).start();
    assert_eq!(service.exit(), 70);
    service.event_where("service-stopped", |event| event.number("exit_code") == 70);
    assert!(
        !service
            .records()
            .iter()
            .any(|record| record.is("service-ready"))
    );
    service
}

#[test]
fn a_startup_step_fails() {
    let service = fails("startup = 'fail'");
    let reason = the_reason(&service);
    assert!(reason.contains("'three'"), "{reason}");
    assert!(
        reason.ends_with("read the table: no such table"),
        "{reason}"
    );
    // Once as the step's own end, in the worker, and once as the reason why there is no service.
    let records = service.records().into_iter();
    let told: Vec<String> = records
        .filter(|record| record.text("level") == "error")
        .filter(|record| record.0.to_string().contains("no such table"))
        .map(|record| {
            format!(
                "{} {}",
                record.text("process"),
                record.text("payload_event")
            )
        })
        .collect();
    assert_eq!(told, ["worker step-failed", "arbiter boot-failed"]);
    unwound(&service, 1);
}

#[test]
fn a_startup_step_panics() {
    let service = fails("startup = 'panic'");
    let reason = the_reason(&service);
    assert!(
        reason.contains("'three'") && reason.contains("asked to panic"),
        "{reason}"
    );
    unwound(&service, 1);
}

#[test]
fn a_startup_step_hangs() {
    let service = fails_in_time("startup = 'hang'");
    let reason = the_reason(&service);
    assert!(
        reason.contains("'three'") && reason.contains("4s"),
        "{reason}"
    );
    unwound(&service, 1);
}

#[test]
fn a_startup_step_that_never_waits_is_given_up_as_well() {
    let service = fails_in_time("startup = 'greedy'");
    let reason = the_reason(&service);
    assert!(
        reason.contains("'three'") && reason.contains("4s"),
        "{reason}"
    );
    unwound(&service, 1);
}

#[test]
fn load_fails() {
    let reason = the_reason(&fails("load = 'fail'"));
    assert_eq!(reason, "load failed: read the table: no such table");
}

#[test]
fn load_panics() {
    assert_eq!(
        the_reason(&fails("load = 'panic'")),
        "load panicked: asked to panic"
    );
}

#[test]
fn load_hangs() {
    let reason = the_reason(&fails_in_time("load = 'hang'"));
    assert!(reason.contains("load did not end within 4s"), "{reason}");
}

#[test]
fn a_stop_during_the_boot_is_prompt_and_clean() {
    for (signal, app) in [
        (Signal::SIGTERM, "startup = 'hang'"),
        (Signal::SIGINT, "startup = 'hang'"),
        (Signal::SIGTERM, "startup = 'greedy'"),
        (Signal::SIGTERM, "load = 'hang'"),
    ] {
        let service = Setup::new(&format!("workers = 2\n[app]\n{app}")).start();
        let phase = if app.starts_with("load") {
            "loading"
        } else {
            "starting"
        };
        service.count("both have begun", 2, |record| {
            record.is("worker-phase") && record.text("phase") == phase
        });
        if phase == "starting" {
            service.count("two steps are done", 2, |record| {
                record.text("probe") == "startup" && record.text("step") == "two"
            });
        }
        let begun = Instant::now();
        service.signal(signal);
        assert_eq!(service.exit(), 0, "{signal} with {app}");
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{:?}",
            begun.elapsed()
        );
        assert!(!service.records().iter().any(|r| r.text("level") == "error"));
        if phase == "starting" {
            unwound(&service, 1);
            unwound(&service, 2);
        }
    }
}

#[test]
fn a_stop_before_the_workers_do_anything() {
    let service = Setup::new("workers = 2").start();
    service.event("worker-forked");
    assert_eq!(service.stop(), 0);
}

/// The first two steps were torn down, the last first; the third, which had not succeeded, was not.
#[track_caller]
fn unwound(service: &Service, worker: u64) {
    let trace = trace(service, worker);
    let steps: Vec<&str> = trace
        .iter()
        .map(String::as_str)
        .filter(|word| word.starts_with("startup ") || word.starts_with("teardown "))
        .collect();
    let expected = ["startup one", "startup two", "teardown two", "teardown one"];
    assert_eq!(steps, expected);
}
