//! Never green without its payload: what the manager, the operator and the log are told while nobody runs one, or nobody
//! has run it for long.

use std::time::Duration;

use serde_json::Value;

use crate::ledger::{Ledger, with};
use crate::support::log::Record;
use crate::support::notify::Manager;
use crate::support::service::{Service, Setup};
use crate::support::{DEADLINE, eventually};

/// Pauses that a test can wait for, and of all failures in a row the longest. Its ten times are what a holder has to
/// keep it for, and no machine takes a worker away for so long.
const RESTART: &str =
    "[restart]\nbackoff_initial = '800ms'\nbackoff_max = '800ms'\ncrash_budget = 10000";
const KEPT: f64 = 8.0;

fn failing(scope: &str, more: &str) -> Setup {
    let app = format!("{scope}'\nledger_policy = 'critical'\nword = '");
    with(&format!("workers = 2\n{more}\n{RESTART}"), &app)
}

fn told(status: &Value) -> &str {
    status["arbiter"]["status"].as_str().unwrap()
}

/// A service whose payload fails wherever it is, since that was first said.
fn degraded(setup: Setup, manager: &Manager, scope: &str) -> (Service, Ledger, Record) {
    let service = setup.notify(manager).serve();
    manager.hear_until("READY=1");
    let ledger = Ledger::of(&service);
    ledger.wait_for(1);
    ledger.tell("fail");
    let first = service.event_where("service-degraded", |event| {
        event.text("payload") == "ledger"
    });
    assert!(first.number("failures") >= 2, "{first}");
    assert!((0.0..=0.8).contains(&first.seconds("delay_seconds")));
    assert_eq!(first["lease_slot"].is_null(), scope == "service", "{first}");
    (service, ledger, first)
}

/// It was degraded all the time since then, and has said so once.
fn recovered(service: &Service, since: &Record) -> Record {
    let recovered = service.event_where("service-recovered", |event| {
        event.seconds_after(since) >= 0.0
    });
    let mut named = service.events("service-degraded");
    named.retain(|event| {
        let during = event.seconds_after(since) >= 0.0 && recovered.seconds_after(event) > 0.0;
        during && event.text("payload") == "ledger"
    });
    assert_eq!(named.len(), 1, "it is one trouble");
    recovered
}

#[test]
fn a_service_whose_exclusive_payload_does_not_run_is_not_green() {
    for scope in ["service", "slot"] {
        let manager = Manager::on_path();
        let (service, ledger, first) = degraded(failing(scope, ""), &manager, scope);
        let which = match scope {
            "slot" => "payload 'ledger' of slot ",
            _ => "payload 'ledger'",
        };
        let degraded = |text: &str| text.starts_with("degraded: ");
        eventually("the manager hears so", DEADLINE, || {
            let heard = manager.hear(DEADLINE)?;
            let text = heard.value("STATUS")?;
            let nobody = format!("nobody runs {which}");
            (degraded(text) && text.contains(&nobody)).then(|| {
                assert!(text.contains("failed or lost its worker "), "{text}");
                assert!(text.contains(" times in a row, and "), "{text}");
            })
        });
        let status = service.status();
        assert!(told(&status).contains(which), "{status:#}");
        let leases = status["leases"].as_array().unwrap();
        let fails = |lease: &Value| lease["failures"].as_u64() >= Some(2);
        assert!(leases.iter().any(fails), "{status:#}");
        let shown = service.status_command(&[]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.starts_with("DEGRADED "), "{shown}");
        assert!(shown.contains(" times in a row"), "{shown}");
        ledger.tell_nothing();
        // Whoever has it now has to keep it for a while.
        let status = service.status_where("everybody serves", |status| {
            assert_eq!(status["arbiter"]["state"], "degraded", "{status:#}");
            assert!(degraded(told(status)), "{status:#}");
            let leases = status["leases"].as_array().unwrap();
            let is_held = |lease: &Value| !lease["holder"].is_null();
            told(status).contains(" 2/2 workers") && leases.iter().all(is_held)
        });
        assert!(told(&status).contains(which), "{status:#}");
        assert!(told(&status).contains("is being tried"), "{status:#}");
        let recovered = recovered(&service, &first);
        let mut grants = service.events("lease-granted");
        grants.retain(|event| recovered.seconds_after(event) >= 0.0);
        let kept = recovered.seconds_after(grants.last().unwrap());
        // An arbiter may say a grant somewhat later than it gives it.
        assert!(kept >= KEPT - 1.0, "it recovers after {kept}");
        service.status_where("it is green", |status| {
            status["arbiter"]["state"] == "ready" && !told(status).contains("ledger")
        });
        manager.hear_where("so does the manager", |heard| {
            heard.value("STATUS").is_some_and(|text| {
                text.starts_with("2/2 workers serving") && !text.contains("ledger")
            })
        });
        assert_eq!(service.stop(), 0);
        ledger.stints();
    }
}

/// The pauses of the payload become longer twice as fast as those of the workers that it takes along in turn.
#[test]
fn nor_is_it_when_every_worker_serves() {
    let manager = Manager::on_path();
    let restart = "[restart]\nbackoff_initial = '50ms'\ncrash_budget = 10000";
    let app = "service'\nledger_policy = 'critical'\nword = '";
    let setup = with(&format!("workers = 2\n{restart}"), app);
    let (service, ledger, _) = degraded(setup, &manager, "service");
    let status = service.status_where("everybody serves, and nobody runs it", |status| {
        assert_eq!(status["arbiter"]["state"], "degraded", "{status:#}");
        let text = told(status);
        text.contains(" 2/2 workers") && text.contains("nobody runs payload 'ledger'")
    });
    assert!(told(&status).starts_with("degraded: "), "{status:#}");
    ledger.tell_nothing();
    // Who has read the word leaves with a failure, which would be one of the stop.
    ledger.wait_until("somebody keeps it", |stints| {
        let last = stints.last();
        last.is_some_and(|last| last.to >= last.from + Duration::from_millis(500))
    });
    service.wait_until_serving(2);
    assert_eq!(service.stop(), 0);
    ledger.stints();
}

#[test]
fn a_reload_that_cures_it_commits_and_its_generation_starts_anew() {
    let manager = Manager::on_path();
    let setup = failing("service", "[reload]\ntrial = '100ms'");
    let (service, ledger, first) = degraded(setup, &manager, "service");
    ledger.tell_nothing();
    assert_eq!(service.reload().status.code(), Some(0));
    let reloaded = service.event("reloaded");
    let recovered = recovered(&service, &first);
    let after = recovered.seconds_after(&reloaded);
    assert!(after < KEPT, "nobody is waited for: {after}");
    service.status_where("it is green", |status| {
        status["arbiter"]["state"] == "ready"
    });
    assert_eq!(service.stop(), 0);
}
