//! A service manager whose socket disappears, refuses or is not read: the service goes on and says so once.

use nix::sys::signal::Signal;

use crate::support::notify::Manager;
use crate::support::service::{Service, Setup, signal_to};

const LOST: &str = "the service manager does not take notifications";
const BACK: &str = "the service manager takes notifications again";

#[test]
fn its_socket_disappears() {
    is_lost(|manager| manager.vanish(), "No such file");
}

#[test]
fn its_socket_refuses() {
    is_lost(Manager::die, "refused");
}

#[test]
fn it_does_not_read() {
    let fill = |manager: &mut Manager| {
        manager.stop_reading();
    };
    is_lost(fill, "temporarily unavailable");
}

#[track_caller]
fn is_lost(lose: fn(&mut Manager), error: &str) {
    let mut manager = Manager::on_path();
    let service = serve("workers = 2\nrestart.crash_budget = 100", &manager);
    lose(&mut manager);
    let lost = service.record(LOST, |record| record.text("message").starts_with(LOST));
    assert_eq!(lost.text("level"), "warn");
    assert!(lost.text("error").contains(error), "{}", lost.0);
    for crash in 1..=2 {
        replaces_a_worker(&service, crash);
    }
    assert_eq!(service.stop(), 0);
    assert_eq!(told(&service, LOST), 1);
    assert_eq!(told(&service, BACK), 0);
}

#[test]
fn its_socket_comes_back() {
    let mut manager = Manager::on_path();
    let service = serve("workers = 2", &manager);
    manager.vanish();
    service.record(LOST, |record| record.text("message").starts_with(LOST));
    replaces_a_worker(&service, 1);
    // It is asked once more, and so has come to the end of the turn in which all of that happened.
    service.status();
    manager.come_back();
    // Of what it missed it hears the newest status, and nothing of the past.
    let heard = manager.hear_until("WATCHDOG=1");
    let status = heard[0].value("STATUS").expect("before anything else");
    assert!(status.starts_with("2/2 workers serving"), "{status}");
    service.record(BACK, |record| record.text("message") == BACK);
    assert_eq!(service.stop(), 0);
    manager.hear_line("STOPPING=1");
    assert_eq!((told(&service, LOST), told(&service, BACK)), (1, 1));
}

/// With a message to the manager every tenth of a second.
#[track_caller]
fn serve(configuration: &str, manager: &Manager) -> Service {
    let setup = Setup::new(configuration).notify(manager);
    let service = setup.env("WATCHDOG_USEC", "200000").serve();
    manager.hear_until("READY=1");
    service
}

/// The arbiter supervises, and each of this is a message to the manager.
#[track_caller]
fn replaces_a_worker(service: &Service, crash: usize) {
    signal_to(service.workers()[0], Signal::SIGKILL);
    service.count("it is gone", crash, |event| event.is("worker-failed"));
    service.status_where("it is replaced", |status| {
        status["arbiter"]["state"] == "ready"
    });
    assert_eq!(service.client().get("/").unwrap().status, 200);
}

fn told(service: &Service, message: &str) -> usize {
    let records = service.records();
    let told = records
        .iter()
        .filter(|record| record.text("message").starts_with(message));
    told.count()
}
