//! What runs in the background of an app runs under its supervisor, and nothing of it is left when that says so.

use std::collections::{BTreeMap, BTreeSet};

use nix::sys::signal::Signal;

use crate::support::service::{Record, Service, Setup, signal_to};
use crate::support::status::workers_of;
use crate::worker_of;

/// A payload of each kind: one of the app, one of an app that is mounted in it, one that needs a lease.
fn start(workers: u32, settings: &str) -> Service {
    let settings = format!(
        "workers = {workers}\nreload.trial = '0s'\n[app]\nmount = true\nledger = '@FOLDER@/ledger'\n\
         scope = 'service'\n{settings}"
    );
    Setup::new(&settings).filled_in().serve()
}

/// What a record says about a payload: that it was started, that what it holds is dropped, that it has ended.
fn said(record: &Record) -> Option<(String, &'static str)> {
    let gone = record.text("gone");
    let what = match record.text("payload_event") {
        "payload-started" => "started",
        "payload-ended" | "payload-failed" => "ended",
        _ if !gone.is_empty() => return Some((gone.to_owned(), "gone")),
        _ => return None,
    };
    Some((record.text("payload").to_owned(), what))
}

/// Each payload of each worker was started, was gone, and then had its end, again and again, and all of that before the
/// worker was over. A worker that was killed says nothing any more. Gives the payloads that each one had.
#[track_caller]
fn assert_supervised(service: &Service, killed: Option<u64>) -> BTreeMap<u64, BTreeSet<String>> {
    let mut had = BTreeMap::new();
    let mut told: BTreeMap<(u64, String), Vec<&str>> = BTreeMap::new();
    let mut over = BTreeSet::new();
    for record in service.records() {
        let Some(worker) = record.worker().filter(|worker| Some(*worker) != killed) else {
            continue;
        };
        if record.is("worker-phase") && ["exited", "failed"].contains(&record.text("phase")) {
            over.insert(worker);
        }
        if let Some((payload, what)) = said(&record) {
            assert!(!over.contains(&worker), "it outlived its worker: {record}");
            let had: &mut BTreeSet<_> = had.entry(worker).or_default();
            had.insert(payload.clone());
            told.entry((worker, payload)).or_default().push(what);
        }
    }
    assert!(over.iter().eq(had.keys()), "{over:?} are over, of {had:?}");
    for (payload, told) in told {
        let in_order = told
            .chunks(3)
            .all(|run| run == ["started", "gone", "ended"]);
        assert!(in_order, "{payload:?}: {told:?}");
    }
    had
}

#[test]
fn every_payload_is_supervised_and_gone_before_its_end_is_told() {
    let service = start(2, "payload = 'run'");
    let declared = ["/inner: inner", "task", "ledger"];
    for worker in workers_of(&service.status()) {
        let names = worker["payloads"].as_array().unwrap().iter();
        assert!(names.map(|payload| &payload["name"]).eq(declared));
    }
    // A death, a reload, one worker less, the stop: whatever ends a worker.
    let pid = service.workers()[0];
    let killed = worker_of(&service, pid);
    signal_to(pid, Signal::SIGKILL);
    service.wait_until_replaced(pid);
    service.event_where("payload-started", |event| {
        event.text("payload") == "ledger" && event.worker() != Some(killed)
    });
    assert!(service.reload().status.success());
    service.signal(Signal::SIGTTOU);
    service.wait_until_serving(1);
    service.event_where("payload-started", |event| {
        event.text("payload") == "ledger" && event["payload_generation"] == 2
    });
    assert_eq!(service.stop(), 0);
    let had = assert_supervised(&service, Some(killed));
    assert_eq!(had.len(), 4, "{had:?}");
    for payloads in had.values() {
        assert!(declared[..2].iter().all(|name| payloads.contains(*name)));
    }
    let ledger = had.values().filter(|payloads| payloads.contains("ledger"));
    assert!(ledger.count() >= 2, "it has moved: {had:?}");
}

#[test]
fn so_is_one_that_ends_badly_or_does_not_stop() {
    let service = start(2, "payload = 'ignore-stop'");
    assert_eq!(service.stop(), 70);
    assert_eq!(assert_supervised(&service, None).len(), 2);

    // One worker: another one could be about to fail in the moment of the stop.
    let settings = "payload = 'panic'\npolicy = 'restart'\ngo = '@FOLDER@/go'";
    let service = start(1, settings);
    service.write("go", "");
    // What fails in the moment in which it is told to stop would be a failure of the stop: this one is over.
    service.event_where("payload-failed", |event| event["restarts"] == 2);
    assert_eq!(service.stop(), 0);
    assert_supervised(&service, None);
}
