//! Processes as the kernel shows them, see proc_pid_stat(5).

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{DEADLINE, eventually};

/// A process of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) name: String,
    pub(crate) state: char,
    /// User and system time, in clock ticks.
    pub(crate) ticks: u64,
}

/// To a process that is known to live, or at least not to be reaped.
#[track_caller]
pub(crate) fn signal_to(pid: u32, signal: Signal) {
    assert!(pid > 1);
    kill(number_of(pid), signal).expect("the process is there");
}

/// Whether a process lives; one that waits to be reaped does not.
pub(crate) fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|(_, process)| process.state != 'Z')
}

/// Waits for the end of a process that is no child of the test.
#[track_caller]
pub(crate) fn wait_for_end_of(pid: u32) {
    eventually(&format!("the end of process {pid}"), DEADLINE, || {
        (!lives(pid)).then_some(())
    });
}

/// The processes of this process group that live.
pub(super) fn group_of(pid: u32) -> Vec<Process> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .filter(|(group, process)| *group == pid && process.state != 'Z')
        .map(|(_, process)| process)
        .collect()
}

/// A process with its process group.
pub(crate) fn stat(pid: u32) -> Option<(u32, Process)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (start, rest) = text.rsplit_once(") ")?;
    let (_, name) = start.split_once(" (")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let process = Process {
        pid,
        parent: u32::try_from(number(1)?).ok()?,
        name: name.to_owned(),
        state: fields.first()?.chars().next()?,
        ticks: number(11)? + number(12)?,
    };
    Some((u32::try_from(number(2)?).ok()?, process))
}

pub(super) fn number_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap())
}
