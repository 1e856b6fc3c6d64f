//! Under load: the loss meter's clients count what they lose while systemd does something to the service.

use std::time::Duration;

use crate::machine::Machine;
use crate::service::SERVICE;

/// For one run of the meter, on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// Of each kind some; the slow answers of 2 s are left to the meter's own long run.
const CLIENTS: &str = "keep-alive=16,thoughtful=8,short=4,slow-upload=4,pipeline-4=2,pipeline-16=2,half-head=4,http2=2,sse=2";

pub(crate) fn fifty_reloads_lose_and_close_nothing(machine: &Machine) {
    machine.install_loss("workers = 2\n[reload]\ntrial = \"50ms\"\n");
    machine.ok("systemctl start payload.service");
    let arbiter = machine.arbiter();
    let report = disturb(machine, "systemctl reload payload.service", 50);
    eprintln!("{report}");
    assert_eq!(machine.arbiter(), arbiter, "the same process");
    assert_eq!(machine.property(SERVICE, "NRestarts"), "0");
    assert_eq!(machine.status()["arbiter"]["generation"], 51);
}

pub(crate) fn fifty_restarts_lose_and_close_nothing(machine: &Machine) {
    machine.install_loss("workers = 2\n");
    machine.ok("systemctl start payload.service");
    let report = disturb(machine, "systemctl restart payload.service", 50);
    eprintln!("{report}");
    assert_eq!(machine.property(SERVICE, "Result"), "success");
    assert_eq!(machine.property(SERVICE, "NFileDescriptorStore"), "0");
    let lives = |entry: &serde_json::Value| entry["PAYLOAD_EVENT"] == "service-ready";
    let journal = machine.journal(SERVICE);
    assert_eq!(journal.iter().filter(|entry| lives(entry)).count(), 51);
}

/// Does it so many times under load. Nothing may be lost, refused, or closed.
#[track_caller]
fn disturb(machine: &Machine, command: &str, times: u32) -> String {
    let meter = format!(
        "payload --against 127.0.0.1:8080 --by 'command:{command}' --times {times} --every 0.1 --settle 0.1 \
         --clients {CLIENTS} --expect nothing-closed"
    );
    let output = machine.start_within(LIMIT, &meter).finish();
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    output.stdout
}
