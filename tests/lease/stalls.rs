//! What happens to a lease on its way: workers that die together, one that cannot take what comes along, and an arbiter
//! that does not run for a while.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::judge::{Stint, gaps};
use crate::ledger::{Book, Ledger, with};
use crate::support::process::stat;
use crate::support::service::{Record, Service, signal_to};
use crate::support::{DEADLINE, eventually};

/// An arbiter that is late by so little does not have to notice it.
const UNNOTICED: Duration = Duration::from_millis(100);

pub(crate) fn wait_for_state(pid: u32, state: char) {
    eventually(&format!("{pid} is in state {state}"), DEADLINE, || {
        let (_, process) = stat(pid)?;
        // Of a process that is killed, the first thread may be the first to go.
        let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.count();
        (process.state == state && (state != 'Z' || threads == 1)).then_some(())
    });
}

/// These die one after the other while the arbiter does not run, for so long and longer. For how long it did not after
/// the last of them had died.
fn die_unseen(service: &Service, pids: &[u32], span: Duration) -> Duration {
    service.signal(Signal::SIGSTOP);
    wait_for_state(service.pid(), 'T');
    for pid in pids {
        signal_to(*pid, Signal::SIGKILL);
        wait_for_state(*pid, 'Z');
    }
    let dead = Instant::now();
    sleep(span);
    let unseen = dead.elapsed();
    service.signal(Signal::SIGCONT);
    unseen
}

fn releases(service: &Service, count: usize) -> Vec<String> {
    let released = service.count("it is free", count, |event| event.is("lease-released"));
    released
        .iter()
        .map(|event| event.text("cause").to_owned())
        .collect()
}

/// In the order in which they were forked, which is that in which they get leases.
fn pids(service: &Service, count: usize) -> Vec<u32> {
    let mut forked = service.count("they were forked", count, |event| event.is("worker-forked"));
    forked.sort_by_key(Record::worker);
    forked
        .iter()
        .map(|event| event.number("worker_pid"))
        .collect()
}

#[test]
fn one_whose_next_worker_has_died_as_well_goes_to_the_one_that_lives() {
    let service = with("workers = 3", "service").serve();
    let ledger = Ledger::of(&service);
    let pids = pids(&service, 3);
    ledger.wait_for_writer(pids[0]);
    // It has looked again since the boot: what its workers said then is not what it sees first.
    service.status();
    die_unseen(&service, &pids[..2], Duration::ZERO);
    ledger.wait_for_writer(pids[2]);
    assert_eq!(ledger.stints().len(), 2);
    assert_eq!(releases(&service, 2), ["died", "undelivered"]);
    service.never("lease-pauses");
    service.wait_until_serving(3);
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

#[test]
fn a_gap_is_counted_while_the_arbiter_does_not_run() {
    let service = with("workers = 2", "service").serve();
    let ledger = Ledger::of(&service);
    let pids = pids(&service, 2);
    // What follows a boot is over by then: the arbiter waits, and for nothing that comes soon.
    ledger.wait_until("it has been written for a while", |stints| {
        let wrote = |stint: &Stint| stint.to >= stint.from + Duration::from_secs(1);
        stints.first().is_some_and(wrote)
    });
    let unseen = die_unseen(&service, &pids[..1], UNNOTICED * 3);
    let stints = ledger.wait_for(2);
    let granted = service.count("it moves", 2, |event| event.is("lease-granted"));
    let (told, seen) = (
        granted[1].seconds("gap_seconds"),
        gaps(&stints)[0].as_secs_f64(),
    );
    println!("unseen: nobody wrote for {seen:.3} s, nobody had the lease for {told:.3} s");
    // It is no later than the death that is taken for it.
    assert!(told >= unseen.as_secs_f64(), "{unseen:?} {told}");
    // Its last beat was a second ago, at most.
    assert!(told < seen + 3.0, "{seen} {told}");
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

/// It would have to begin anew, as if nothing had been kept.
#[test]
fn one_that_has_no_descriptor_left_gets_it_when_it_has() {
    let book = Book::new();
    let service = book.setup("workers = 1", "slot").serve();
    let pid = pids(&service, 1)[0];
    book.ledger.wait_for_writer(pid);
    let epoch = book.ledger.stints()[0].epoch;
    limit_descriptors(pid, 4);
    // The work is shared anew, so its lease is taken from it and given back.
    service.signal(Signal::SIGTTIN);
    service.event_where("lease-released", |event| event.text("cause") == "not taken");
    service.event("lease-pauses");
    limit_descriptors(pid, 1024);
    let stints = book.ledger.wait_until("it goes on", |stints| {
        let mut own = stints.iter().filter(|stint| stint.pid == pid);
        own.any(|stint| stint.epoch > epoch && stint.to > stint.from)
    });
    assert!(stints.iter().all(|stint| !stint.bare || stint.pid != pid));
    service.wait_until_serving(2);
    service.stop();
    book.ledger.stints();
}

fn limit_descriptors(pid: u32, count: u32) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--nofile={count}:")]);
    assert!(command.status().unwrap().success());
}
