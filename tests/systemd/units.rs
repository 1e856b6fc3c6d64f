//! The shipped units: in order, tight, and the service works under them.

use crate::machine::Machine;
use crate::service::{GET, SERVICE, SOCKET, STATUS};

pub(crate) fn the_units_are_in_order(machine: &Machine) {
    machine.install();
    let verified = machine.run(&format!("systemd-analyze verify {SOCKET} {SERVICE}"));
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert_eq!(verified.stdout + &verified.stderr, "");
    machine.ok(&format!(
        "systemd-analyze security --offline=true --threshold=12 /usr/lib/systemd/system/{SERVICE}"
    ));
}

pub(crate) fn the_service_works_hardened(machine: &Machine) {
    machine.install();
    machine.get();

    // A user of its own without any privilege, in a sandbox.
    let arbiter = machine.arbiter();
    let user = machine.ok(&format!("ps -o user= -p {arbiter}"));
    assert_eq!(user, "payload");
    let status = machine.ok(&format!("cat /proc/{arbiter}/status"));
    for line in [
        "CapBnd:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "no {line:?} in\n{status}");
    }

    // What the app shows comes from /proc, through the sandbox.
    let vitals = machine.ok(&format!("{GET}/api/vitals"));
    let vitals: serde_json::Value = serde_json::from_str(&vitals).expect("JSON");
    assert!(vitals.is_object(), "{vitals}");

    // Nobody but root asks the arbiter.
    let workers = &machine.status()["workers"];
    assert!(
        workers
            .as_array()
            .is_some_and(|workers| !workers.is_empty()),
        "{workers}"
    );
    let stranger = machine.run(&format!("setpriv --reuid=nobody --clear-groups {STATUS}"));
    assert_ne!(stranger.code, Some(0), "{stranger:?}");

    let warnings = machine.ok(&format!(
        "journalctl --sync && journalctl --quiet --priority=warning --unit={SERVICE}"
    ));
    assert_eq!(warnings, "");
}
