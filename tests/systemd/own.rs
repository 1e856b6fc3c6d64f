//! What the README says of systemd, line by line: the shipped service, and one of an author's own.

use std::path::Path;

use crate::machine::Machine;
use crate::service::{GET, SERVICE, SOON};
use crate::support::eventually;
use crate::support::service::example;

/// The lines of a block of the README's section, as they stand there.
fn lines(section: &str, block: usize) -> &'static str {
    let readme = include_str!("../../README.md");
    let (_, section) = readme.split_once(section).expect("the section");
    let mut blocks = section.split("```").skip(1).step_by(2);
    let (_language, lines) = blocks
        .nth(block)
        .and_then(|block| block.split_once('\n'))
        .expect("its lines");
    lines
}

/// The checkout, as far as somebody needs it who installs a program that he has built there.
fn check_out(machine: &Machine, program: &str, built: &Path) {
    machine.ok("mkdir -p /srv/target/release /srv/deploy/systemd /srv/packaging");
    let target = format!("/srv/target/release/{program}");
    machine.copy_in(built, &target, 0o755);
    for file in [
        "deploy/systemd/payload.socket",
        "deploy/systemd/payload.service",
        "packaging/payload.catalog",
    ] {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        machine.copy_in(&here, &format!("/srv/{file}"), 0o644);
    }
}

pub(crate) fn the_shipped_service_is_installed_and_used_as_the_readme_says(machine: &Machine) {
    let built = Path::new(env!("CARGO_BIN_EXE_payload"));
    check_out(machine, "payload", built);
    let install = lines("## Under systemd\n", 0).replace("cargo build --release\n", "");
    let said = machine.ok(&format!("set -e; cd /srv; {install}"));
    assert!(said.contains("ok"), "{said}");
    machine.wait_for(SERVICE, "ActiveState", |state| state == "active");
    // The journal may be late.
    machine.ok("journalctl --sync");
    let said = machine.ok(&format!("set -e; {}", lines("## Under systemd\n", 1)));
    for word in [
        "workers serving, generation 1",
        "service-ready",
        "ready arbiter, pid ",
    ] {
        assert!(said.contains(word), "{word} in {said}");
    }
    assert_eq!(machine.property(SERVICE, "ActiveState"), "inactive");
}

pub(crate) fn it_goes_with_the_shipped_units(machine: &Machine) {
    check_out(machine, "hello", &example("hello"));
    let install = lines("### A service of your own\n", 0);
    let said = machine.ok(&format!("set -e; cd /srv; {install}"));
    assert!(said.contains("hello.service allows 90s and 1m"), "{said}");
    assert!(said.ends_with("hello"), "{said}");

    let verified = machine.run("systemd-analyze verify hello.socket hello.service");
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert_eq!(verified.stdout + &verified.stderr, "");
    machine.wait_for("hello.service", "ActiveState", |state| state == "active");
    let arbiter = machine.property("hello.service", "MainPID");
    assert_eq!(machine.ok(&format!("ps -o user= -p {arbiter}")), "hello");

    let workers = || {
        let status = machine.ok("hello status --json --control /run/hello/control.sock");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        status["arbiter"]["workers"].as_u64().expect("a number")
    };
    let before = workers();
    machine.ok("systemctl kill --kill-whom=main --signal=TTIN hello");
    eventually("one worker more", SOON, || {
        (workers() == before + 1).then_some(())
    });
    machine.ok("systemctl reload hello");
    assert_eq!(workers(), before + 1, "it stands until it is started again");

    // What it reads and what a wrong one comes to.
    machine.write_file("/etc/hello/hello.toml", "wokers = 1\n");
    let failed = machine.run("systemctl reload hello");
    assert_ne!(failed.code, Some(0), "{failed:?}");
    assert_eq!(machine.ok(GET), "hello", "it serves on");
    let told = machine.property("hello.service", "StatusText");
    assert!(told.contains("/etc/hello/hello.toml:1:1"), "{told}");
    machine.write_file("/etc/hello/hello.toml", "workers = 1\n");
    machine.ok("systemctl restart hello");
    assert_eq!((machine.ok(GET), workers()), ("hello".to_owned(), 1));

    machine.write_file(
        "/etc/systemd/system/hello.service.d/state.conf",
        "[Service]\nStateDirectory=hello\n",
    );
    machine.ok("systemctl daemon-reload && systemctl restart hello && test -d /var/lib/hello");
    assert_eq!(machine.ok(GET), "hello");
}
