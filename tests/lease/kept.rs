//! What one holder keeps is what the next one finds. The probe keeps every count before it writes it; what it finds
//! that is not the last one fails in [`Ledger::stints`].

use nix::sys::signal::Signal;

use crate::judge::Stint;
use crate::ledger::{Ledger, with};
use crate::support::service::{Service, Setup, signal_to, wait_for_end_of};

const FAST: &str =
    "[reload]\ntrial = '100ms'\n[restart]\nbackoff_initial = '20ms'\nbackoff_max = '100ms'";

fn keeping(settings: &str, scope: &str, policy: &str) -> Setup {
    let app = format!("{scope}'\nledger_keep = true\nledger_policy = '{policy}'\nword = '");
    with(&format!("{settings}\n{FAST}"), &app)
}

/// Waits for this many writers, of which everybody went on with what the one before had kept.
#[track_caller]
fn handed_on(ledger: &Ledger, count: usize) -> Vec<Stint> {
    let stints = ledger.wait_until(&format!("{count} writers that write"), |stints| {
        stints.len() >= count && stints[count - 1].to > stints[count - 1].from
    });
    assert!(stints.iter().all(|stint| !stint.bare), "{stints:#?}");
    stints
}

#[track_caller]
fn ends_well(service: &Service, ledger: &Ledger) {
    service.stop();
    assert!(ledger.stints().iter().all(|stint| !stint.bare));
    let kept = |record: &&crate::support::service::Record| record["kept_bytes"].is_u64();
    let granted = service.events("lease-granted");
    assert_eq!(granted.iter().filter(kept).count() + 1, granted.len());
}

#[test]
fn over_a_kill_of_the_holder() {
    let service = keeping("workers = 2", "service", "restart").serve();
    let ledger = Ledger::of(&service);
    for count in 1..=5 {
        let stints = handed_on(&ledger, count);
        signal_to(stints[count - 1].pid, Signal::SIGKILL);
        wait_for_end_of(stints[count - 1].pid);
    }
    handed_on(&ledger, 6);
    ends_well(&service, &ledger);
}

/// Nobody is left who wants it, for a while.
#[test]
fn over_a_kill_of_the_only_worker() {
    let service = keeping("workers = 1", "service", "critical").serve();
    let ledger = Ledger::of(&service);
    for count in 1..=3 {
        let stints = handed_on(&ledger, count);
        signal_to(stints[count - 1].pid, Signal::SIGKILL);
    }
    handed_on(&ledger, 4);
    ends_well(&service, &ledger);
}

#[test]
fn over_a_restart_in_place_and_an_end_that_takes_its_worker_along() {
    for (policy, moves) in [("restart", false), ("critical", true)] {
        let service = keeping("workers = 2", "service", policy).serve();
        let ledger = Ledger::of(&service);
        let first = handed_on(&ledger, 1)[0].pid;
        ledger.tell("fail");
        ledger.wait_for(2);
        ledger.tell_nothing();
        let stints = handed_on(&ledger, 2);
        assert_eq!(stints[1].pid != first, moves);
        ends_well(&service, &ledger);
    }
}

#[test]
fn over_reloads_of_which_some_are_rolled_back() {
    let service = keeping("workers = 2", "service", "critical")
        .steered()
        .serve();
    let ledger = Ledger::of(&service);
    let mut count = 1;
    for turn in 0..4 {
        let stints = handed_on(&ledger, count);
        if turn % 2 == 0 {
            assert_eq!(service.reload().status.code(), Some(0));
            count += 1;
            continue;
        }
        // Nothing more is kept: what was before has to come along to the other image and back.
        ledger.pause();
        // A generation that would not know of it, and that does not come up.
        service.steer("startup = 'fail'");
        assert_ne!(service.reload().status.code(), Some(0));
        std::fs::remove_file(service.folder().join("steer")).unwrap();
        assert_eq!(ledger.stints().len(), count, "it stays where it was");
        signal_to(stints[count - 1].pid, Signal::SIGKILL);
        wait_for_end_of(stints[count - 1].pid);
        ledger.tell_nothing();
        count += 1;
    }
    handed_on(&ledger, count);
    ends_well(&service, &ledger);
}

#[test]
fn in_every_slot_over_another_number_of_them() {
    let service = keeping("workers = 2", "slot", "restart").serve();
    let ledger = Ledger::of(&service);
    let shared = |slots: u32| {
        ledger.wait_until(&format!("{slots} shares"), |stints| {
            let of = |slot| {
                let mut of = stints.iter().rev();
                of.find(|stint| stint.slot == slot)
            };
            (0..slots).all(|slot| {
                of(slot)
                    .is_some_and(|last| last.slots == slots && !last.ended && last.to > last.from)
            })
        })
    };
    shared(2);
    service.signal(Signal::SIGTTIN);
    let stints = shared(3);
    assert!(stints.iter().all(|stint| !stint.bare), "{stints:#?}");
    service.signal(Signal::SIGTTOU);
    shared(2);
    service.wait_until_serving(2);
    service.signal(Signal::SIGTTIN);
    let stints = shared(3);
    // The third slot was given up in between.
    let bare: Vec<u32> = stints
        .iter()
        .filter(|stint| stint.bare)
        .map(|stint| stint.slot)
        .collect();
    assert_eq!(bare, [2], "{stints:#?}");
    service.stop();
    ledger.stints();
}

#[test]
fn not_over_a_generation_that_does_not_know_it() {
    let service = keeping("workers = 1", "service", "critical")
        .steered()
        .serve();
    let ledger = Ledger::of(&service);
    let first = handed_on(&ledger, 1)[0].pid;
    service.steer("word = 'none'");
    assert_eq!(service.reload().status.code(), Some(0));
    wait_for_end_of(first);
    service.status_where("there is no lease any more", |status| {
        status["leases"].as_array().is_some_and(Vec::is_empty)
    });
    std::fs::remove_file(service.folder().join("steer")).unwrap();
    assert_eq!(service.reload().status.code(), Some(0));
    let stints = ledger.wait_for(2);
    assert!(stints[1].bare);
    service.stop();
    ledger.stints();
}
