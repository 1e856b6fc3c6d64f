//! The processes as `ps` and their own libraries see them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::support::http::get;
use crate::support::service::Setup;
use crate::support::{DEADLINE, eventually};

#[test]
fn ps_tells_them_apart_and_the_environment_stays() {
    let service = Setup::new("workers = 2").env("KEPT", "as it was").serve();
    let shown = |pid: u32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = |pid: u32| shown(pid, "cmdline").trim_end_matches('\0').to_owned();
    assert_eq!(line(service.pid()), "probe: arbiter");
    let workers = service.workers();
    for (slot, pid) in workers.iter().enumerate() {
        assert_eq!(line(*pid), format!("probe: worker {slot} g1"));
        assert_eq!(shown(*pid, "comm").trim_end(), format!("probe w{slot}"));
    }
    assert_eq!(shown(service.pid(), "comm").trim_end(), "probe");
    for pid in workers.into_iter().chain([service.pid()]) {
        let environment = shown(pid, "environ");
        assert!(
            environment.split('\0').any(|line| line == "KEPT=as it was"),
            "{environment}"
        );
        assert!(
            environment
                .split('\0')
                .any(|line| line.starts_with("PATH=")),
            "{environment}"
        );
    }
}

/// Started by one arbiter at one time, they have everything in common that a generator could seed itself by but the
/// kernel. A coarse clock makes sure of the time.
#[test]
fn siblings_do_not_share_their_random_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let coarse = folder.path().join("coarse_clock.so");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&coarse)
        .arg("tests/support/coarse_clock.c")
        .status()
        .expect("cc is there: cargo links with it");
    assert!(compiled.success());
    for threads in ["1", "3"] {
        let service = Setup::new("workers = 4")
            .env("LD_PRELOAD", coarse.to_str().unwrap())
            .args(&["--threads", threads])
            .serve();
        let mut drawn = BTreeSet::new();
        let mut pids = BTreeSet::new();
        eventually("every worker has answered", DEADLINE, || {
            let answer = get(service.address(), "/random");
            let (pid, numbers) = answer.text().split_once(' ').expect("a pid and numbers");
            if pids.insert(pid.to_owned()) {
                for number in numbers.split_whitespace() {
                    assert!(drawn.insert(number.to_owned()), "{number} was drawn twice");
                }
            }
            (pids.len() == 4).then_some(())
        });
        assert_eq!(drawn.len(), 16);
        assert_eq!(service.stop(), 0);
    }
}
