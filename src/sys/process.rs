//! Processes: forking, who the parent is, names, and ends.

use std::ffi::CString;
use std::io;

use super::environment::thread_count;
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, fork, getppid};

/// Which side of a fork this is.
pub(crate) enum Forked {
    Parent { child: u32 },
    Child,
}

/// Forks this process, which must have one thread: tokio supports a fork without an exec only where the
/// parent never used it, and any lock that another thread held would stay locked in the child for ever.
///
/// # Errors
/// More than one thread, or what fork(2) says.
pub(crate) fn fork_single_threaded() -> io::Result<Forked> {
    let threads = thread_count()?;
    if threads != 1 {
        return Err(io::Error::other(format!(
            "the arbiter has {threads} threads and may have only one when it forks; something started a thread before the fork"
        )));
    }
    // SAFETY: the process has one thread (checked above), so the child's memory is consistent and no lock
    // is held by a thread that does not exist there.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Forked::Parent {
            child: child.as_raw().unsigned_abs(),
        }),
        ForkResult::Child => Ok(Forked::Child),
    }
}

/// The short names of this process's threads beside the one that asks.
///
/// # Errors
/// /proc/self/task cannot be read.
pub(crate) fn other_threads() -> io::Result<Vec<String>> {
    let own = nix::unistd::gettid().to_string();
    let mut names = Vec::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?;
        if task.file_name() != own.as_str() {
            // One that has just ended has none.
            let name = std::fs::read_to_string(task.path().join("comm"));
            names.extend(name.map(|name| name.trim_end().to_owned()));
        }
    }
    Ok(names)
}

/// Asks the kernel to send this process SIGTERM when its parent ends, and checks that the parent is still
/// there: one that ended before the call is not noticed by it, prctl(2).
///
/// # Errors
/// The parent is already gone.
pub(crate) fn follow_parent(parent: u32) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    if getppid().as_raw().unsigned_abs() == parent {
        Ok(())
    } else {
        Err(io::Error::other(
            "the arbiter ended before this worker could start",
        ))
    }
}

/// A process that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaped {
    Exited { pid: u32, code: i32 },
    Signaled { pid: u32, signal: i32 },
}

/// Reaps one child, whoever it belonged to, without waiting. One SIGCHLD can stand for many ends: call this
/// until it gives `None`.
///
/// The status is decoded here: nix's waitpid(2) reaps a child that a real-time signal ended, and then fails
/// because it has no name for the signal, so that the end would be lost.
pub(crate) fn reap() -> Option<Reaped> {
    loop {
        let mut status = 0;
        // SAFETY: the pointer is valid for the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        match u32::try_from(pid) {
            Ok(0) => return None,
            Ok(pid) if libc::WIFEXITED(status) => {
                let code = libc::WEXITSTATUS(status);
                return Some(Reaped::Exited { pid, code });
            }
            Ok(pid) if libc::WIFSIGNALED(status) => {
                let signal = libc::WTERMSIG(status);
                return Some(Reaped::Signaled { pid, signal });
            }
            // Stopped or continued, which was not asked for.
            Ok(_) => {}
            Err(_) if Errno::last() == Errno::EINTR => {}
            Err(_) => return None,
        }
    }
}

/// Sends a signal to a child that has not been reaped, whose pid is therefore still its own.
///
/// # Errors
/// What kill(2) says.
pub(crate) fn signal_child(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    if pid <= 1 {
        return Err(io::Error::other("not a child"));
    }
    Ok(kill(Pid::from_raw(pid), signal)?)
}

/// The short name that `ps -o comm` and `top` show; the kernel cuts it at 15 bytes. Names this thread only.
pub(crate) fn set_short_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        // Only a name: nothing depends on it.
        let _ = prctl::set_name(&name);
    }
}

/// The short name of this thread.
pub(crate) fn short_name() -> String {
    // Not nix's prctl::get_name (0.31.3): it lets the kernel write to what the compiler takes for a constant.
    std::fs::read_to_string("/proc/thread-self/comm")
        .map_or_else(|_| String::new(), |name| name.trim_end().to_owned())
}
