//! The one payload of the service goes where it can run.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::judge::gaps;
use crate::ledger::{Ledger, with};
use crate::support::service::{Record, Service, Setup, signal_to, wait_for_end_of};
use crate::support::status::workers_of;

/// For how long a busy machine may keep a process from running.
const SLACK: f64 = 8.0;

const RELOAD: &str = "workers = 3\n[reload]\ntrial = '300ms'";

fn granted(service: &Service, count: usize) -> Vec<Record> {
    service.count("the lease was granted", count, |record| {
        record.is("lease-granted")
    })
}

/// The pid of the worker that this record is about.
fn pid_of(service: &Service, record: &Record) -> u32 {
    let worker = record.worker();
    let forked = service.event_where("worker-forked", |event| event.worker() == worker);
    forked.number("worker_pid")
}

#[track_caller]
fn holder(status: &Value) -> &Value {
    let leases = status["leases"].as_array().expect("a list");
    assert_eq!(leases.len(), 1, "{status:#}");
    &leases[0]["holder"]
}

fn position(service: &Service, fits: impl Fn(&Record) -> bool) -> usize {
    let records = service.records();
    records.iter().position(fits).expect("it was logged")
}

#[test]
fn one_worker_runs_it_and_everybody_can_see_which() {
    let service = with("workers = 3", "service").serve();
    let ledger = Ledger::of(&service);
    let first = &granted(&service, 1)[0];
    let pid = pid_of(&service, first);
    ledger.wait_for_writer(pid);
    assert_eq!(first.text("payload"), "ledger");
    assert_eq!(first.seconds("gap_seconds"), 0.0);
    let status = service.status_where("it runs", |status| {
        let states = workers_of(status).iter();
        states
            .filter(|worker| worker["payloads"][0]["state"] == "running")
            .count()
            == 1
    });
    for worker in workers_of(&status) {
        let state = if worker["pid"] == pid {
            "running"
        } else {
            "waiting"
        };
        assert_eq!(worker["payloads"][0]["state"], state, "{worker:#}");
        assert_eq!(worker["payloads"][0]["scope"], "service");
    }
    let holder = holder(&status);
    assert_eq!(holder["pid"], pid);
    assert_eq!(holder["epoch"], first["epoch"]);
    let table = service.status_command(&[]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains(&format!("lease ledger (service) pid {pid}")),
        "{table}"
    );
    let stints = ledger.stints();
    assert_eq!(stints.len(), 1);
    assert_eq!(
        (stints[0].slots, Some(stints[0].epoch)),
        (3, first["epoch"].as_u64())
    );
    assert_eq!(service.stop(), 0);
    assert!(ledger.stints()[0].ended, "it was told to stop");
    let released = service.event("lease-released");
    assert_eq!(released.text("cause"), "stopped");
}

#[test]
fn it_moves_when_its_holder_is_killed_and_the_gap_is_told() {
    let service = with("workers = 3", "service").serve();
    let ledger = Ledger::of(&service);
    let mut epochs = Vec::new();
    for round in 1..=2 {
        let grant = granted(&service, round).pop().unwrap();
        epochs.push(grant["epoch"].as_u64());
        let pid = pid_of(&service, &grant);
        ledger.wait_for_writer(pid);
        signal_to(pid, Signal::SIGKILL);
        let stints = ledger.wait_for(round + 1);
        assert_ne!(stints[round].pid, pid);
        let next = granted(&service, round + 1).pop().unwrap();
        let (told, seen) = (
            next.seconds("gap_seconds"),
            gaps(&stints)[round - 1].as_secs_f64(),
        );
        println!("killed: nobody wrote for {seen:.6} s, nobody had the lease for {told:.6} s");
        assert!((seen - told).abs() < SLACK, "{seen} {told}");
        assert!(
            seen < 0.1 + SLACK,
            "the second death in a row costs a short pause: {seen}"
        );
        let released = service.count("it died", round, |event| event.is("lease-released"));
        assert_eq!(released[round - 1].text("cause"), "died");
    }
    assert!(epochs[0] < epochs[1]);
    service.wait_until_serving(3);
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

#[test]
fn one_that_is_frozen_keeps_it_until_it_is_dead() {
    // Long enough that a busy machine freezes nobody else.
    let settings = "workers = 2\n[timeouts]\nheartbeat_serving = '4s'\nabort_grace = '500ms'";
    let service = with(settings, "service").serve();
    let ledger = Ledger::of(&service);
    let pid = pid_of(&service, &granted(&service, 1)[0]);
    ledger.wait_for_writer(pid);
    signal_to(pid, Signal::SIGSTOP);
    let stints = ledger.wait_for(2);
    let next = granted(&service, 2).pop().unwrap();
    let killed = position(&service, |event| event.is("worker-killed"));
    let released = position(&service, |event| event.is("lease-released"));
    let moved = position(&service, |event| {
        event.is("lease-granted") && event["epoch"] == next["epoch"]
    });
    assert!(killed < released && released < moved);
    let (told, seen) = (next.seconds("gap_seconds"), gaps(&stints)[0].as_secs_f64());
    println!(
        "frozen: nobody wrote for {seen:.3} s, the lease was without a live holder for {told:.3} s"
    );
    let limits = 4.0 + 0.5 - 1.0;
    assert!(
        seen > limits,
        "the heartbeat's limit from the last beat, and the time after SIGABRT: {seen}"
    );
    // From its last beat, which comes every second.
    assert!(
        told > seen - SLACK && told < seen + 1.0 + SLACK,
        "{seen} {told}"
    );
    assert_eq!(service.stop(), 0, "it is replaced, and stops well");
    ledger.stints();
}

#[test]
fn a_reload_hands_it_over_when_it_is_committed_and_the_old_one_has_stopped() {
    let service = with(RELOAD, "service").serve();
    let ledger = Ledger::of(&service);
    let old = pid_of(&service, &granted(&service, 1)[0]);
    ledger.wait_for_writer(old);
    let output = service.reload();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let stints = ledger.wait_for(2);
    assert_eq!(stints[0].pid, old);
    assert!(stints[0].ended, "it was told to stop, and did");
    let next = granted(&service, 2).pop().unwrap();
    assert_eq!(pid_of(&service, &next), stints[1].pid);
    let (told, seen) = (next.seconds("gap_seconds"), gaps(&stints)[0].as_secs_f64());
    println!("reload: nobody wrote for {seen:.6} s, nobody had the lease for {told:.6} s");
    assert!(seen < SLACK && told < SLACK, "{seen} {told}");
    // In the log: the last new worker serves; then the trial; then the old one gives it back.
    let served = |event: &Record| {
        event.is("worker-phase")
            && event.text("phase") == "serving"
            && event["payload_generation"] == 2
    };
    let serving = service.count("they serve", 3, served);
    let trial = next.seconds_after(&serving[2]);
    assert!(trial > 0.29, "not in the trial: {trial}");
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

#[test]
fn a_rollback_leaves_it_where_it_was() {
    // The trial is not over before it fails.
    let service = with("workers = 3\n[reload]\ntrial = '1m'", "service");
    let service = service.steered().serve();
    let ledger = Ledger::of(&service);
    let old = pid_of(&service, &granted(&service, 1)[0]);
    ledger.wait_for_writer(old);
    let go = service.folder().join("go");
    service.steer(&format!(
        "payload = 'fail'\nslot = 2\ngo = '{}'\nledger = '{}'\nscope = 'service'",
        go.display(),
        service.folder().join("ledger").display()
    ));
    let mut reload = service.reload_command().spawn().unwrap();
    service.count("they serve", 2, |event| {
        event.is("worker-phase")
            && event.text("phase") == "serving"
            && event["payload_generation"] == 2
    });
    fs::write(go, "").unwrap();
    assert_eq!(reload.wait().unwrap().code(), Some(70));
    service.status_where("one generation is left", |status| {
        workers_of(status).len() == 3
    });
    ledger.wait_for_writer(old);
    assert_eq!(ledger.stints().len(), 1, "nobody else has ever had it");
    assert_eq!(granted(&service, 1).len(), 1);
    service.never("lease-released");
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_worker_that_is_scaled_away_or_terminated_hands_it_over() {
    let service = with("workers = 2", "service").serve();
    let ledger = Ledger::of(&service);
    service.signal(Signal::SIGTTIN);
    service.wait_until_serving(3);
    let first = pid_of(&service, &granted(&service, 1)[0]);
    ledger.wait_for_writer(first);
    let mut holder = first;
    for round in 1.. {
        // Until the last slot has it, which a smaller number takes away.
        let last = service.workers().pop().unwrap();
        if holder == last {
            break;
        }
        assert!(round < 10, "it never comes to the last slot");
        signal_to(holder, Signal::SIGTERM);
        wait_for_end_of(holder);
        holder = ledger.wait_for(round + 1)[round].pid;
        service.wait_until_serving(3);
        ledger.wait_for_writer(holder);
    }
    let before = ledger.stints().len();
    service.signal(Signal::SIGTTOU);
    let stints = ledger.wait_for(before + 1);
    assert!(
        stints
            .iter()
            .all(|stint| stint.ended || stint.epoch == stints[before].epoch)
    );
    for gap in gaps(&stints) {
        assert!(gap < Duration::from_secs_f64(SLACK), "{gap:?}");
    }
    service.wait_until_serving(2);
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

/// As long as the old workers finish their requests, they do not hold it, unless the author wants them to.
#[test]
fn a_long_request_of_the_holder_holds_nothing_up() {
    let drained =
        |event: &Record| event.text("phase") == "cleaning" && event["payload_generation"] == 1;
    for after in [false, true] {
        let app = format!("service'\nledger_after = {after}\nword = '");
        let service = with("workers = 1\n[reload]\ntrial = '100ms'", &app).serve();
        let ledger = Ledger::of(&service);
        ledger.wait_for(1);
        let mut client = service.client();
        let gate = service.folder().join("gate");
        client
            .send(&format!("/gate?file={}", gate.display()))
            .unwrap();
        service.wait_for_sum("in_flight", 1);
        assert_eq!(service.reload().status.code(), Some(0));
        if after {
            service.event_where("worker-phase", |event| {
                event.text("phase") == "draining" && event["payload_generation"] == 1
            });
        } else {
            // The worker can be faster than the arbiter's log.
            granted(&service, 2);
            ledger.wait_for(2);
        }
        service.write("gate", "");
        ledger.wait_for(2);
        let answered = client.answer().unwrap();
        assert_eq!(answered.status, 200);
        let moved = granted(&service, 2).pop().unwrap();
        service.event_where("worker-phase", drained);
        let moved = position(&service, |event| {
            event.is("lease-granted") && event["epoch"] == moved["epoch"]
        });
        let drained = position(&service, |event| event.is("worker-phase") && drained(event));
        assert_eq!(moved > drained, after, "{moved} {drained}");
        assert_eq!(service.stop(), 0);
        ledger.stints();
    }
}

#[test]
fn an_app_can_begin_to_want_it_and_cease_to() {
    let service = with(RELOAD, "worker").steered().serve();
    let path = service.folder().join("ledger");
    let ledger = Ledger::of(&service);
    let wants = |scope: &str| format!("ledger = '{}'\nscope = '{scope}'", path.display());
    service.steer("word = 'none'");
    assert_eq!(service.reload().status.code(), Some(0));
    service.wait_until_serving(3);
    fs::remove_file(&path).unwrap();
    service.never("lease-granted");
    service.steer(&wants("service"));
    assert_eq!(service.reload().status.code(), Some(0));
    let stints = ledger.wait_for(1);
    assert_eq!(stints[0].slots, 3);
    service.steer("word = 'none'");
    assert_eq!(service.reload().status.code(), Some(0));
    service.event("lease-released");
    service.status_where("there is no lease any more", |status| {
        status["leases"].as_array().is_some_and(Vec::is_empty)
    });
    assert_eq!(service.stop(), 0);
    assert_eq!(ledger.stints().len(), 1);
}

#[test]
fn another_scope_of_the_same_name_waits_for_the_last_one() {
    let service = with(RELOAD, "service").steered().serve();
    let path = service.folder().join("ledger");
    let ledger = Ledger::of(&service);
    ledger.wait_for(1);
    let wants = format!("ledger = '{}'\nscope = 'slot'", path.display());
    service.steer(&wants);
    assert_eq!(service.reload().status.code(), Some(0));
    granted(&service, 4);
    let records = service.records();
    let at = |name: &str| {
        let named = records
            .iter()
            .enumerate()
            .filter(|(_, event)| event.is(name));
        named.map(|(index, _)| index).collect::<Vec<_>>()
    };
    assert!(at("lease-released")[0] < at("lease-granted")[1]);
    assert_eq!(service.stop(), 0);
}

#[test]
fn the_number_rises_over_a_restart_of_the_service() {
    let epoch = || {
        let service = with("workers = 1", "service").serve();
        let epoch = granted(&service, 1)[0]["epoch"].as_u64();
        assert_eq!(service.stop(), 0);
        epoch.unwrap()
    };
    let (first, second) = (epoch(), epoch());
    assert!(first < second, "{first} {second}");
}

#[test]
fn workers_that_lose_their_arbiter_stop_it() {
    let service = with("workers = 3", "service").serve();
    let ledger = Ledger::of(&service);
    ledger.wait_for_writer(pid_of(&service, &granted(&service, 1)[0]));
    service.signal(Signal::SIGKILL);
    service.gone();
    let stints = ledger.stints();
    assert_eq!(stints.len(), 1);
    assert!(stints[0].ended, "it was stopped in order");
}

#[test]
fn a_service_without_such_payloads_has_no_leases() {
    let service = Setup::new("workers = 2\n[app]\npayload = 'run'").serve();
    assert_eq!(service.status()["leases"], Value::Array(Vec::new()));
    service.never("lease-granted");
    assert_eq!(service.stop(), 0);
}
