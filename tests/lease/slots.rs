//! One for each slot: the shares of a work that is divided.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::Signal;

use crate::judge::Stint;
use crate::ledger::{Ledger, with};
use crate::support::service::{Service, Setup, signal_to};

fn divided(settings: &str, policy: &str) -> Setup {
    let app = format!("slot'\nledger_policy = '{policy}'\nword = '");
    with(settings, &app)
}

/// Waits until every slot has its writer with this number of slots, and nobody else writes.
#[track_caller]
fn wait_until_shared(service: &Service, ledger: &Ledger, slots: u32) -> Vec<Stint> {
    let stints = ledger.wait_until(&format!("{slots} shares"), |stints| {
        let writing = stints
            .iter()
            .filter(|stint| !stint.ended && stint.slots == slots);
        let writing: BTreeSet<u32> = writing.map(|stint| stint.slot).collect();
        writing == (0..slots).collect()
    });
    service.status_where("everybody has a holder", |status| {
        let leases = status["leases"].as_array().unwrap();
        leases.len() == slots as usize
            && leases
                .iter()
                .all(|lease| lease["holder"]["slot"] == lease["slot"])
    });
    stints
}

#[test]
fn each_slot_has_its_own_over_deaths_and_replacements() {
    let service = divided("workers = 3", "restart").serve();
    let ledger = Ledger::of(&service);
    let first = wait_until_shared(&service, &ledger, 3);
    assert_eq!(first.len(), 3);
    let workers = service.workers();
    for stint in &first {
        assert_eq!(stint.pid, workers[stint.slot as usize]);
    }
    signal_to(workers[1], Signal::SIGKILL);
    signal_to(workers[2], Signal::SIGTERM);
    let stints = ledger.wait_for(5);
    let slots: BTreeSet<u32> = stints[3..].iter().map(|stint| stint.slot).collect();
    assert_eq!(slots, BTreeSet::from([1, 2]));
    assert!(stints.iter().all(|stint| stint.slots == 3));
    wait_until_shared(&service, &ledger, 3);
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

#[test]
fn a_replacement_gets_it_when_the_old_one_has_stopped() {
    let settings = "workers = 2\n[recycle]\nmax_requests = 5\nmax_requests_jitter = 0";
    let service = divided(settings, "critical").serve();
    let ledger = Ledger::of(&service);
    let first = wait_until_shared(&service, &ledger, 2);
    for _ in 0..12 {
        service.get("/");
    }
    let stints = ledger.wait_for(3);
    let new = &stints[2];
    let old = first.iter().find(|stint| stint.slot == new.slot).unwrap();
    let old = stints
        .iter()
        .find(|stint| stint.epoch == old.epoch)
        .unwrap();
    assert!(old.ended && old.pid != new.pid);
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

/// The ledger fails where somebody with three shares writes beside somebody with two.
#[test]
fn all_start_anew_when_the_number_of_slots_changes() {
    let service = divided("workers = 2", "restart").serve();
    let ledger = Ledger::of(&service);
    wait_until_shared(&service, &ledger, 2);
    let workers = service.workers();
    service.signal(Signal::SIGTTIN);
    wait_until_shared(&service, &ledger, 3);
    assert_eq!(service.workers()[..2], workers, "in place");
    service.count("they were revoked", 2, |event| event.is("lease-revoked"));
    service.signal(Signal::SIGTTOU);
    wait_until_shared(&service, &ledger, 2);
    service.wait_until_serving(2);
    assert_eq!(service.workers(), workers);
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

/// Slots whose workers do not come up take no part: nobody waits for them.
#[test]
fn more_slots_count_when_they_serve() {
    let service = divided("workers = 2", "restart").steered().serve();
    let ledger = Ledger::of(&service);
    let first = wait_until_shared(&service, &ledger, 2);
    let app = format!(
        "ledger = '{}'\nscope = 'slot'",
        service.folder().join("ledger").display()
    );
    let gate = service.folder().join("gate");
    service.steer(&format!(
        "{app}\nledger_policy = 'restart'\ngate = '{}'",
        gate.display()
    ));
    service.signal(Signal::SIGTTIN);
    service.event_where("worker-phase", |event| {
        event.text("phase") == "starting" && event["payload_slot"] == 2
    });
    let stints = ledger.stints();
    assert_eq!(stints.len(), first.len());
    assert!(stints.iter().all(|stint| !stint.ended));
    service.never("lease-revoked");
    fs::write(gate, "").unwrap();
    wait_until_shared(&service, &ledger, 3);
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

/// It can be started only once: another worker takes the slot over.
#[test]
fn a_critical_one_is_shared_anew_by_new_workers() {
    let service = divided("workers = 2", "critical").serve();
    let ledger = Ledger::of(&service);
    wait_until_shared(&service, &ledger, 2);
    let workers = service.workers();
    service.signal(Signal::SIGTTIN);
    wait_until_shared(&service, &ledger, 3);
    let recycled = service.count("they are replaced", 2, |event| event.is("recycle"));
    assert!(recycled.iter().all(|event| event.text("cause") == "slots"));
    service.wait_until_serving(3);
    assert!(service.workers().iter().all(|pid| !workers.contains(pid)));
    service.never("worker-failed");
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

#[test]
fn a_reload_can_change_the_number() {
    let reload = "[reload]\ntrial = '200ms'";
    let service = divided(&format!("workers = 3\n{reload}"), "critical").serve();
    let ledger = Ledger::of(&service);
    wait_until_shared(&service, &ledger, 3);
    let path = service.folder().join("ledger");
    let app = format!("[app]\nledger = '{}'\nscope = 'slot'", path.display());
    service.configure(&format!("workers = 2\n{reload}\n{app}"));
    assert_eq!(service.reload().status.code(), Some(0));
    let stints = wait_until_shared(&service, &ledger, 2);
    assert!(stints[..3].iter().all(|stint| stint.ended));
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

/// The share of one that leaves is not begun anew before it has stopped, and what was two shares is not beside three.
#[test]
fn a_reload_can_make_it_more() {
    let reload = "[reload]\ntrial = '200ms'";
    let service = divided(&format!("workers = 2\n{reload}"), "critical").serve();
    let ledger = Ledger::of(&service);
    wait_until_shared(&service, &ledger, 2);
    let old = service.workers();
    let path = service.folder().join("ledger");
    let app = format!("[app]\nledger = '{}'\nscope = 'slot'", path.display());
    service.configure(&format!("workers = 3\n{reload}\n{app}"));
    assert_eq!(service.reload().status.code(), Some(0));
    let stints = wait_until_shared(&service, &ledger, 3);
    let workers = service.workers();
    each_has_its_own(&stints[2..], &workers, 3);
    assert!(workers.iter().all(|pid| !old.contains(pid)));
    assert!(stints[..2].iter().all(|stint| stint.ended));
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

#[test]
fn a_reload_with_the_same_number_hands_each_share_to_the_next_in_its_slot() {
    for policy in ["critical", "restart"] {
        let settings = "workers = 3\n[reload]\ntrial = '200ms'";
        let service = divided(settings, policy).serve();
        let ledger = Ledger::of(&service);
        let first = wait_until_shared(&service, &ledger, 3);
        each_has_its_own(&first, &service.workers(), 3);
        assert_eq!(service.reload().status.code(), Some(0));
        let stints = ledger.wait_for(6);
        wait_until_shared(&service, &ledger, 3);
        assert!(stints[..3].iter().all(|stint| stint.ended), "{stints:#?}");
        each_has_its_own(&stints[3..], &service.workers(), 3);
        assert_eq!(service.stop(), 0);
        let all = ledger.stints();
        assert_eq!(all.len(), 6, "{all:#?}");
        assert!(all.iter().all(|stint| stint.ended), "{all:#?}");
    }
}

/// As many writers as slots, each the worker of its slot, with its share of so many.
#[track_caller]
fn each_has_its_own(stints: &[Stint], workers: &[u32], slots: u32) {
    assert_eq!(stints.len(), workers.len(), "{stints:#?}");
    let taken: BTreeSet<u32> = stints.iter().map(|stint| stint.slot).collect();
    assert_eq!(taken, (0..slots).collect(), "{stints:#?}");
    for stint in stints {
        assert_eq!(stint.pid, workers[stint.slot as usize], "{stints:#?}");
        assert_eq!(stint.slots, slots, "{stints:#?}");
    }
}
