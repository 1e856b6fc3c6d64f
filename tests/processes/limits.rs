//! When the system refuses: no processes, no descriptors.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::is_root;
use crate::support::http::Client;
use crate::support::service::{Setup, lives, number, signal_to, stat};
use crate::support::status::workers_of;
use crate::support::{DEADLINE, eventually};

/// The limit counts all processes of a user: each test has one of its own, in each run of the tests.
fn nobody_else(test: u32) -> u32 {
    1_640_000_000 + 4 * std::process::id() + test
}

/// Refused forks, enough for the longest pause to be reached.
const ATTEMPTS: usize = 5;

/// Processes of this user, until it is dropped.
struct Crowd(Vec<Child>);

impl Crowd {
    fn of(user: u32, number: usize) -> Self {
        let uid = format!("--reuid={user}");
        let sleep = || {
            Command::new("setpriv")
                .args([&uid, "--clear-groups", "--", "sleep", "600"])
                .spawn()
                .unwrap()
        };
        let crowd = Self((0..number).map(|_| sleep()).collect());
        // Each of them becomes the user in its own time.
        eventually("a crowd of this user", DEADLINE, || {
            crowd
                .0
                .iter()
                .all(|child| is_of(child.id(), user))
                .then_some(())
        });
        crowd
    }
}

fn is_of(pid: u32, user: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == user)
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for process in &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[test]
fn no_process_at_the_first_boot() {
    if !is_root("RLIMIT_NPROC of another user") {
        return;
    }
    let service = Setup::new("workers = 2")
        .through(&["prlimit", "--nproc=1:1", "--"])
        .under_user(nobody_else(0))
        .start();
    assert_eq!(service.exit(), 71);
    let failed = service.event("boot-failed");
    assert!(
        failed.text("message").contains("RLIMIT_NPROC"),
        "{}",
        failed.0
    );
    assert!(
        failed.text("reason").contains("unavailable"),
        "{}",
        failed.0
    );
}

#[test]
fn no_process_for_a_replacement() {
    if !is_root("RLIMIT_NPROC of another user") {
        return;
    }
    let user = nobody_else(1);
    let service = Setup::new(
        "workers = 2
restart.backoff_initial = '100ms'
restart.backoff_max = '800ms'
restart.crash_budget = 100",
    )
    .through(&["prlimit", "--nproc=30:30", "--"])
    .under_user(user)
    .serve();
    let workers = service.workers();
    let crowd = Crowd::of(user, 30);
    let begun = Instant::now();
    signal_to(workers[0], Signal::SIGKILL);
    let refusals = service.count("it is tried again", ATTEMPTS, |record| {
        record.is("fork-failed")
    });
    let took = begun.elapsed().as_secs_f64();
    for refused in &refusals {
        assert!(refused.text("reason").contains("unavailable"));
    }
    let waits = service.count("with pauses", ATTEMPTS, |event| event.is("worker-backoff"));
    let delays: Vec<f64> = waits
        .iter()
        .take(ATTEMPTS)
        .map(|wait| wait.seconds("delay_seconds"))
        .collect();
    // Each is between half and all of its bound, and the bounds double: no jitter looks like growth.
    for ((wait, delay), failures) in waits.iter().zip(&delays).zip(1..) {
        assert_eq!(wait.number("failures"), failures);
        let bound = (0.1 * f64::from(1 << (failures - 1))).min(0.8);
        assert!(
            (bound / 2.0..=bound).contains(delay),
            "{failures}: {delays:?}"
        );
    }
    // What is announced is kept: so many pauses lie between the refusals. A busy machine can only add to it.
    let sum: f64 = delays.iter().take(ATTEMPTS - 1).sum();
    assert!(took >= sum, "{took} s for {delays:?}");
    assert_eq!(service.status()["arbiter"]["state"], "degraded");
    assert!(lives(workers[1]), "the healthy one stays");
    assert_eq!(service.get("/").trim(), workers[1].to_string());
    drop(crowd);
    service.event("service-recovered");
    assert_eq!(service.workers().len(), 2);
    assert_eq!(service.stop(), 0);
}

/// A process without the threads that it needs is a worker that failed, and no more.
#[test]
fn no_thread_for_a_worker() {
    if !is_root("RLIMIT_NPROC of another user") {
        return;
    }
    // The arbiter and one process more.
    let service = Setup::new("workers = 1")
        .through(&["prlimit", "--nproc=2:2", "--"])
        .under_user(nobody_else(2))
        .start();
    assert_eq!(service.exit(), 70);
    service.record("the cause", |record| {
        record
            .text("message")
            .contains("the worker cannot start its app's thread")
    });
}

#[test]
fn no_descriptors() {
    const MANY: usize = 200;
    let service = Setup::new("workers = 1")
        .through(&["prlimit", "--nofile=64:64", "--"])
        .serve();
    let worker = service.workers()[0];
    let started = Instant::now();
    let mut clients: Vec<Client> = (0..MANY).map(|_| service.client()).collect();
    for client in &mut clients {
        client.send("/").unwrap();
    }
    let warned = service.record("it says so", |record| {
        record.text("message").starts_with("cannot accept")
    });
    assert!(warned.text("error").contains("open files"), "{}", warned.0);
    assert!(warned.text("cure").contains("LimitNOFILE="), "{}", warned.0);

    service.status_where("it has answered all that it has accepted", |status| {
        let count = |key| number(&workers_of(status)[0][key]);
        count("in_flight") == 0 && count("requests") > 0 && count("requests") == count("accepted")
    });
    let (before, begun) = (stat(worker).unwrap().1.ticks, Instant::now());
    thread::sleep(Duration::from_secs(2));
    let (ticks, waited) = (stat(worker).unwrap().1.ticks - before, begun.elapsed());
    println!("{ticks} ticks in {waited:?} without a descriptor");
    // Ticks are hundredths of a second: this is a twentieth of the time.
    let most = waited.as_secs_f64() * 5.0;
    let spent = f64::from(u32::try_from(ticks).unwrap());
    assert!(spent < most, "it spins: {ticks} ticks in {waited:?}");
    assert_eq!(service.workers(), [worker], "it lives on");

    // Each one that is answered and closed makes room for the next.
    for client in clients {
        let mut client = client;
        assert_eq!(client.answer().expect("an answer").status, 200);
    }
    let answer = service.get("/");
    assert_eq!(answer.trim(), worker.to_string());
    let warnings = service.records();
    let warnings = warnings
        .iter()
        .filter(|record| record.text("message").starts_with("cannot accept"));
    // One in ten seconds, while it lasts.
    let most = 3 + started.elapsed().as_secs() / 10;
    assert!(warnings.count() as u64 <= most, "it does not fill the log");
    assert_eq!(service.stop(), 0);
}
