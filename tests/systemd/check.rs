//! Deadlines beside the unit's: what `payload check` and a reload say of them.

use crate::machine::Machine;
use crate::service::SERVICE;

pub(crate) fn deadlines_that_the_unit_does_not_allow_are_refused(machine: &Machine) {
    machine.install_probe("workers = 1\n[timeouts]\ngraceful = \"30s\"\n");
    let said = machine.ok("payload check");
    assert!(
        said.ends_with("a start may take 74s and a stop 44s; payload.service allows 90s and 1m"),
        "{said}"
    );
    machine.get();

    // The check of a reload asks from inside the sandbox, as another user.
    const TOO_LONG: &str = "a stop may take 44s: timeouts.graceful = 30s, timeouts.cleanup = 10s, \
                            timeouts.abort_grace = 2s, and 2s until a stuck worker is given up; payload.service \
                            allows 20s (TimeoutStopSec=)";
    machine.drop_in("TimeoutStopSec=20s");
    for command in ["payload check", "payload check --unit payload"] {
        let said = machine.run(command);
        assert_eq!(said.code, Some(78), "{said:?}");
        let told = format!("payload: /etc/payload/payload.toml:3:12: {TOO_LONG}; lower");
        assert!(said.stderr.starts_with(&told), "{said:?}");
    }
    let arbiter = machine.arbiter();
    let reload = machine.run(&format!("systemctl reload {SERVICE}"));
    assert_ne!(reload.code, Some(0), "{reload:?}");
    let status = machine.property(SERVICE, "StatusText");
    assert!(status.contains(TOO_LONG), "{status}");
    assert_eq!(machine.arbiter(), arbiter);

    machine.configure("workers = 1\n[timeouts]\ngraceful = \"5s\"\n");
    machine.ok("payload check");
    machine.ok(&format!("systemctl reload {SERVICE}"));
    assert_eq!(machine.arbiter(), arbiter);

    let said = machine.run("payload check --unit nothing");
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.stderr.contains("systemd has no such unit"), "{said:?}");
}
