//! Leaving when nobody needs the service, and coming back with the next connection, by the units as shipped.

use std::time::Duration;

use crate::machine::Machine;
use crate::service::{GET, SERVICE, SOCKET};

/// For the clients, each of whose requests may start the service.
const LIMIT: Duration = Duration::from_secs(300);

/// Two clients that come at random moments, now while it serves, now while it leaves, now when it is gone.
const CLIENTS: &str = r#"client() {
    for i in $(seq 60); do
        curl --silent --show-error --fail --max-time 30 --output /dev/null http://127.0.0.1:8080 || return 1
        sleep "$(awk -v seed="$1$i" 'BEGIN { srand(seed); print rand() * 0.4 }')"
    done
}
client 1 & first=$!
client 2 && wait $first"#;

pub(crate) fn it_leaves_when_idle_and_loses_nobody(machine: &Machine) {
    machine.install_probe("workers = 2\nidle_exit = \"50ms\"");
    let clients = machine.start_within(LIMIT, CLIENTS).finish();
    assert_eq!(clients.code, Some(0), "{clients:?}");
    machine.wait_for(SERVICE, "ActiveState", |state| state == "inactive");
    assert_eq!(machine.property(SERVICE, "Result"), "success");
    assert_eq!(machine.property(SERVICE, "NRestarts"), "0");
    assert_eq!(machine.property(SOCKET, "SubState"), "listening");
    let said = machine.property(SERVICE, "StatusText");
    assert!(said.starts_with("idle for 50ms"), "{said}");
    let journal = machine.journal(SERVICE);
    let count = |event: &str| {
        let told = journal.iter().filter(|one| one["PAYLOAD_EVENT"] == event);
        told.count()
    };
    let left = count("service-idle");
    assert!(left >= 20, "it left {left} times");
    assert_eq!(count("service-ready"), left);
    assert_eq!(count("worker-failed"), 0);
    machine.ok(GET);
}
