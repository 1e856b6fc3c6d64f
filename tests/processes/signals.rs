//! Signals that are rare, and dispositions that somebody left behind.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::service::{Setup, number};

/// Its number has no name in libraries that list the classic signals only.
#[test]
fn a_worker_that_a_real_time_signal_ended_is_replaced() {
    let service = Setup::new("workers = 2").serve();
    let killed = service.workers()[0];
    let status = Command::new("sh")
        .args(["-c", &format!("kill -s RTMIN+3 {killed}")])
        .status()
        .unwrap();
    assert!(status.success());
    let failed = service.event("worker-failed");
    assert!(
        failed.text("exit").starts_with("killed by signal"),
        "{:?}",
        failed.0
    );
    service.status_where("it is replaced", |status| {
        let workers = status["workers"].as_array().unwrap();
        status["arbiter"]["state"] == "ready"
            && workers.len() == 2
            && workers
                .iter()
                .all(|worker| number(&worker["pid"]) != killed)
    });
    assert_eq!(service.stop(), 0);
}

/// An ignored SIGCHLD survives an exec, and would have the kernel reap the workers without a word.
#[test]
fn an_ignored_sigchld_is_not_inherited() {
    let service = Setup::new("workers = 2")
        .through(&["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh"])
        .serve();
    let killed = service.workers()[0];
    crate::support::service::signal_to(killed, Signal::SIGKILL);
    service.status_where("it is replaced", |status| {
        let workers = status["workers"].as_array().unwrap();
        status["arbiter"]["state"] == "ready"
            && workers
                .iter()
                .all(|worker| number(&worker["pid"]) != killed)
    });
    assert_eq!(service.stop(), 0);
}

/// Newer managers do not send a SIGHUP that nobody handles.
#[test]
fn a_hangup_is_handled() {
    let service = Setup::new("workers = 1").serve();
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
    assert_ne!(caught & 1 << (Signal::SIGHUP as i32 - 1), 0, "{caught:x}");
    assert_eq!(service.stop(), 0);
}
