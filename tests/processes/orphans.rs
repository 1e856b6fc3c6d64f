//! Processes that are none of the service's own.

use std::fs::File;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::support::eventually;
use crate::support::service::{LIMIT, Setup};

/// A child that the arbiter inherited: started by the shell that became it.
#[test]
fn a_foreign_child_is_reaped_and_means_nothing() {
    let setup = Setup::new("workers = 1");
    // It lives until somebody has opened the other end.
    let pipe = setup.folder().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let script = format!("cat '{}' & exec \"$@\"", pipe.display());
    let service = setup.through(&["sh", "-c", &script, "sh"]).serve();
    let worker = service.workers()[0];
    let foreign = || {
        service
            .processes()
            .into_iter()
            .find(|process| process.name == "cat")
    };
    let child = eventually("the child", LIMIT, foreign);
    assert_eq!(child.parent, service.pid());
    drop(File::options().write(true).open(pipe).unwrap());
    eventually("it is reaped, too", LIMIT, || {
        std::fs::read_to_string(format!("/proc/{}/stat", child.pid))
            .is_err()
            .then_some(())
    });
    assert_eq!(service.workers(), [worker]);
    assert_eq!(service.status()["arbiter"]["state"], "ready");
    assert_eq!(service.stop(), 0);
    assert!(
        !service
            .records()
            .iter()
            .any(|record| record.is("worker-failed"))
    );
}

/// No signal is blocked or ignored in it, and it has no descriptor of the service's.
#[test]
fn a_child_of_a_worker_starts_clean() {
    let service = Setup::new("workers = 1").serve();
    let status = service.get("/child");
    let mask = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        // The C library keeps 32 and 33 for itself.
        u64::from_str_radix(line.trim(), 16).unwrap() & 0x7fff_ffff
    };
    assert_eq!(mask("SigBlk:"), 0, "{status}");
    assert_eq!(mask("SigIgn:"), 0, "{status}");
    let descriptors = service.get("/descriptors");
    assert!(
        descriptors.contains("/dev/null"),
        "its stdin: {descriptors}"
    );
    for of_service in ["socket:", "anon_inode:", "memfd:"] {
        assert!(!descriptors.contains(of_service), "{descriptors}");
    }
    assert_eq!(service.stop(), 0);
}
