//! What the policies mean for a payload that needs a lease.

use std::time::Duration;

use crate::judge::{Stint, gaps};
use crate::ledger::{Ledger, with};
use crate::support::service::{Record, Service, Setup, signal_to, wait_for_end_of};
use nix::sys::signal::Signal;

fn policy(settings: &str, policy: &str) -> Setup {
    let app = format!("service'\nledger_policy = '{policy}'\nword = '");
    with(settings, &app)
}

fn releases(service: &Service, count: usize) -> Vec<Record> {
    service.count("it was given back", count, |event| {
        event.is("lease-released")
    })
}

#[test]
fn a_critical_one_that_fails_takes_its_worker_along_and_moves() {
    let service = policy("workers = 2", "critical").serve();
    let ledger = Ledger::of(&service);
    let first = ledger.wait_for(1)[0].pid;
    ledger.wait_for_writer(first);
    ledger.tell("fail");
    wait_for_end_of(first);
    ledger.tell_nothing();
    let released = releases(&service, 1);
    assert_eq!(released[0].text("cause"), "failed");
    let failed = service.event("worker-failed");
    assert!(failed.text("reason").contains("ledger"), "{failed}");
    service.wait_until_serving(2);
    ledger.wait_until("somebody else goes on", |stints| {
        stints.len() > 1 && stints.last().is_some_and(|last| last.to > last.from)
    });
    service.stop();
    ledger.stints();
}

/// What fails wherever it goes must not take every worker along at once.
#[test]
fn one_that_kills_whoever_has_it_pauses_and_the_service_serves() {
    for word in ["crash", "fail"] {
        let restart = "[restart]\nbackoff_initial = '4s'\nbackoff_max = '8s'";
        let service = policy(&format!("workers = 4\n{restart}"), "critical").serve();
        let ledger = Ledger::of(&service);
        let first = ledger.wait_for(1)[0].pid;
        ledger.wait_for_writer(first);
        ledger.tell(word);
        let pause = service.event("lease-pauses");
        assert_eq!(pause["failures"], 2);
        let delay = pause.seconds("delay_seconds");
        assert!((2.0..=4.0).contains(&delay), "{delay}");
        // The pause may be over already.
        let paused = pause.when() + Duration::from_secs(1);
        let mut tried = ledger.stints();
        tried.retain(|stint| stint.from < paused);
        assert_eq!(tried.len(), 2, "two have tried");
        assert!(service.workers().len() >= 2, "the others serve");
        assert_eq!(service.client().get("/").unwrap().status, 200);
        ledger.tell_nothing();
        let stints = ledger.wait_for(3);
        let gap = gaps(&stints)[1].as_secs_f64();
        assert!(gap >= delay - 0.05, "{gap} {delay}");
        ledger.wait_for_writer(stints[2].pid);
        service.stop();
        ledger.stints();
    }
}

#[test]
fn a_restarting_one_keeps_its_lease() {
    let service = policy("workers = 2", "restart").serve();
    let ledger = Ledger::of(&service);
    let first = ledger.wait_for(1)[0].pid;
    ledger.tell("fail");
    let stints = ledger.wait_for(3);
    ledger.tell_nothing();
    let same = |pid| {
        stints
            .iter()
            .all(|stint| stint.pid == pid && stint.epoch == stints[0].epoch)
    };
    assert!(same(first), "{stints:#?}");
    ledger.wait_for_writer(first);
    service.never("lease-released");
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

#[test]
fn one_that_runs_once_is_done_until_the_next_generation() {
    let service = policy("workers = 2\n[reload]\ntrial = '100ms'", "once").serve();
    let ledger = Ledger::of(&service);
    // Its death is no end of it.
    let first = ledger.wait_for(1)[0].pid;
    ledger.wait_for_writer(first);
    signal_to(first, Signal::SIGKILL);
    let second = ledger.wait_for(2)[1].pid;
    ledger.tell("return");
    let released = releases(&service, 2);
    assert_eq!(released[1].text("cause"), "finished");
    let status = service.status_where("it is done", |status| {
        status["leases"][0]["finished"] == true
    });
    assert!(status["leases"][0]["holder"].is_null(), "{status:#}");
    signal_to(second, Signal::SIGKILL);
    wait_for_end_of(second);
    service.wait_until_serving(2);
    assert_eq!(ledger.stints().len(), 2, "nobody does it again");
    assert_eq!(service.reload().status.code(), Some(0));
    ledger.wait_for(3);
    assert_eq!(releases(&service, 3)[2].text("cause"), "finished");
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

/// It cannot be stopped, so nobody else may have it before its process is gone.
#[test]
fn one_that_blocks_its_thread_keeps_it_to_the_end_of_its_worker() {
    let timeouts = "[timeouts]\ncleanup = '3s'\n[reload]\ntrial = '100ms'";
    let service = policy(&format!("workers = 1\nthreads = 2\n{timeouts}"), "critical").serve();
    let ledger = Ledger::of(&service);
    let first = ledger.wait_for(1)[0].pid;
    ledger.wait_for_writer(first);
    ledger.tell("block");
    assert_eq!(service.reload().status.code(), Some(0));
    wait_for_end_of(first);
    ledger.tell_nothing();
    let stints = ledger.wait_for(2);
    assert!(!stints[0].ended);
    let released = releases(&service, 1);
    assert_eq!(released[0].text("cause"), "died");
    service.stop();
    ledger.stints();
}

#[test]
fn one_that_does_not_stop_is_aborted_and_moves() {
    let timeouts = "[timeouts]\ngraceful = '60s'\ncleanup = '60s'";
    let settings = format!("workers = 1\n[reload]\ntrial = '100ms'\n{timeouts}");
    let service = policy(&settings, "critical").serve();
    let ledger = Ledger::of(&service);
    let first = ledger.wait_for(1)[0].pid;
    ledger.tell("ignore");
    assert_eq!(service.reload().status.code(), Some(0));
    let stints = ledger.wait_for(2);
    assert!(!stints[0].ended);
    let gap = gaps(&stints)[0].as_secs_f64();
    // Not to the deadline of the whole stop, which is a minute later.
    assert!((0.9..30.0).contains(&gap), "its time to stop is 1 s: {gap}");
    assert_eq!(releases(&service, 1)[0].text("cause"), "stopped");
    ledger.tell_nothing();
    // That it had to be aborted is a failure of its worker's teardown, and would be one of the stop.
    let exited = service.event("worker-failed");
    assert!(exited.text("reason").contains("did not stop"), "{exited}");
    assert_eq!(service.stop(), 0);
    assert!(stints.iter().skip(1).all(|stint| stint.pid != first));
    ledger.stints();
}

/// It is ten times as long as the first pause, and whoever died before has been replaced. Of one whose death is seen too
/// late only the last beat counts, which comes every second.
#[test]
fn holders_that_ran_for_a_while_die_without_a_pause() {
    let restart = "[restart]\nbackoff_initial = '20ms'\nbackoff_max = '60s'";
    let service = policy(&format!("workers = 3\n{restart}"), "critical").serve();
    let ledger = Ledger::of(&service);
    service.wait_until_serving(3);
    for count in 1..=5 {
        let stints = ledger.wait_until("it is written for a while", |stints| {
            let wrote = |stint: &Stint| stint.to >= stint.from + Duration::from_millis(1500);
            stints.get(count - 1).is_some_and(wrote)
        });
        let pid = stints[count - 1].pid;
        signal_to(pid, Signal::SIGKILL);
        service.wait_until_replaced(pid);
    }
    ledger.wait_for(6);
    service.never("lease-pauses");
    service.stop();
    ledger.stints();
}
