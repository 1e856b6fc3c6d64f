//! Whatever ends a worker, its app is torn down, wherever the author's code can still run.

use std::net::TcpListener;

use nix::sys::signal::Signal;
use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::AsRawFd as _;

use crate::support::eventually;
use crate::support::service::{LIMIT, Quiet as _, Record, Service, Setup, signal_to};
use crate::{assert_torn_down, trace, worker_of};

fn start(settings: &str) -> Service {
    Setup::new(&format!("workers = 2\nreload.trial = '0s'\n{settings}")).serve()
}

/// Waits until the worker has gone its whole way.
#[track_caller]
fn left_in_order(service: &Service, worker: u64) {
    let last = |phase: &str| phase == "exited" || phase == "failed";
    service.event_where("worker-phase", |event| {
        event.worker() == Some(worker) && last(event.text("phase"))
    });
    let trace = trace(service, worker);
    assert_torn_down(&trace);
    assert!(trace.contains(&"draining".to_owned()), "{trace:?}");
}

#[test]
fn after_a_stop_graceful_or_quick() {
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGUSR2,
    ] {
        let service = start("");
        service.signal(signal);
        assert_eq!(service.exit(), 0, "{signal}");
        left_in_order(&service, 1);
        left_in_order(&service, 2);
    }
}

#[test]
fn after_a_reload() {
    let service = start("");
    assert!(service.reload().status.success());
    left_in_order(&service, 1);
    left_in_order(&service, 2);
}

#[test]
fn after_a_reload_that_was_rolled_back() {
    // What the new generation had started, in the worker that succeeded.
    let service = start("[app]\nslot = 0\n");
    let gate = service.folder().join("gate");
    service.configure(&format!(
        "workers = 2\n[app]\nslot = 0\ngate = '{}'\nstartup = 'fail'",
        gate.display()
    ));
    let reload = service.reload_command().spawn_quiet();
    let prepared = |record: &Record| {
        record.is("worker-phase")
            && record.text("phase") == "prepared"
            && record["payload_generation"] == 2
    };
    let worker = service
        .record("the one in slot 1", prepared)
        .worker()
        .unwrap();
    // Only now the other one fails.
    service.write("gate", "");
    assert!(!reload.wait_with_output().unwrap().status.success());
    service.event_where("worker-phase", |event| {
        event.worker() == Some(worker) && event.text("phase") == "exited"
    });
    assert_torn_down(&trace(&service, worker));
}

#[test]
fn after_scaling_down() {
    let service = start("");
    service.signal(Signal::SIGTTOU);
    service.wait_until_serving(1);
    left_in_order(&service, 2);
}

#[test]
fn after_recycling() {
    let service = start("recycle.max_requests = 10");
    let recycled = eventually("enough requests", LIMIT, || {
        service.get("/");
        service.events("recycle").first()?.worker()
    });
    left_in_order(&service, recycled);
}

#[test]
fn after_a_signal_to_the_worker_itself() {
    let service = start("");
    let pid = service.workers()[0];
    signal_to(pid, Signal::SIGTERM);
    left_in_order(&service, worker_of(&service, pid));
}

#[test]
fn after_the_death_of_a_critical_payload() {
    let app = "workers = 2\n[app]\nslot = 0\npayload = 'fail'\ngo = '@FOLDER@/go'";
    let service = Setup::new(app).filled_in().serve();
    service.write("go", "");
    left_in_order(&service, 1);
}

#[test]
fn after_the_death_of_the_arbiter() {
    let service = start("");
    service.signal(Signal::SIGKILL);
    service.gone();
    left_in_order(&service, 1);
    left_in_order(&service, 2);
}

#[test]
fn after_the_loss_of_its_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let copy = listener.try_clone().unwrap();
    let service = Setup::new("workers = 1").pass(listener).serve();
    // What nobody should do to a socket that others share: accept(2) fails for good.
    shutdown(copy.as_raw_fd(), Shutdown::Both).unwrap();
    left_in_order(&service, 1);
    let failed = service.event_where("worker-failed", |event| event.worker() == Some(1));
    assert!(failed.text("reason").contains("accept"), "{failed}");
}
