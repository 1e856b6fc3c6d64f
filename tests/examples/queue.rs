//! `examples/queue.rs`.

use std::collections::BTreeMap;
use std::path::Path;

use deadpool_sqlite::rusqlite::Connection;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::service::{Service, Setup, signal_to};
use crate::support::{DEADLINE, eventually};
use crate::users::{ask, post};

fn queue(workers: u32, work: &str) -> Service {
    let configuration = format!(
        "workers = {workers}\n[reload]\ntrial = '200ms'\n[app]\ndatabase = '@FOLDER@/queue.db'\nwork = '{work}'\n"
    );
    Setup::example("queue", &configuration).filled_in().serve()
}

#[derive(Debug)]
struct Job {
    attempts: u64,
    /// Of the share that did it.
    slots: u64,
}

fn enqueue(service: &Service, count: usize) {
    let mut client = service.client();
    for number in 0..count {
        ask(&mut client, &post("/jobs", &format!("job {number}")), 202);
    }
}

/// How many jobs are open, parked and done.
fn counts(service: &Service) -> [u64; 3] {
    let counts: Value = serde_json::from_str(&service.get("/jobs")).unwrap();
    ["open", "parked", "done"].map(|which| counts[which].as_u64().unwrap())
}

#[track_caller]
fn wait_until_done(service: &Service, at_least: u64) {
    eventually("jobs are done", DEADLINE, || {
        (counts(service)[2] >= at_least).then_some(())
    });
}

/// Every job, each of which was done by the slot that it belongs to.
#[track_caller]
fn done(service: &Service) -> Vec<Job> {
    let [open, parked, count] = counts(service);
    assert_eq!((open, parked), (0, 0));
    let jobs = (1..=count).map(|id| {
        let job: Value = serde_json::from_str(&service.get(&format!("/jobs/{id}"))).unwrap();
        let result = job["result"].as_str().unwrap();
        let (text, share) = result.trim_end_matches(')').split_once(" (slot ").unwrap();
        assert_eq!(text, job["text"].as_str().unwrap().to_uppercase());
        let (slot, slots) = share.split_once(" of ").unwrap();
        let (slot, slots): (u64, u64) = (slot.parse().unwrap(), slots.parse().unwrap());
        assert_eq!(id % slots, slot, "{result} did {id}");
        let attempts = job["attempts"].as_u64().unwrap();
        Job { attempts, slots }
    });
    jobs.collect()
}

#[track_caller]
fn expect_one_attempt_each(jobs: &[Job]) {
    let twice: Vec<&Job> = jobs.iter().filter(|job| job.attempts != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

fn database(folder: &Path) -> Connection {
    Connection::open(folder.join("queue.db")).unwrap()
}

#[test]
fn every_job_is_done_once_by_the_slot_that_it_belongs_to() {
    let service = queue(3, "5ms");
    enqueue(&service, 30);
    wait_until_done(&service, 30);
    let jobs = done(&service);
    expect_one_attempt_each(&jobs);
    assert!(jobs.iter().all(|job| job.slots == 3));
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_reload_and_scaling_in_the_middle_repeat_nothing() {
    let service = queue(2, "10ms");
    let mut total = 0;
    let mut add = |count| {
        enqueue(&service, count);
        total += count as u64;
        total
    };
    add(60);
    wait_until_done(&service, 5);
    assert!(service.reload().status.success());
    let so_far = add(60);
    service.signal(Signal::SIGTTIN);
    service.wait_until_serving(3);
    wait_until_done(&service, so_far - 50);
    let so_far = add(60);
    for left in [2, 1] {
        service.signal(Signal::SIGTTOU);
        service.wait_until_serving(left);
    }
    wait_until_done(&service, so_far);
    let jobs = done(&service);
    expect_one_attempt_each(&jobs);
    let mut shares = BTreeMap::<u64, u64>::new();
    for job in &jobs {
        *shares.entry(job.slots).or_default() += 1;
    }
    assert!(shares.len() > 1, "one number of slots did all: {shares:?}");
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_job_whose_worker_is_killed_is_done_again() {
    // Long enough to be killed in the middle of it.
    let service = queue(1, "4s");
    enqueue(&service, 1);
    let database = database(service.folder());
    eventually("the job was taken", DEADLINE, || {
        let attempts = "SELECT attempts FROM jobs";
        let attempts = database.query_one(attempts, [], |row| row.get::<_, u32>(0));
        (attempts.unwrap() == 1).then_some(())
    });
    signal_to(service.workers()[0], Signal::SIGKILL);
    wait_until_done(&service, 1);
    assert_eq!(done(&service)[0].attempts, 2);
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_stop_finishes_the_job_in_work_and_begins_none() {
    let service = queue(1, "300ms");
    // All of them would take half a minute.
    enqueue(&service, 100);
    wait_until_done(&service, 1);
    assert_eq!(service.stop(), 0);
    let (done, begun): (u32, u32) = database(service.folder())
        .query_one("SELECT count(result), sum(attempts) FROM jobs", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(done, begun);
    assert!((1..50).contains(&done), "{done} jobs were done");
}

/// As if the lease had moved on while the result was on its way.
#[test]
fn a_result_of_somebody_who_was_overtaken_is_dropped() {
    // Long enough to be overtaken in the middle of it.
    let service = queue(1, "4s");
    enqueue(&service, 1);
    let database = database(service.folder());
    let overtake = "UPDATE jobs SET epoch = epoch + 1 WHERE attempts = 1 AND result IS NULL";
    eventually("the job was taken", DEADLINE, || {
        (database.execute(overtake, []).unwrap() == 1).then_some(())
    });
    service.message("somebody else has taken the job meanwhile; the result is dropped");
    assert_eq!(counts(&service), [1, 0, 0]);
    // Whoever has the share next has a greater epoch.
    assert!(service.reload().status.success());
    wait_until_done(&service, 1);
    assert_eq!(done(&service)[0].attempts, 2);
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_job_that_was_begun_five_times_in_vain_is_parked() {
    let service = queue(1, "600s");
    let database = database(service.folder());
    database
        .execute_batch("INSERT INTO jobs (text, attempts) VALUES ('deadly', 4), ('harmless', 0)")
        .unwrap();
    let begun = |job: u32, attempts: u32| {
        let number = "SELECT attempts FROM jobs WHERE id = ?";
        eventually("it is begun", DEADLINE, || {
            let begun: u32 = database.query_one(number, [job], |row| row.get(0)).unwrap();
            (begun == attempts).then_some(())
        });
    };
    begun(1, 5);
    assert_eq!(counts(&service), [2, 0, 0], "this attempt could end well");
    for attempt in 1..=2 {
        let killed = service.workers()[0];
        signal_to(killed, Signal::SIGKILL);
        service.wait_until_replaced(killed);
        begun(2, attempt);
        let parked = service.count("it is told", 1, |record| {
            record.text("message") == "a job is parked: no attempt came to its end"
        });
        assert_eq!(parked.len(), 1, "once");
        assert_eq!(
            (&parked[0]["job"], parked[0].text("level")),
            (&1.into(), "warn")
        );
        assert_eq!(counts(&service), [1, 1, 0]);
    }
}
