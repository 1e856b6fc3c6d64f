//! The events of a run, in order.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;

use crate::support::http::Client;
use crate::support::service::{Service, Setup, number, signal_to};
use crate::support::status::workers_of;
use crate::{trace, worker_of};

#[test]
fn one_clean_run() {
    let service = Setup::new("workers = 2\n[app]\npayload = 'run'").serve();
    service.get("/");
    let workers = service.workers();
    assert_eq!(workers.len(), 2);
    for worker in service.status()["workers"].as_array().unwrap() {
        let count = |key| number(&worker[key]);
        let counts = [count("loads"), count("starts"), count("stops")];
        assert_eq!(counts, [1, 1, 0], "loads, starts, stops");
    }
    assert_eq!(service.stop(), 0);
    for pid in workers {
        let done = trace(&service, worker_of(&service, pid));
        let expected = [
            "loading",
            "load",
            "starting",
            "startup one",
            "startup two",
            "startup three",
            "payload-started",
            "prepared",
            "serving",
            "draining",
            "cleaning",
            "payload-ended",
            "teardown three",
            "teardown two",
            "teardown one",
            "released",
            "exited",
        ];
        assert_eq!(done, expected);
    }
    let of_arbiter: Vec<String> = service
        .records()
        .iter()
        .filter(|record| record.text("process") == "arbiter")
        .map(|record| record.text("payload_event").to_owned())
        .filter(|event| !event.is_empty())
        .collect();
    let expected = [
        "socket-acquired",
        "service-starting",
        "worker-forked",
        "worker-forked",
        "service-ready",
        "signal-received",
        "service-stopping",
        "worker-exited",
        "worker-exited",
        "service-stopped",
    ];
    assert_eq!(of_arbiter, expected);
}

#[test]
fn what_each_event_says() {
    let settings = "workers = 1\ntimeouts.heartbeat_serving = '6s'\ntimeouts.abort_grace = 0";
    let service = Setup::new(settings).serve();
    let first = service.workers()[0];
    signal_to(first, Signal::SIGSTOP);
    service.wait_until_replaced(first);
    service.event("service-recovered");
    assert_eq!(service.stop(), 0);
    let mut of_workers = BTreeSet::new();
    for record in service.records() {
        let event = record.text("payload_event");
        if event.is_empty() {
            continue;
        }
        assert_eq!(record.text("message_id").len(), 32, "{event}");
        // A slot that waits has no worker.
        if !event.starts_with("worker-") || event == "worker-backoff" {
            continue;
        }
        of_workers.insert(event.to_owned());
        let worker = record.worker().expect("its number");
        assert!([1, 2].contains(&worker), "{record}");
        assert_eq!(record.number("payload_slot"), 0, "{record}");
        assert_eq!(record.number("payload_generation"), 1, "{record}");
        if event == "worker-phase" {
            assert!(record.seconds("took_seconds") >= 0.0);
            assert!(!record.text("previous").is_empty());
            let leaves = ["draining", "cleaning", "exited"].contains(&record.text("phase"));
            let cause = match worker {
                _ if leaves => "stop",
                1 => "boot",
                _ => "failure",
            };
            assert_eq!(record.text("cause"), cause, "{record}");
        }
        if event == "worker-forked" {
            let cause = if worker == 1 { "boot" } else { "failure" };
            assert_eq!(record.text("cause"), cause);
        }
    }
    let all = ["exited", "failed", "forked", "killed", "phase", "stuck"];
    assert!(
        of_workers
            .into_iter()
            .eq(all.map(|event| format!("worker-{event}")))
    );
}

/// In its own log, not only in the arbiter's.
#[test]
fn each_worker_that_leaves_says_why() {
    let cause = |service: &Service, worker: u64| {
        let left = service.event_where("worker-phase", |event| {
            event.worker() == Some(worker) && event.text("phase") == "draining"
        });
        left.text("cause").to_owned()
    };
    let service = Setup::new("workers = 2\n[app]\npayload = 'fail'").serve();
    service.signal(Signal::SIGTTIN);
    service.wait_until_serving(3);
    service.signal(Signal::SIGTTOU);
    assert_eq!(cause(&service, 3), "scale");
    let first = service.workers()[0];
    signal_to(first, Signal::SIGTERM);
    assert_eq!(cause(&service, worker_of(&service, first)), "signal");
    service.wait_until_replaced(first);
    let pids = service.workers();
    service.get("/payload");
    let failed = service.event("payload-failed").worker().unwrap();
    assert_eq!(cause(&service, failed), "failed");
    let mut pids = pids.into_iter();
    let pid = pids.find(|pid| worker_of(&service, *pid) == failed);
    service.wait_until_replaced(pid.unwrap());
    // Those that leave are in the status until they are gone.
    let two = || {
        let status =
            service.status_where("two and no other", |status| workers_of(status).len() == 2);
        let numbers = workers_of(&status).iter();
        numbers
            .map(|one| one["worker"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    let old = two();
    assert!(service.reload().status.success());
    for worker in old {
        assert_eq!(cause(&service, worker), "reload");
    }
    let last = two();
    assert_eq!(service.stop(), 0);
    for worker in last {
        assert_eq!(cause(&service, worker), "stop");
    }
}

#[test]
fn a_worker_that_is_recycled_and_one_without_an_arbiter_say_so() {
    let service = Setup::new("workers = 1\nrecycle.max_requests = 3").serve();
    for _ in 0..3 {
        service.get("/");
    }
    let left = |cause: &str| {
        service.event_where("worker-phase", |event| {
            event.text("phase") == "draining" && event.text("cause") == cause
        })
    };
    assert_eq!(left("recycle").worker(), Some(1));
    service.wait_until_serving(1);
    service.signal(Signal::SIGKILL);
    left("arbiter-lost");
    service.gone();
}

#[test]
fn early_connections_wait_and_are_served() {
    let service = Setup::new("workers = 2\n[app]\ngate = '@FOLDER@/gate'")
        .filled_in()
        .start();
    let mut clients: Vec<_> = (0..50).map(|_| service.client()).collect();
    for client in &mut clients {
        client.send("/").unwrap();
    }
    let status = service.status_where("both workers start", |status| {
        let workers = status["workers"].as_array().unwrap();
        workers.len() == 2 && workers.iter().all(|worker| worker["phase"] == "starting")
    });
    assert_eq!(status["arbiter"]["state"], "booting");
    for worker in status["workers"].as_array().unwrap() {
        assert_eq!(worker["accepted"], 0, "accepted before the startup is over");
    }
    let answered = clients.iter_mut().any(Client::has_answer);
    assert!(!answered, "answered during the startup");
    service.write("gate", "");
    for mut client in clients {
        assert_eq!(client.answer().expect("an answer").status, 200);
    }
    assert_eq!(service.stop(), 0);
}

#[test]
fn no_worker_serves_before_all_are_prepared() {
    let setup = Setup::new("workers = 2\n[app]\ngate = '@FOLDER@/gate'\nslot = 1").filled_in();
    let service = setup.start();
    service.event_where("worker-phase", |event| event.text("phase") == "prepared");
    service.write("gate", "");
    service.event("service-ready");
    let records = service.records();
    let at = |slot, phase| {
        let found = records.iter().position(|record| {
            record.is("worker-phase")
                && record.number("payload_slot") == slot
                && record.text("phase") == phase
        });
        found.expect("the phase")
    };
    assert!(at(0, "prepared") < at(1, "prepared"), "slot 1 is slow");
    assert!(at(1, "prepared") < at(0, "serving"));
}
