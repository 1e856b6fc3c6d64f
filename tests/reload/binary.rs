//! A program on disk that cannot take over is found before anything is replaced.

use std::fs;
use std::path::Path;

use crate::stage::{OLD, Stage, program_of};
use crate::support::service::{Setup, probe, signal_to, wait_for_end_of};
use nix::sys::signal::Signal;

#[test]
fn it_is_missing() {
    let stage = Stage::set();
    fs::remove_file(stage.service.program()).unwrap();
    stage.rolls_back("No such file or directory");
}

#[test]
fn it_is_not_executable() {
    let stage = Stage::set();
    stage.replace_program(&start_of_probe(4096), 0o644);
    stage.rolls_back("is it executable?");
}

#[test]
fn it_is_a_folder() {
    let stage = Stage::set();
    stage.lead_program_to(Path::new("/"));
    stage.rolls_back("is it executable?");
}

#[test]
fn it_is_made_for_another_machine() {
    let stage = Stage::set();
    let mut content = start_of_probe(65_536);
    // e_machine of elf(5): SPARC, which nobody emulates by accident.
    content[18..20].copy_from_slice(&2_u16.to_ne_bytes());
    stage.replace_program(&content, 0o755);
    stage.rolls_back("made for another machine");
}

#[test]
fn it_is_truncated() {
    for length in [0, 1_000, 65_536] {
        let stage = Stage::set();
        stage.replace_program(&start_of_probe(length), 0o755);
        stage.rolls_back("probe");
    }
}

#[test]
fn it_is_another_program_and_ends_well() {
    let stage = Stage::set();
    stage.lead_program_to(Path::new("/bin/true"));
    stage.rolls_back("without a verdict");
}

#[test]
fn it_is_a_script() {
    let stage = Stage::set();
    stage.replace_program(b"#!/bin/sh\nexec sleep 100\n", 0o755);
    stage.rolls_back("let the path lead to the program itself");
}

#[test]
fn it_ends_at_once() {
    let stage = Stage::set();
    stage.service.write("probe.main", "exit");
    stage.rolls_back("exit code 3");
}

#[test]
fn it_crashes_at_its_start() {
    let stage = Stage::set();
    stage.service.write("probe.main", "crash");
    stage.rolls_back("killed by SIGILL");
}

#[test]
fn it_starts_a_thread_before_it_becomes_a_service() {
    let stage = Stage::set();
    stage.service.write("probe.main", "thread");
    stage.rolls_back("while other threads run ('indexer')");
}

#[test]
fn it_prints_and_hangs() {
    let stage = Stage::of(Setup::new(&OLD.replace("30s", "5s")).installed());
    stage.service.write("probe.main", "hang");
    stage.rolls_back("did not finish its check within 5s");
}

#[test]
fn it_is_older_than_the_state_of_the_one_that_runs() {
    let stage = Stage::set();
    stage.service.write("probe.main", "newer");
    stage.rolls_back("its state is of version 99, written by payload 99.0.0");
}

#[test]
fn a_program_that_was_removed_comes_back_after_a_failure_of_the_next() {
    comes_back(|program| fs::remove_file(program).unwrap());
}

#[test]
fn a_program_that_was_replaced_comes_back_after_a_failure_of_the_next() {
    // dpkg and cargo write a new file, and the old one has no name any more.
    comes_back(|_| {});
}

/// The new program passes its check and its workers fail: the way back leads to a file without a name. A worker that
/// crashes after it is replaced with the old program and the old configuration.
fn comes_back(lose: fn(&Path)) {
    let mut stage = Stage::of(Setup::new(OLD).copied());
    let old = program_of(stage.service.pid());
    lose(&stage.service.program());
    stage.lead_program_to(&probe());
    let failing = OLD.replace("old", "new") + "load = 'fail'\n";
    stage.service.configure(&failing);
    let output = stage.service.reload();
    stage.rolled_back(&output, "no such table");

    let victim = stage.old_workers()[0];
    let mark = fs::read_link(format!("/proc/{victim}/exe")).unwrap();
    assert!(mark.to_str().unwrap().ends_with(" (deleted)"), "{mark:?}");
    // A crash loses what it is answering: so there is nothing.
    stage.calm();
    signal_to(victim, Signal::SIGKILL);
    wait_for_end_of(victim);
    stage.service.wait_until_replaced(victim);
    for pid in stage.service.workers() {
        assert_eq!(program_of(pid), old, "the old program");
    }
    for _ in 0..4 {
        assert_eq!(stage.word(), "old", "the old configuration");
    }
    stage.press();
    stage.recovers();
}

fn start_of_probe(length: usize) -> Vec<u8> {
    use std::io::Read as _;
    let mut content = Vec::new();
    let file = fs::File::open(probe()).unwrap();
    let length = u64::try_from(length).unwrap();
    file.take(length).read_to_end(&mut content).unwrap();
    content
}
