//! What goes wrong between two workers, or between one and the arbiter, costs no more than that.

use std::process::Command;

use crate::books::{Workers, with};
use crate::support::service::{signal_to, wait_for_end_of};
use nix::sys::signal::Signal;

/// As after the way back from a newer binary, whose workers say more.
#[test]
fn a_worker_that_says_what_the_arbiter_does_not_know_serves_on_and_obeys() {
    let service = with("workers = 2\n[reload]\ntrial = '50ms'", "").serve();
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    let strange = workers.heard(pids[0]).worker;
    for _ in 0..3 {
        let heard: u32 = workers.get(pids[0], "/mail/mutter").parse().unwrap();
        assert!(heard >= 2, "the arbiter and the other worker");
    }
    workers.publish(pids[0], "count=100");
    for pid in &pids {
        workers.wait_for(*pid, 100).is_complete();
    }
    assert_eq!(service.reload().status.code(), Some(0));
    service.count("the old ones are gone", 2, |record| {
        record.is("worker-exited")
    });
    let warnings = service.records().into_iter().filter(|record| {
        let is_warning = record
            .text("message")
            .contains("says what is not known here");
        is_warning && record["payload_worker"] == strange
    });
    assert_eq!(warnings.count(), 1, "it is said once");
    service.never("arbiter-lost");
    service.never("worker-failed");
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_mailbox_that_could_not_be_taken_comes_again() {
    let service = with("workers = 2", "").serve();
    let mut workers = Workers::of(&service);
    let (poor, other) = (workers.pids()[0], workers.pids()[1]);
    // Its first three are taken: it gets no new one.
    limit_descriptors(poor, "3:");
    signal_to(other, Signal::SIGKILL);
    wait_for_end_of(other);
    service.message("a worker's mailbox did not come with the order");
    service.wait_until_replaced(other);
    workers.publish(poor, "count=10");
    let new = service.workers().into_iter().find(|pid| *pid != poor);
    let new = new.unwrap();
    // The other one has no room for a connection.
    let mut newer = Workers::among(&service, &[new]);
    // It has nothing yet, and all of it when there is room again.
    assert_eq!(newer.heard(new).count(), 0);
    limit_descriptors(poor, "1024:");
    newer.wait_for(new, 10).is_complete();
    assert_eq!(service.stop(), 0);
}

fn limit_descriptors(pid: u32, limit: &str) {
    let status = Command::new("prlimit")
        .args([format!("--pid={pid}"), format!("--nofile={limit}")])
        .status();
    assert!(status.unwrap().success());
}
