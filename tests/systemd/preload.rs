//! A preload that takes longer than the manager's limits for the start and between two signs of life.

use crate::machine::Machine;
use crate::service::SERVICE;

pub(crate) fn a_long_preload_outlasts_the_limits(machine: &Machine) {
    let configuration = |preload: &str| {
        format!(
            "workers = 2\n[reload]\ntrial = \"200ms\"\npreflight = \"60s\"\n[app.preload]\n{preload}\n"
        )
    };
    machine.install_probe(&configuration("delay = 9.0"));
    let drop_in = "Environment=PROBE_PRELOAD=1\nWatchdogSec=5s";
    machine.drop_in(&format!("{drop_in}\nTimeoutStartSec=6s"));
    machine.get();
    machine.drop_in(drop_in);
    let arbiter = machine.arbiter();
    machine.ok("systemctl reload payload.service");
    assert_eq!(machine.arbiter(), arbiter, "the same process");
    assert_eq!(machine.property(SERVICE, "NRestarts"), "0");
    let status = machine.property(SERVICE, "StatusText");
    assert!(
        status.starts_with("2/2 workers serving, generation 2"),
        "{status}"
    );

    // The watchdog's limit is the usual one again, from its next sign of life on: an extension reaches further.
    const SIGN: &str = "WatchdogTimestampMonotonic";
    let last = machine.property(SERVICE, SIGN);
    let last = machine.wait_for(SERVICE, SIGN, |sign| sign != last);
    machine.wait_for(SERVICE, SIGN, |sign| sign != last);
    machine.ok(&format!("kill -STOP {arbiter}"));
    machine.wait_for(SERVICE, "NRestarts", |count| count == "1");
    machine.get();
}
