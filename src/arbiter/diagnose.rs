//! What a stuck worker is doing: for the log, before it is killed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::core::{Overdue, WorkerId};
use super::maps::Maps;
use super::seats::{Child, Children};
use crate::lifecycle;
use crate::logs::events::Event;
use crate::sys::diagnosis::{self, Area, Trace};
use crate::sys::process::{Forked, Reaped, fork_single_threaded, reap};
use crate::sys::signals::Signals;
use crate::worker::phase::Phase;
use crate::{logs, sys};

/// How long the arbiter waits for the worker's threads to answer, on a machine that lets each of them run in its turn
/// only. Most answer at once.
const PATIENCE: Duration = Duration::from_millis(500);
/// The same for threads that are stopped: they answer nothing unless somebody lets them go on.
const IN_VAIN: Duration = Duration::from_millis(20);

/// When it was waited for in vain, others get no more than [`IN_VAIN`] for so long: many workers may be stuck at the same
/// time, and the arbiter has other things to do.
const IN_A_HURRY: Duration = Duration::from_secs(10);

/// How long the service's end waits for what is still being logged.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The forks of the arbiter that log backtraces, by their pids.
#[derive(Debug, Default)]
pub(super) struct Helpers {
    pids: BTreeSet<u32>,
    /// When threads were last waited for in vain.
    in_vain: Option<Instant>,
}

/// Logs phase, limit and every thread's state at once. `Some` in a fork of this process, which has the
/// backtraces to log and nothing else to do.
pub(super) fn report(
    worker: WorkerId,
    child: &Child,
    children: &Children,
    phase: Phase,
    overdue: Overdue,
    helpers: &mut Helpers,
) -> Option<Helper> {
    let area = &children.board.traces[child.seat];
    area.clear();
    let tids = tids(child.pid);
    let asked = tids.iter().copied().take(diagnosis::THREADS);
    let asked: Vec<u32> = asked
        .filter(|tid| diagnosis::request(child.pid, *tid).is_ok())
        .collect();
    helpers.wait_for_answers(child.pid, &asked, area);
    let traces = area.traces();
    let seat = children.seat(child);
    lifecycle!(
        Event::WorkerStuck,
        payload_worker = worker.0,
        payload_slot = seat.slot.load(Relaxed),
        payload_generation = seat.generation.load(Relaxed),
        worker_pid = child.pid,
        phase = phase.name(),
        limit = overdue.limit_name(),
        overdue_seconds = overdue.took().as_secs_f64(),
        threads = threads(child.pid, &tids),
        answered = traces.len(),
        "worker is stuck: SIGABRT now, SIGKILL if that does not end it"
    );
    if traces.is_empty() {
        return None;
    }
    // Turning addresses into names reads the program's debug information, which can take seconds and much
    // memory: a fork of the arbiter does it, and ends.
    // Another image of the arbiter may have forked the worker: then its code is elsewhere.
    let (theirs, ours) = (Maps::of(child.pid), Maps::of(std::process::id()));
    match fork_single_threaded() {
        Ok(Forked::Parent { child }) => {
            helpers.pids.insert(child);
            None
        }
        Ok(Forked::Child) => Some(Helper {
            worker: worker.0,
            slot: seat.slot.load(Relaxed),
            generation: seat.generation.load(Relaxed),
            pid: child.pid,
            traces,
            theirs,
            ours,
        }),
        Err(error) => {
            tracing::warn!(error = %error, "the backtraces cannot be resolved");
            None
        }
    }
}

impl Helpers {
    /// Until those have answered who can.
    fn wait_for_answers(&mut self, pid: u32, asked: &[u32], area: &Area) {
        let begun = Instant::now();
        let in_a_hurry = self.in_vain.is_some_and(|at| at.elapsed() < IN_A_HURRY);
        loop {
            let answered: Vec<u32> = area.traces().iter().map(|trace| trace.tid).collect();
            if answered.len() >= asked.len() {
                return;
            }
            let mut missing = asked.iter().filter(|tid| !answered.contains(tid));
            let can_come = !in_a_hurry && missing.any(|tid| can_answer(state_of(pid, *tid)));
            if begun.elapsed() >= PATIENCE {
                self.in_vain = Some(Instant::now());
                return;
            }
            if !can_come && begun.elapsed() >= IN_VAIN {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A process has ended.
    pub(super) fn reaped(&mut self, pid: u32) {
        self.pids.remove(&pid);
    }

    /// Waits for them, some seconds at most: a service manager ends what is left when the arbiter has ended, and with it
    /// what they have to say. Nobody else's end means anything any more.
    pub(super) fn wait(mut self, signals: &Signals) {
        let end = Instant::now() + LAST_WORDS;
        while !self.pids.is_empty() {
            while let Some(Reaped::Exited { pid, .. } | Reaped::Signaled { pid, .. }) = reap() {
                self.pids.remove(&pid);
            }
            let left = end.saturating_duration_since(Instant::now());
            if self.pids.is_empty() || left.is_zero() {
                return;
            }
            let mut ends = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut ends, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            while let Ok(Some(_)) = signals.next() {}
        }
    }
}

/// What a fork of the arbiter has to log before it ends.
pub(crate) struct Helper {
    worker: u64,
    slot: u32,
    generation: u32,
    pid: u32,
    traces: Vec<Trace>,
    theirs: Maps,
    ours: Maps,
}

impl Helper {
    /// Logs every thread's backtrace in the stuck worker's name. Call it in the helper's process, when all that
    /// belongs to the arbiter has been dropped there; then leave.
    pub(crate) fn log(self) {
        if logs::become_worker(self.worker, self.slot, self.generation).is_err() {
            return;
        }
        // It may be ended like any process.
        let _ = sys::signals::unblock_all();
        for trace in &self.traces {
            lifecycle!(
                Event::WorkerTrace,
                worker_pid = self.pid,
                tid = trace.tid,
                backtrace = self.resolve(trace),
                "backtrace of a stuck worker's thread"
            );
        }
    }

    /// One line per function. An address that is nowhere in this program is of another one: it stays a number.
    fn resolve(&self, trace: &Trace) -> String {
        let mut text = String::new();
        for address in &trace.frames {
            let mut named = false;
            let own = self.ours.translate(&self.theirs, *address);
            let own = own.and_then(|own| usize::try_from(own).ok());
            backtrace::resolve(own.unwrap_or(0) as *mut std::ffi::c_void, |symbol| {
                named = true;
                let name = symbol
                    .name()
                    .map_or_else(|| "?".to_owned(), |name| format!("{name:#}"));
                let _ = write!(text, "\n  {name}");
                if let (Some(file), Some(line)) = (symbol.filename(), symbol.lineno()) {
                    let _ = write!(text, " ({}:{line})", file.display());
                }
            });
            if !named {
                let _ = write!(text, "\n  {address:#x}");
            }
        }
        text
    }
}

/// Neither stopped nor traced nor gone. An uninterruptible wait may be a short one.
fn can_answer(state: char) -> bool {
    matches!(state, 'R' | 'S' | 'D')
}

/// The state of a thread, proc_pid_task(5).
fn state_of(pid: u32, tid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat"));
    state_in(&stat.unwrap_or_default())
}

/// The state in a line of proc_pid_stat(5).
fn state_in(stat: &str) -> char {
    let rest = stat.rsplit(") ").next();
    rest.and_then(|rest| rest.chars().next()).unwrap_or('?')
}

/// Name, state and kernel function of each thread, proc_pid_task(5).
fn threads(pid: u32, tids: &[u32]) -> String {
    let read = |tid: u32, file: &str| {
        fs::read_to_string(format!("/proc/{pid}/task/{tid}/{file}")).unwrap_or_default()
    };
    let mut threads = Vec::new();
    for tid in tids {
        let state = state_of(pid, *tid);
        let (name, wait) = (read(*tid, "comm"), read(*tid, "wchan"));
        threads.push(format!("{tid} {} {state} {}", name.trim(), wait.trim()));
    }
    threads.join("; ")
}

fn tids(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name may look like the end of one.
    #[test]
    fn who_is_stopped_or_gone_is_not_waited_for() {
        let stat = |state: char| format!("17 (a) R (b) {state} 1 17 17 0 -1");
        let waited_for: String = "RSDTtZXI"
            .chars()
            .filter(|state| can_answer(state_in(&stat(*state))))
            .collect();
        assert_eq!(waited_for, "RSD");
        assert!(!can_answer(state_in("")), "it is gone");
    }
}
