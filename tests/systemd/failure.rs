//! Every way in which the service can fail leaves the socket listening, and ends well after the cure.

use serde_json::Value;

use crate::machine::Machine;
use crate::service::{GET_IN_THE_END, LEDGER, SERVICE, SOCKET, SOON};
use crate::support::eventually;

pub(crate) fn a_stopped_arbiter_is_replaced_by_the_watchdog(machine: &Machine) {
    machine.install();
    machine.drop_in("WatchdogSec=5s");
    machine.get();
    let arbiter = machine.arbiter();
    let since = machine.property(SOCKET, "ActiveEnterTimestampMonotonic");

    machine.ok(&format!("kill -STOP {arbiter}"));
    machine.wait_for(SERVICE, "NRestarts", |count| count == "1");
    machine.get();
    assert_ne!(machine.arbiter(), arbiter);
    assert_eq!(
        machine.property(SOCKET, "ActiveEnterTimestampMonotonic"),
        since
    );
    assert!(
        messages(machine)
            .iter()
            .any(|line| line.contains("Watchdog timeout"))
    );
}

pub(crate) fn a_killed_arbiter_comes_back(machine: &Machine) {
    machine.install();
    machine.get();
    let workers = pids(&machine.status());
    machine.ok(&format!("kill -KILL {}", machine.arbiter()));
    machine.wait_for(SERVICE, "NRestarts", |count| count == "1");
    machine.get();
    assert_eq!(machine.property(SERVICE, "NRestarts"), "1");
    for worker in workers {
        assert_ne!(
            machine.run(&format!("kill -0 {worker}")).code,
            Some(0),
            "{worker} is left"
        );
    }
}

/// Its workers tell their payloads to stop. This one writes on instead, and holds its thread: systemd ends them before it
/// starts the service again.
pub(crate) fn what_a_killed_arbiter_leaves_runs_beside_nothing_that_is_new(machine: &Machine) {
    machine.install_ledger("");
    machine.ok(&format!("systemctl start {SERVICE}"));
    for life in 1..=3 {
        let writer = eventually("a writer of this life", SOON, || {
            let last = machine.stints().last().cloned()?;
            let workers = pids(&machine.status());
            (workers.contains(&u64::from(last.pid)) && last.to > last.from).then_some(last)
        });
        assert_eq!(machine.stints().len(), life, "{writer:?}");
        machine.ok(&format!("printf block >{LEDGER}.do"));
        machine.ok(&format!("kill -KILL {}", machine.arbiter()));
        machine.wait_for(SERVICE, "NRestarts", |count| count == life.to_string());
        machine.wait_for(SERVICE, "ActiveState", |state| state == "active");
    }
}

/// A unit that leaves its workers to themselves: the next life serves, and its payload begins when the last one has ended.
pub(crate) fn what_a_killed_arbiter_leaves_is_waited_for_where_systemd_does_not_end_it(
    machine: &Machine,
) {
    machine.install_ledger("");
    // A worker that is left holds out for as long as this lasts.
    machine.drop_in(
        "StateDirectory=ledger\nKillMode=process\nSendSIGKILL=no\nTimeoutStopSec=infinity\n\
         Environment=PAYLOAD_TIMEOUTS_GRACEFUL=10m PAYLOAD_TIMEOUTS_CLEANUP=10m",
    );
    machine.ok(&format!("systemctl start {SERVICE}"));
    let writers = |count: usize| {
        eventually("a writer that writes", SOON, || {
            let last = machine.stints().get(count - 1).cloned()?;
            (last.to > last.from).then_some(last)
        })
    };
    let left = writers(1);
    machine.ok(&format!("printf block >{LEDGER}.do"));
    machine.ok(&format!("kill -KILL {}", machine.arbiter()));
    machine.wait_for(SERVICE, "NRestarts", |count| count == "1");
    machine.wait_for(SERVICE, "ActiveState", |state| state == "active");
    machine.wait_for(SERVICE, "StatusText", |status| {
        status.ends_with("leases wait for the end of an earlier life of this service")
    });
    machine.get();
    let before = machine.stints();
    assert_eq!(before.len(), 1);
    eventually("it writes on", SOON, || {
        (machine.stints()[0].to > before[0].to).then_some(())
    });
    assert!(machine.status()["leases"][0]["holder"].is_null());
    machine.ok(&format!("rm {LEDGER}.do"));
    machine.ok(&format!("kill -KILL {}", left.pid));
    let next = writers(2);
    assert!(pids(&machine.status()).contains(&u64::from(next.pid)));
}

pub(crate) fn a_crash_loop_keeps_the_socket(machine: &Machine) {
    machine.install_probe("[app]\nstartup_failure = \"no database\"");
    let since = machine.property(SOCKET, "ActiveEnterTimestampMonotonic");
    let started = machine.run(&format!("systemctl start {SERVICE}"));
    assert_ne!(started.code, Some(0), "{started:?}");

    let client = machine.start(GET_IN_THE_END);
    // Beyond systemd's default limit of five.
    machine.wait_for(SERVICE, "NRestarts", |count| {
        count.parse::<u32>().is_ok_and(|count| count >= 6)
    });
    machine.wait_for(SERVICE, "ExecMainStatus", |status| status == "70");
    let lines = messages(machine);
    let cause = |line: &String| line.contains("cannot start") && line.contains("no database");
    assert!(lines.iter().any(cause), "{lines:#?}");

    machine.configure("");
    let answer = client.finish();
    assert_eq!(answer.code, Some(0), "the client that waited: {answer:?}");
    machine.wait_for(SERVICE, "ActiveState", |state| state == "active");
    assert_eq!(
        machine.property(SOCKET, "ActiveEnterTimestampMonotonic"),
        since
    );
}

pub(crate) fn wrong_configuration_is_not_restarted(machine: &Machine) {
    machine.configure("workers = 2\nwrokers = 3\n");
    machine.install();
    let started = machine.run(&format!("systemctl start {SERVICE}"));
    assert_ne!(started.code, Some(0), "{started:?}");
    assert_eq!(machine.property(SERVICE, "ExecMainStatus"), "78");
    assert_eq!(machine.property(SERVICE, "ActiveState"), "failed");
    assert_eq!(machine.property(SERVICE, "NRestarts"), "0");
    assert_eq!(machine.property(SOCKET, "SubState"), "listening");
    let lines = messages(machine);
    let told = |line: &String| line.contains("payload.toml:2:1") && line.contains("workers");
    assert!(lines.iter().any(told), "{lines:#?}");
}

pub(crate) fn a_client_outlives_wrong_configuration(machine: &Machine) {
    machine.configure("wrokers = 3\n");
    machine.install();
    let mut client = machine.start(GET_IN_THE_END);
    let starts = || {
        let journal = machine.journal(SERVICE);
        let started = journal
            .iter()
            .filter(|entry| text(entry).starts_with("Starting "));
        started
            // When it was sent; the journal may be late.
            .map(|entry| number(&entry["_SOURCE_REALTIME_TIMESTAMP"]))
            .collect::<Vec<_>>()
    };
    // The waiting connection starts the service again and again, and not faster than once a second.
    let starts = eventually("four starts", SOON, || {
        Some(starts()).filter(|list| list.len() >= 4)
    });
    for pair in starts.windows(2) {
        let apart = pair[1] - pair[0];
        assert!(apart >= 900_000, "two starts {apart} µs apart");
    }
    assert_eq!(machine.property(SOCKET, "ActiveState"), "active");
    assert!(!client.ended());

    machine.configure("workers = 2\n");
    let answer = client.finish();
    assert_eq!(answer.code, Some(0), "the client that waited: {answer:?}");
    machine.wait_for(SERVICE, "ActiveState", |state| state == "active");
}

fn messages(machine: &Machine) -> Vec<String> {
    let journal = machine.journal(SERVICE);
    journal.iter().map(|entry| text(entry).to_owned()).collect()
}

fn text(entry: &Value) -> &str {
    entry["MESSAGE"].as_str().unwrap_or_default()
}

fn number(value: &Value) -> u64 {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("a number")
}

fn pids(status: &Value) -> Vec<u64> {
    let workers = status["workers"].as_array().expect("a list");
    workers
        .iter()
        .map(|worker| worker["pid"].as_u64().expect("a pid"))
        .collect()
}
