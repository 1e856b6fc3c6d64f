//! From the passed socket to a serving app, and what systemd shows meanwhile.

use serde_json::Value;

use crate::machine::Machine;
use crate::service::{SERVICE, SOCKET, STATUS};

pub(crate) fn the_first_connection_starts_the_service(machine: &Machine) {
    machine.install();
    assert_eq!(machine.property(SERVICE, "ActiveState"), "inactive");
    assert_eq!(machine.property(SOCKET, "SubState"), "listening");

    let page = machine.get();
    assert!(page.contains("<html"), "{page}");

    assert_eq!(machine.property(SERVICE, "NRestarts"), "0");
    let sockets = &machine.status()["sockets"];
    assert_eq!(sockets.as_array().expect("a list").len(), 1, "{sockets}");
    assert_eq!(sockets[0]["name"], "http");
    assert_eq!(sockets[0]["origin"], "passed");
}

pub(crate) fn start_returns_when_every_worker_serves(machine: &Machine) {
    machine.install_probe("workers = 3\n[app]\nstartup_delay = 3.0");
    // Both in one script: nothing lies between the return of the first and the question.
    let answer = machine.ok(&format!("systemctl start {SERVICE} && {STATUS}"));
    let status: Value = serde_json::from_str(&answer).expect("JSON");
    let workers = status["workers"].as_array().expect("a list");
    let phases: Vec<&Value> = workers.iter().map(|worker| &worker["phase"]).collect();
    assert_eq!(phases, ["serving"; 3], "{answer}");

    let moment = |name| -> u64 {
        let text = machine.property(SERVICE, name);
        text.parse().expect("microseconds")
    };
    let took = moment("ActiveEnterTimestampMonotonic") - moment("ExecMainStartTimestampMonotonic");
    // Half of it: the manager may be late when it notes that it has started the process.
    assert!(
        took >= 1_500_000,
        "ready after {took} µs, before the startup step was over"
    );
}

pub(crate) fn the_status_line_has_live_counts(machine: &Machine) {
    machine.install_probe("workers = 2\n[restart]\nbackoff_initial = \"10s\"");
    machine.ok(&format!("systemctl start {SERVICE}"));
    let serving = |line: &str| line.starts_with("2/2 workers serving, generation 1");
    let line = machine.property(SERVICE, "StatusText");
    assert!(serving(&line), "{line}");
    let shown = machine.ok(&format!("systemctl status {SERVICE}"));
    for text in [
        &format!("Status: \"{line}\""),
        "payload: arbiter",
        "payload: worker 1",
        "payload: worker 0",
    ] {
        assert!(shown.contains(text), "no {text:?} in\n{shown}");
    }

    let worker = machine.status()["workers"][0]["pid"].clone();
    machine.ok(&format!("kill -KILL {worker}"));
    machine.wait_for(SERVICE, "StatusText", |line| {
        line.starts_with("degraded: 1/2 workers serving")
    });
    machine.wait_for(SERVICE, "StatusText", serving);
    assert_eq!(machine.property(SERVICE, "NRestarts"), "0");
}
