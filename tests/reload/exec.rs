//! The moment in which the arbiter's process changes its program, and a program that gives it back.

use std::collections::BTreeMap;
use std::fs;

use nix::sys::signal::Signal;

use crate::stage::{OLD, Stage, program_of};
use crate::support::program::copy_program;
use crate::support::service::{Quiet as _, Service, Setup, lives, signal_to, wait_for_end_of};
use crate::support::{DEADLINE, eventually, within};

#[test]
fn a_new_image_that_can_open_nothing_gives_everything_back() {
    let few = ["prlimit", "--nofile=200:200"];
    let stage = Stage::of(Setup::new(OLD).installed().through(&few));
    stage.service.write("probe.main", "full");
    stage.rolls_back("Too many open files");
}

/// Signals and deaths that fall into the change of programs are heard after it.
#[test]
fn what_happens_during_the_exec_is_heard_after_it() {
    let mut stage = Stage::set();
    let gate = stage.service.folder().join("gate");
    let app = format!("gate = '{}'\n", gate.display());
    stage.service.configure(&(OLD.replace("old", "new") + &app));
    stage.service.write("probe.main", "wait");
    stage.calm();
    let first = stage.service.reload_command().spawn_quiet();
    wait_for_the_exec(&stage.service);
    let victim = stage.old_workers()[0];
    signal_to(victim, Signal::SIGKILL);
    stage.service.signal(Signal::SIGHUP);
    stage.service.signal(Signal::SIGTTIN);
    // It waits in the socket's queue, and may be answered by the next image.
    let second = stage.service.reload_command().spawn_quiet();
    stage.service.write("probe.go", "");
    // Nothing else ends before the gate opens: no other death can tell of this one.
    let failed = stage.service.event("worker-failed");
    assert_eq!(failed.text("exit"), "killed by SIGKILL");
    stage.service.write("gate", "");
    for reload in [first, second] {
        let output = reload.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    stage.service.wait_until_serving(3);
    wait_for_end_of(victim);
    stage.press();
    stage.ends();
}

#[test]
fn a_stop_during_the_exec_wins() {
    let stage = Stage::set();
    stage.service.write("probe.main", "wait");
    let reload = stage.service.reload_command().spawn_quiet();
    wait_for_the_exec(&stage.service);
    stage.service.signal(Signal::SIGTERM);
    stage.service.write("probe.go", "");
    let output = reload.wait_with_output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert_eq!(stage.service.exit(), 0);
}

#[test]
fn names_and_descriptors_stay_as_they_are_over_many_reloads() {
    let stage = Stage::set();
    let pid = stage.service.pid();
    let comm = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    let line = || fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let control = fs::metadata(stage.service.control()).unwrap();
    let before = (comm(), line(), descriptors(pid));
    stage.service.configure(&OLD.replace("old", "new"));
    for _ in 0..20 {
        stage.reload();
    }
    assert_eq!((comm(), line()), (before.0, before.1));
    wait_for_descriptors(pid, &before.2);
    assert!(line().starts_with(b"probe: arbiter"));
    use std::os::unix::fs::MetadataExt as _;
    let now = fs::metadata(stage.service.control()).unwrap();
    assert_eq!(now.ino(), control.ino(), "the control socket");
    let reloads = stage
        .service
        .count("all of them", 20, |record| record.is("reloaded"));
    assert_eq!(reloads.len(), 20);
    stage.ends();
}

#[test]
fn a_failed_reload_leaves_no_descriptor_behind() {
    let stage = Stage::set();
    let before = descriptors(stage.service.pid());
    for _ in 0..3 {
        stage.service.configure(&(OLD.to_owned() + "load = 'fail'"));
        let output = stage.service.reload();
        stage.rolled_back(&output, "no such table");
        stage.service.configure("workers = = 2");
        let output = stage.service.reload();
        stage.rolled_back(&output, "payload.toml:1:11");
    }
    wait_for_descriptors(stage.service.pid(), &before);
    stage.recovers();
}

#[test]
fn the_path_is_the_one_that_was_called() {
    let by = |script: &str| {
        let script = format!("cd \"$(dirname \"$1\")\"; shift; {script}");
        Setup::new(OLD)
            .installed()
            .through(&["sh", "-c", &script, "sh"])
    };
    for call in [
        r#"exec ./probe "$@""#,
        r#"PATH="$PWD:$PATH"; exec probe "$@""#,
        r#"cd ..; exec "$OLDPWD/probe" "$@""#,
    ] {
        let stage = Stage::of(by(call));
        // Not what the link led to, but the link itself: now to another program.
        stage.lead_program_to("/bin/true".as_ref());
        stage.rolls_back("without a verdict");
    }
}

#[test]
fn an_upgrade_puts_another_file_into_the_place_of_the_first() {
    let stage = Stage::of(Setup::new(OLD).copied());
    let (pid, old) = (stage.service.pid(), program_of(stage.service.pid()));
    let program = stage.service.program();
    let new = stage.service.folder().join("new");
    copy_program(&program, &new);
    fs::rename(new, &program).unwrap();
    stage.service.configure(&OLD.replace("old", "new"));
    stage.reload();
    assert!(lives(pid), "the same process");
    for pid in [&[pid], &stage.service.workers()[..]].concat() {
        assert_ne!(program_of(pid), old, "another program");
    }
    let still = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert_eq!(still, program);
    stage.ends();
}

/// The arbiter's process has no signals of its own open: the new program has begun, and payload in it has not.
#[track_caller]
fn wait_for_the_exec(service: &Service) {
    let folder = format!("/proc/{}/fd", service.pid());
    eventually("the exec", DEADLINE, || {
        let entries = fs::read_dir(&folder).unwrap().flatten();
        let mut links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        let waits = !links.any(|link| link.as_os_str() == "anon_inode:[signalfd]");
        waits.then_some(())
    });
}

/// What it has open, by kind. A control client of the test may just be there.
fn descriptors(pid: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        if let Ok(link) = fs::read_link(entry.path()) {
            let text = link.to_string_lossy().into_owned();
            let kind = text.split(":[").next().unwrap_or_default().to_owned();
            *kinds.entry(kind).or_default() += 1;
        }
    }
    kinds
}

#[track_caller]
fn wait_for_descriptors(pid: u32, wanted: &BTreeMap<String, usize>) {
    let mut last = BTreeMap::new();
    let same = within(DEADLINE, || {
        last = descriptors(pid);
        let fits = |(kind, count): (&String, &usize)| wanted.get(kind) >= Some(count);
        last.iter().all(fits).then_some(())
    });
    assert!(same.is_some(), "{last:#?} and not {wanted:#?}");
}
