//! `systemctl stop`: what is in flight ends well, and nothing is left.

use crate::machine::Machine;
use crate::service::{GET, SERVICE, SOCKET, SOON};
use crate::support::eventually;

pub(crate) fn stop_drains_and_leaves_nothing(machine: &Machine) {
    machine.install_probe("workers = 2");
    machine.get();
    // Where the service's own sandbox sees it.
    const GATE: &str = "/run/payload/gate";
    let slow = machine.start(&format!("{GET}/gate?file={GATE}"));
    eventually("the request is in flight", SOON, || {
        let status = machine.status();
        let workers = status["workers"].as_array().expect("a list");
        workers
            .iter()
            .any(|worker| worker["in_flight"] == 1)
            .then_some(())
    });
    // The socket too, else the next connection would start the service again.
    let stop = machine.start(&format!("systemctl stop {SOCKET} {SERVICE}"));
    machine.wait_for(SERVICE, "ActiveState", |state| state == "deactivating");
    machine.ok(&format!("touch {GATE}"));
    let stopped = stop.finish();
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    let answer = slow.finish();
    assert_eq!(answer.code, Some(0), "the request in flight: {answer:?}");

    assert_eq!(machine.property(SERVICE, "ActiveState"), "inactive");
    assert_eq!(machine.property(SERVICE, "Result"), "success");
    assert_eq!(machine.property(SERVICE, "ExecMainStatus"), "0");
    let left = machine.run("pgrep payload");
    assert_eq!(left.stdout, "");
    machine.ok("test ! -e /run/payload && test ! -e /run/private/payload");
    assert_ne!(machine.run(GET).code, Some(0), "somebody still listens");
}

pub(crate) fn stop_with_nothing_to_do_is_prompt(machine: &Machine) {
    machine.install();
    let moment = |name| -> u64 {
        machine
            .property(SERVICE, name)
            .parse()
            .expect("microseconds")
    };
    let mut took: Vec<u64> = (0..5)
        .map(|_| {
            machine.get();
            machine.ok(&format!("systemctl stop {SERVICE}"));
            moment("InactiveEnterTimestampMonotonic") - moment("ActiveExitTimestampMonotonic")
        })
        .collect();
    took.sort_unstable();
    // The middle one: a busy machine is late now and then.
    assert!(took[2] < 1_000_000, "{took:?} µs");

    // The socket is still there, and starts it again.
    assert_eq!(machine.property(SOCKET, "SubState"), "listening");
    machine.get();
}
