//! `systemctl restart` under load: connections wait in the manager's file descriptor store.

use std::time::Duration;

use serde_json::Value;

use crate::machine::{Machine, Running};
use crate::service::{SERVICE, SOCKET, SOON};
use crate::support::eventually;

const RESTART: &str = "systemctl restart payload.service";
/// `PAYLOAD_TEST_RESTARTS` says how many.
const TIMES: u32 = 8;
/// All that a plaintext HTTP/1.1 client does.
const CLIENTS: &str = "keep-alive=30,thoughtful=30,short=6,slow-answer=4,slow-upload=6,pipeline-4=4,pipeline-16=4,half-head=8";

/// One request, which starts the service if need be.
const ASK: &str = "curl --silent --show-error --fail --max-time 30 --header 'x-id: 1' http://127.0.0.1:8080/loss/id";

/// Runs the loss meter in the machine, and gives back its report.
fn measure(machine: &Machine, times: u32, flags: &str) -> Value {
    let limit = Duration::from_secs(60) + times * Duration::from_secs(6);
    let script =
        format!("payload --against 127.0.0.1:8080 --json /tmp/report --times {times} {flags}");
    let output = machine.start_within(limit, &script).finish();
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    eprintln!("{}", output.stdout);
    serde_json::from_str(&machine.ok("cat /tmp/report")).expect("JSON")
}

/// The fields of the events of one kind, oldest first.
fn counts(machine: &Machine, event: &str, fields: [&str; 2]) -> Vec<[u64; 2]> {
    let journal = machine.journal(SERVICE);
    let number = |entry: &Value, field: &str| -> u64 {
        let text = entry[field].as_str().expect("a field");
        text.parse().expect("a number")
    };
    let events = journal
        .iter()
        .filter(|entry| entry["PAYLOAD_EVENT"] == event);
    events
        .map(|entry| fields.map(|field| number(entry, field)))
        .collect()
}

fn kept(machine: &Machine) -> Vec<[u64; 2]> {
    counts(machine, "connections-kept", ["KEPT", "CLOSED"])
}

fn adopted(machine: &Machine) -> Vec<[u64; 2]> {
    counts(machine, "connections-adopted", ["ADOPTED", "CLOSED"])
}

fn stored(machine: &Machine) -> String {
    machine.property(SERVICE, "NFileDescriptorStore")
}

pub(crate) fn restarts_under_load_close_nothing(machine: &Machine) {
    machine.install_loss("workers = 2");
    machine.ok(&format!("systemctl start {SERVICE}"));
    let before = machine.arbiter();
    let times = std::env::var("PAYLOAD_TEST_RESTARTS")
        .map_or(TIMES, |text| text.parse().expect("PAYLOAD_TEST_RESTARTS"));
    let flags = format!("--by 'command:{RESTART}' --clients {CLIENTS} --expect nothing-closed");
    measure(machine, times, &flags);
    assert_ne!(machine.arbiter(), before);
    assert_eq!(machine.property(SERVICE, "Result"), "success");
    let (kept, adopted) = (kept(machine), adopted(machine));
    assert_eq!(kept, adopted);
    assert_eq!(kept.len(), times as usize);
    for counts in kept {
        assert!(counts[0] >= 80 && counts[1] == 0, "{counts:?}");
    }
    assert_eq!(stored(machine), "0");
}

/// Clients that ask once and keep their connections, which they give up after this long.
fn idle(machine: &Machine, count: usize) -> Running {
    let python = format!(
        "import socket, time\n\
         all = [socket.create_connection((\"127.0.0.1\", 8080)) for _ in range({count})]\n\
         ask = b\"GET /loss/id HTTP/1.1\\r\\nHost: x\\r\\nx-id: 1\\r\\n\\r\\n\"\n\
         for one in all: one.sendall(ask); one.recv(9999)\n\
         open(\"/tmp/idle\", \"w\").close()\n\
         while not __import__(\"os\").path.exists(\"/tmp/go\"): time.sleep(0.01)\n\
         def lives(one):\n\
         \x20   try: one.sendall(ask); return bool(one.recv(9999))\n\
         \x20   except OSError: return False\n\
         print(sum(map(lives, all)))\n"
    );
    machine.ok("rm -f /tmp/idle /tmp/go");
    machine.write_file("/tmp/idle.py", &python);
    let clients = machine.start("python3 /tmp/idle.py");
    eventually("idle clients", SOON, || {
        (machine.run("test -e /tmp/idle").code == Some(0)).then_some(())
    });
    clients
}

/// How many of them can still use their connections.
fn alive(machine: &Machine, clients: Running) -> String {
    machine.ok("touch /tmp/go");
    clients.finish().stdout.trim().to_owned()
}

pub(crate) fn what_the_store_does_not_take_is_closed_and_counted(machine: &Machine) {
    machine.install_loss("workers = 2");
    for (lines, room) in [
        ("FileDescriptorStoreMax=12", 10),
        ("FileDescriptorStoreMax=0", 0),
        ("FileDescriptorStoreMax=2", 0),
    ] {
        machine.drop_in(lines);
        machine.ok(RESTART);
        let clients = idle(machine, 30);
        machine.ok(RESTART);
        assert_eq!(alive(machine, clients), room.to_string(), "{lines}");
        assert_eq!(kept(machine).last(), Some(&[room, 30 - room]), "{lines}");
        assert_eq!(stored(machine), "0");
    }
}

pub(crate) fn a_stop_closes_and_empties_the_store(machine: &Machine) {
    machine.install_loss("workers = 2");
    machine.ok(&format!("systemctl start {SERVICE}"));
    let clients = idle(machine, 10);
    machine.ok(&format!("systemctl stop {SERVICE}"));
    assert_eq!(alive(machine, clients), "0");
    assert_eq!(stored(machine), "0");
    assert_eq!(kept(machine), Vec::<[u64; 2]>::new());
}

pub(crate) fn a_restart_that_fails_keeps_its_connections(machine: &Machine) {
    machine.install_loss("workers = 2");
    machine.ok(&format!("systemctl start {SERVICE}"));
    let clients = idle(machine, 10);
    // Failures that the unit's Restart= answers with another start.
    machine.ok("mv /usr/bin/payload /usr/bin/away && printf '#!/bin/sh\\nexit 70\\n' >/usr/bin/payload && chmod 755 /usr/bin/payload");
    assert_ne!(machine.run(RESTART).code, Some(0));
    machine.wait_for(SERVICE, "NRestarts", |count| count != "0");
    assert_eq!(stored(machine), "11");
    machine.ok("mv /usr/bin/away /usr/bin/payload");
    machine.wait_for(SERVICE, "ActiveState", |state| state == "active");
    assert_eq!(alive(machine, clients), "10");
    assert_eq!(adopted(machine), [[10, 0]]);
    machine.wait_for(SERVICE, "NFileDescriptorStore", |count| count == "0");
}

pub(crate) fn a_killed_arbiter_refuses_nobody(machine: &Machine) {
    machine.install_loss("workers = 2");
    machine.ok(ASK);
    let since = machine.property(SOCKET, "ActiveEnterTimestampMonotonic");
    // Between two lives there is no main process, and systemd says 0.
    let kill = format!(
        "main() {{ systemctl show --property=MainPID --value {SERVICE}; }}; old=$(main); \
         [ \"$old\" -gt 0 ] || exit 1; kill -KILL $old; \
         until new=$(main); [ \"$new\" -gt 0 ] && [ \"$new\" != $old ] && \
         [ \"$(systemctl show --property=ActiveState --value {SERVICE})\" = active ]; do sleep 0.05; done"
    );
    machine.write_file("/tmp/kill", &kill);
    let report = measure(
        machine,
        3,
        "--by 'command:sh /tmp/kill' --clients short=8,keep-alive=20",
    );
    assert_eq!(report["total"]["refused"], 0, "{report:#}");
    assert_eq!(
        machine.property(SOCKET, "ActiveEnterTimestampMonotonic"),
        since
    );
    machine.ok(ASK);
}

pub(crate) fn what_a_payload_keeps_goes_on_and_not_over_a_stop(machine: &Machine) {
    machine.install_ledger("ledger_keep = true");
    let of = |event: &str| {
        let mut journal = machine.journal(SERVICE);
        journal.retain(|entry| entry["PAYLOAD_EVENT"] == event);
        journal
    };
    let started = |count: usize| {
        eventually("the payload runs", SOON, || {
            (of("payload-started").len() == count).then_some(())
        });
    };
    machine.ok(&format!("systemctl start {SERVICE}"));
    started(1);
    for life in 2..5 {
        machine.ok(RESTART);
        started(life);
        machine.wait_for(SERVICE, "NFileDescriptorStore", |count| count == "0");
    }
    machine.ok(&format!("systemctl stop {SERVICE}"));
    machine.ok(&format!("systemctl start {SERVICE}"));
    started(5);
    assert_eq!(
        counts(machine, "payloads-kept", ["KEPT", "LOST"]),
        [[1, 0]; 3]
    );
    let went_along = of("lease-granted");
    let went_along = went_along
        .iter()
        .map(|entry| entry["KEPT_BYTES"].is_string());
    assert_eq!(
        went_along.collect::<Vec<_>>(),
        [false, true, true, true, false]
    );
    // Each goes on with the last one's count, which is what that has kept; nothing is kept over the stop.
    let stints = eventually("five writers", SOON, || {
        Some(machine.stints()).filter(|stints| stints.len() == 5)
    });
    let bare = stints.iter().map(|stint| stint.bare);
    assert_eq!(bare.collect::<Vec<_>>(), [false, false, false, false, true]);
    assert!(stints[..4].iter().all(|stint| stint.ended), "{stints:#?}");
}
