//! Processes that are killed.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use nix::sys::signal::Signal;

use crate::support::eventually;
use crate::support::http::Client;
use crate::support::service::{LIMIT, Setup, lives, number, signal_to, wait_for_end_of};
use crate::{assert_torn_down, trace, worker_of};

/// The clients end.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_killed_worker_takes_only_its_own_requests_along() {
    const REQUESTS: usize = 24;
    let service = Setup::new("workers = 3").serve();
    let mut clients: Vec<Client> = (0..REQUESTS).map(|_| service.client()).collect();
    for client in &mut clients {
        client.send(&service.gated()).unwrap();
    }
    let before = service.status_where("every request in flight", |status| {
        let workers = status["workers"].as_array().unwrap().iter();
        workers.map(|w| number(&w["in_flight"])).sum::<u32>() == 24
    });
    let workers = before["workers"].as_array().unwrap();
    let in_flight = |slot: &usize| number(&workers[*slot]["in_flight"]);
    let victim = (0..3).max_by_key(in_flight).unwrap();
    let (pid, its_own) = (number(&workers[victim]["pid"]), in_flight(&victim));
    signal_to(pid, Signal::SIGKILL);
    wait_for_end_of(pid);
    service.open_gate();

    let answers: Vec<_> = clients.iter_mut().map(Client::answer).collect();
    let lost = answers.iter().filter(|answer| answer.is_err()).count();
    assert_eq!(u32::try_from(lost).unwrap(), its_own, "requests lost");
    for answer in answers.iter().flatten() {
        assert_ne!(answer.body.trim(), pid.to_string());
    }

    let failed = service.event("worker-failed");
    assert_eq!(failed.worker(), Some(worker_of(&service, pid)));
    assert_eq!(failed.text("exit"), "killed by SIGKILL");
    let degraded = service.event("service-degraded");
    let one = "the service is degraded: not every worker serves";
    assert_eq!(degraded.text("message"), one, "a single one is no series");
    let status = service.status_where("the slot is filled again", |status| {
        status["arbiter"]["state"] == "ready" && status["workers"][victim]["phase"] == "serving"
    });
    assert_eq!(status["workers"][victim]["restarts"], 1);
    for slot in (0..3).filter(|slot| *slot != victim) {
        let (then, now) = (&workers[slot]["pid"], &status["workers"][slot]["pid"]);
        assert_eq!(then, now, "healthy ones stay");
    }
    assert_eq!(service.stop(), 0);
}

#[test]
fn no_connection_is_refused_while_workers_are_killed() {
    const CLIENTS: usize = 4;
    const KILLS: usize = 4;
    let service = Setup::new("workers = 2\nrestart.crash_budget = 100").serve();
    let address = service.address();
    let over = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    let client = || {
        let mut lost = 0;
        while !over.load(Relaxed) {
            let mut client = Client::connect(address).expect("no connection is refused");
            match client.get("/") {
                Ok(answer) => {
                    assert_eq!(answer.status, 200);
                    served.fetch_add(1, Relaxed);
                }
                Err(error) => {
                    assert_ne!(
                        error.kind(),
                        ErrorKind::WouldBlock,
                        "left without an answer"
                    );
                    lost += 1;
                }
            }
        }
        lost
    };
    let lost: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        // Also when something here panics: the clients would be waited for without an end.
        let end = Over(&over);
        for kill in 1..=KILLS {
            let victim = eventually("two workers", LIMIT, || {
                let workers = service.workers();
                (workers.len() == 2).then(|| workers[kill % 2])
            });
            signal_to(victim, Signal::SIGKILL);
            service.count("the ends", kill, |record| record.is("worker-failed"));
        }
        service.status_where("all serve again", |status| {
            status["arbiter"]["state"] == "ready"
        });
        eventually("many requests", LIMIT, || {
            (served.load(Relaxed) > 100).then_some(())
        });
        drop(end);
        let lost = clients.into_iter().map(|client| client.join().unwrap());
        lost.sum()
    });
    let served = served.into_inner();
    println!("{served} requests served, {lost} lost with {KILLS} killed workers");
    // Each client has one request under way.
    assert!(lost <= CLIENTS * KILLS, "{lost} requests were lost");
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_worker_that_is_killed_while_it_drains_is_a_failure() {
    let service = Setup::new("workers = 1").serve();
    let worker = service.workers()[0];
    let mut client = service.client();
    client.send("/sleep?ms=600000").unwrap();
    service.status_where("a request in flight", |status| {
        status["workers"][0]["in_flight"] == 1
    });
    service.signal(Signal::SIGTERM);
    service.status_where("it drains", |status| {
        status["workers"][0]["phase"] == "draining"
    });
    signal_to(worker, Signal::SIGKILL);
    assert_eq!(service.exit(), 70);
    let failed = service.event("worker-failed");
    assert_eq!(failed.text("exit"), "killed by SIGKILL");
}

#[test]
fn without_its_arbiter_a_worker_drains_and_leaves() {
    let service = Setup::new("workers = 2\n[app]\npayload = 'run'").serve();
    let workers = service.workers();
    let (mut busy, mut idle) = (service.client(), service.client());
    idle.get("/").unwrap();
    busy.send(&service.gated()).unwrap();
    service.status_where("a request in flight", |status| {
        let workers = status["workers"].as_array().unwrap().iter();
        workers.map(|w| number(&w["in_flight"])).sum::<u32>() == 1
    });
    service.signal(Signal::SIGKILL);
    service.count("both say why", 2, |record| record.is("arbiter-lost"));
    service.open_gate();
    assert_eq!(busy.answer().expect("it is finished").status, 200);
    assert!(idle.is_closed());
    service.gone();
    for pid in workers {
        let worker = worker_of(&service, pid);
        service.event_where("worker-phase", |event| {
            event.worker() == Some(worker) && event.text("phase") == "exited"
        });
        assert_torn_down(&trace(&service, worker));
    }
}

#[test]
fn without_its_arbiter_a_blocked_worker_is_ended_by_its_keeper() {
    let service =
        Setup::new("workers = 1\ntimeouts.graceful = '1s'\ntimeouts.cleanup = '1s'").serve();
    let mut client = service.client();
    client.send("/block?ms=600000").unwrap();
    service.status_where("a request in flight", |status| {
        status["workers"][0]["in_flight"] == 1
    });
    service.signal(Signal::SIGKILL);
    assert!(client.answer().is_err());
    service.gone();
}

#[test]
fn without_its_arbiter_a_starting_worker_leaves() {
    let service = Setup::new("workers = 1\n[app]\nstartup = 'hang'").start();
    service.event_where("worker-phase", |event| event.text("phase") == "starting");
    service.signal(Signal::SIGKILL);
    service.gone();
    service.event_where("worker-phase", |event| event.text("phase") == "exited");
    assert_eq!(
        trace(&service, 1).last().map(String::as_str),
        Some("exited")
    );
}

#[test]
fn a_worker_that_is_told_to_leave_drains_and_is_replaced() {
    let service = Setup::new("workers = 2").serve();
    let mut client = service.client();
    client.send(&service.gated()).unwrap();
    let status = service.status_where("a request in flight", |status| {
        let mut workers = status["workers"].as_array().unwrap().iter();
        workers.any(|w| w["in_flight"] == 1)
    });
    let workers = status["workers"].as_array().unwrap();
    let old = workers.iter().find(|w| w["in_flight"] == 1).unwrap();
    let (old, slot) = (number(&old["pid"]), number(&old["slot"]));
    let its_number = worker_of(&service, old);
    signal_to(old, Signal::SIGTERM);
    service.event_where("worker-phase", |event| {
        event.worker() == Some(its_number) && event.text("phase") == "draining"
    });
    service.open_gate();
    let answer = client.answer().expect("it finishes what it has");
    assert_eq!(answer.body.trim(), old.to_string());
    wait_for_end_of(old);
    service.status_where("it is replaced", |status| {
        let workers = status["workers"].as_array().unwrap();
        status["arbiter"]["state"] == "ready"
            && workers.len() == 2
            && workers.iter().all(|w| number(&w["pid"]) != old)
    });
    let replacement = service.event_where("worker-forked", |event| {
        event.number("payload_slot") == slot && event.worker() > Some(2)
    });
    assert_eq!(replacement.text("cause"), "failure");
    // All that it has said came before this.
    service.event_where("worker-failed", |event| event.worker() == Some(its_number));
    assert_torn_down(&trace(&service, its_number));
    assert_eq!(service.stop(), 0);
}

/// A terminal sends it to the whole foreground group; the arbiter decides.
#[test]
fn a_worker_ignores_an_interrupt() {
    let service = Setup::new("workers = 1").serve();
    let worker = service.workers()[0];
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
        signal_to(worker, signal);
    }
    let mut client = service.client();
    let answer = client.get("/sleep?ms=300").unwrap();
    assert_eq!(answer.body.trim(), worker.to_string());
    assert!(lives(worker));
    assert_eq!(service.workers(), [worker]);
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_panic_in_a_handler_costs_one_answer() {
    let service = Setup::new("workers = 1").serve();
    let worker = service.workers()[0];
    assert_eq!(service.client().get("/panic").unwrap().status, 500);
    assert_eq!(service.get("/").trim(), worker.to_string());
    assert_eq!(service.status()["workers"][0]["panics"], 1);
    assert_eq!(service.stop(), 0);
}
