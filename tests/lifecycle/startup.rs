//! Between the startup and the first request.

use crate::support::service::Setup;
use crate::{assert_torn_down, trace};

#[test]
fn a_worker_that_was_prepared_and_never_served_is_torn_down() {
    let app = "workers = 2\n[app]\nslot = 0\ngate = '@FOLDER@/gate'\nstartup = 'fail'";
    let service = Setup::new(app).filled_in().start();
    let prepared = service.event_where("worker-phase", |event| event.text("phase") == "prepared");
    let worker = prepared.worker().unwrap();
    // Only now the other one fails.
    service.write("gate", "");
    assert_eq!(service.exit(), 70);
    let trace = trace(&service, worker);
    assert_torn_down(&trace);
    assert!(!trace.contains(&"serving".to_owned()), "{trace:?}");
    assert_eq!(trace.last().map(String::as_str), Some("exited"));
}

#[test]
fn a_startup_has_its_own_deadline_whatever_the_heartbeat_while_serving_allows() {
    let settings = "workers = 1\ntimeouts.heartbeat_serving = '3s'\n[app]\nstartup_delay = 0.5";
    // It holds its thread for longer than a serving worker may.
    let service = Setup::new(&format!("{settings}\nstartup_block = 5")).serve();
    service.never("worker-stuck");
    assert_eq!(service.stop(), 0);
    // And the startup's own limit does not ask for beats.
    let service =
        Setup::new("workers = 1\ntimeouts.startup = '1s'\n[app]\nstartup = 'hang'").start();
    assert_eq!(service.exit(), 70);
    service.never("worker-stuck");
    let reason = service.event("boot-failed");
    assert!(reason.text("reason").contains("within 1s"), "{reason}");
}
