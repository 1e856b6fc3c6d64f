//! What the journal gets, and that a journal which takes nothing harms nobody.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::machine::Machine;
use crate::service::{SERVICE, SOON};
use crate::support::eventually;

const LIFE: [&str; 7] = [
    "loading", "starting", "prepared", "serving", "draining", "cleaning", "exited",
];

pub(crate) fn lifecycle_events_have_fields(machine: &Machine) {
    machine.install_probe("workers = 2");
    machine.ok(&format!(
        "systemctl start {SERVICE} && systemctl stop {SERVICE}"
    ));

    let journal = machine.journal(SERVICE);
    let events: Vec<&Value> = journal
        .iter()
        .filter(|entry| !entry["PAYLOAD_EVENT"].is_null())
        .collect();
    assert!(!events.is_empty(), "{journal:#?}");
    for event in &events {
        assert_eq!(event["SYSLOG_IDENTIFIER"], "payload", "{event:#}");
        assert_eq!(event["_TRANSPORT"], "journal", "{event:#}");
        assert_eq!(event["PRIORITY"], "6", "{event:#}");
        let id = event["MESSAGE_ID"].as_str().unwrap_or_default();
        let hex = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(hex, "{event:#}");
    }
    // One id for each kind of event, and the other way round.
    let kinds: BTreeSet<(&str, &str)> = events
        .iter()
        .map(|event| (string(event, "PAYLOAD_EVENT"), string(event, "MESSAGE_ID")))
        .collect();
    let names: BTreeSet<&str> = kinds.iter().map(|(name, _)| *name).collect();
    let ids: BTreeSet<&str> = kinds.iter().map(|(_, id)| *id).collect();
    assert_eq!(
        (names.len(), ids.len()),
        (kinds.len(), kinds.len()),
        "{kinds:?}"
    );

    // Of each worker its whole life, told with all three numbers.
    let of_workers = || {
        events
            .iter()
            .filter(|event| !event["PAYLOAD_WORKER"].is_null())
    };
    let workers: BTreeSet<&str> = of_workers()
        .map(|event| string(event, "PAYLOAD_WORKER"))
        .collect();
    assert_eq!(workers.len(), 2, "{events:#?}");
    let slots: BTreeSet<&str> = of_workers()
        .map(|event| string(event, "PAYLOAD_SLOT"))
        .collect();
    assert_eq!(slots, BTreeSet::from(["0", "1"]));
    assert!(of_workers().all(|event| event["PAYLOAD_GENERATION"] == "1"));
    for worker in workers {
        let of_this = || of_workers().filter(|event| event["PAYLOAD_WORKER"] == worker);
        let phases: Vec<&str> = of_this()
            .filter(|event| event["PAYLOAD_EVENT"] == "worker-phase")
            .map(|event| string(event, "PHASE"))
            .collect();
        assert_eq!(phases, LIFE, "worker {worker}");
        // What people read says of whom it speaks, and what.
        for event in of_this() {
            let sentence = string(event, "MESSAGE");
            let named = sentence.contains(&format!(" worker={worker} "));
            assert!(named, "{sentence}");
        }
    }
}

pub(crate) fn a_stopped_journal_slows_nothing(machine: &Machine) {
    // Enough panics, one line each, to fill what the kernel queues for the journal.
    const PANICS: &str = "for i in $(seq 30); do curl --silent --max-time 30 --output /dev/null \
         'http://127.0.0.1:8080/panic?[1-100]' || exit 1; done";
    machine.install_probe("workers = 2");
    machine.drop_in("WatchdogSec=5s");
    machine.get();
    let journald = machine.property("systemd-journald.service", "MainPID");
    machine.ok(&format!("kill -STOP {journald}"));

    machine.ok(PANICS);
    eventually("the drops are counted", SOON, || {
        let status = machine.status();
        let workers = status["workers"].as_array().expect("a list");
        let drops = |worker: &Value| worker["log_drops"].as_u64().expect("a count");
        (workers.iter().map(drops).sum::<u64>() > 0).then_some(())
    });
    // Long enough for the watchdog, had the heartbeat waited for the journal.
    let uptime = |status: &Value| status["arbiter"]["uptime"].as_f64().expect("seconds");
    let before = uptime(&machine.status());
    eventually("eleven seconds", SOON, || {
        (uptime(&machine.status()) > before + 11.0).then_some(())
    });
    machine.get();
    assert_eq!(machine.property(SERVICE, "NRestarts"), "0");
    let status = machine.status();
    for worker in status["workers"].as_array().expect("a list") {
        assert_eq!(worker["restarts"], 0, "{status:#}");
        assert!(
            worker["heartbeat"].as_f64().expect("seconds") < 8.0,
            "{status:#}"
        );
    }
    machine.ok(&format!("kill -CONT {journald}"));
}

fn string<'a>(event: &'a Value, field: &str) -> &'a str {
    let value = event[field].as_str();
    value.unwrap_or_else(|| panic!("no {field} in {event:#}"))
}
