//! `systemctl reload`: the outcome as its exit code, the old generation where it fails, an upgrade in place.

use crate::machine::Machine;
use crate::service::{SERVICE, SOON};
use crate::support::eventually;
use crate::support::service::probe;

const RELOAD: &str = "systemctl reload payload.service";
const WORD: &str = "curl --silent --show-error --fail --max-time 30 http://127.0.0.1:8080/word";

fn configuration(word: &str) -> String {
    format!("workers = 2\n[reload]\ntrial = \"200ms\"\n[app]\nword = \"{word}\"\n")
}

/// The probe serves with the first configuration.
fn begin(machine: &Machine) -> u32 {
    machine.install_probe(&configuration("one"));
    machine.get();
    assert_eq!(machine.ok(WORD), "one");
    machine.arbiter()
}

pub(crate) fn reload_takes_over_or_says_why_not(machine: &Machine) {
    let arbiter = begin(machine);
    machine.configure(&configuration("two"));
    machine.ok(RELOAD);
    assert_eq!(machine.ok(WORD), "two");
    assert_eq!(
        machine.property(SERVICE, "StatusText").split(',').nth(1),
        Some(" generation 2")
    );

    for (bad, reason) in [
        (
            "wrokers = 3\n".to_owned() + &configuration("bad"),
            "did you mean 'workers'?",
        ),
        (
            configuration("bad") + "startup_failure = \"no database\"",
            "no database",
        ),
    ] {
        machine.configure(&bad);
        let output = machine.run(RELOAD);
        assert_ne!(output.code, Some(0), "{output:?}");
        assert_eq!(machine.property(SERVICE, "ActiveState"), "active");
        assert_eq!(machine.ok(WORD), "two");
        let status = machine.property(SERVICE, "StatusText");
        assert!(status.contains("the last reload failed"), "{status}");
        assert!(status.contains(reason), "{status}");
        let shown = machine.ok(&format!("systemctl status {SERVICE}"));
        assert!(shown.contains(reason), "{shown}");
        let failed = |entry: &serde_json::Value| {
            entry["PAYLOAD_EVENT"] == "reload-failed"
                && entry["REASON"]
                    .as_str()
                    .is_some_and(|text| text.contains(reason))
        };
        let journal = machine.journal(SERVICE);
        assert!(journal.iter().any(failed), "{journal:#?}");
    }

    machine.configure(&configuration("three"));
    machine.ok(RELOAD);
    assert_eq!(machine.ok(WORD), "three");
    assert_eq!(machine.arbiter(), arbiter, "the same process");
    assert_eq!(machine.property(SERVICE, "NRestarts"), "0");
    // The outcome is told; the exit code of the control process stays in `systemctl status` as a failure does.
    let left = machine.property(SERVICE, "StatusText");
    assert!(!left.contains("failed"), "{left}");
}

pub(crate) fn an_upgrade_is_a_new_file_and_a_reload(machine: &Machine) {
    let arbiter = begin(machine);
    let program = |pid: u32| machine.ok(&format!("stat --dereference --format=%i /proc/{pid}/exe"));
    let before = program(arbiter);
    // As a package manager does: beside it, and then in its place.
    machine.copy_in(&probe(), "/usr/bin/payload.new", 0o755);
    machine.ok("mv /usr/bin/payload.new /usr/bin/payload");
    machine.ok(RELOAD);
    assert_eq!(machine.arbiter(), arbiter, "the same process");
    assert_ne!(program(arbiter), before, "another program");
    let name = machine.ok(&format!("readlink /proc/{arbiter}/exe"));
    assert_eq!(name, "/usr/bin/payload");
    assert_eq!(machine.ok(WORD), "one");

    // And one that is damaged does not get in.
    machine.write_file("/usr/bin/payload.new", "\u{7f}ELF\n");
    machine.ok("chmod 755 /usr/bin/payload.new && mv /usr/bin/payload.new /usr/bin/payload");
    machine.ok(&format!("kill -HUP {arbiter}"));
    let failed = eventually("the failure", SOON, || {
        let status = machine.property(SERVICE, "StatusText");
        status.contains("the last reload failed").then_some(status)
    });
    assert!(failed.contains("/usr/bin/payload"), "{failed}");
    assert_ne!(machine.run(RELOAD).code, Some(0));
    assert_eq!(machine.ok(WORD), "one");
    assert_eq!(machine.property(SERVICE, "ActiveState"), "active");
}

/// From systemd 253 on. The manager waits for RELOADING=1 and READY=1 and cannot hear of a failure.
pub(crate) fn a_drop_in_for_notify_reload_works(machine: &Machine) {
    let version = machine.ok("systemctl --version | sed -n 's/systemd \\([0-9]*\\).*/\\1/p'");
    if version.parse::<u32>().expect("a number") < 253 {
        return;
    }
    // ExecReload= as shipped: the signal and the command join one reload.
    machine.install_probe(&configuration("one"));
    machine.drop_in("Type=notify-reload");
    machine.get();
    machine.configure(&configuration("two"));
    machine.ok(RELOAD);
    assert_eq!(machine.ok(WORD), "two");

    machine.drop_in("Type=notify-reload\nExecReload=");
    machine.configure(&configuration("three"));
    machine.ok(RELOAD);
    assert_eq!(machine.ok(WORD), "three");
    // In the middle of a reload that somebody else asked for: joined, and not waited for without end.
    machine.configure(&(configuration("four") + "startup_delay = 6.0"));
    let other = machine.start("payload reload --control /run/payload/control.sock");
    machine.wait_for(SERVICE, "ActiveState", |state| state == "reloading");
    machine.ok(&format!("timeout 60 {RELOAD}"));
    assert_eq!(other.finish().code, Some(0));
    assert_eq!(machine.ok(WORD), "four");

    machine.configure("wrokers = 3");
    machine.run(RELOAD);
    assert_eq!(machine.property(SERVICE, "ActiveState"), "active");
    let status = machine.property(SERVICE, "StatusText");
    assert!(status.contains("did you mean 'workers'?"), "{status}");
    assert_eq!(machine.ok(WORD), "four");
}
