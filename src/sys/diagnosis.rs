//! What every thread of a stuck worker is doing, although its executor is blocked.
//!
//! The arbiter signals each thread; a handler in the worker writes the thread's return addresses into shared
//! memory; the arbiter, which has the same code at the same addresses because the worker is its fork, turns
//! them into names. Nothing in the handler allocates or locks.

use std::io;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use nix::libc;

use super::memory::shareable;

/// Threads of one worker that can answer.
pub(crate) const THREADS: usize = 16;
/// Frames of one thread.
pub(crate) const FRAMES: usize = 48;

shareable! {
    /// Where a worker's threads write. All zeros: nobody has answered.
    pub(crate) struct Area {
        answers: AtomicU32,
        threads: [Thread; THREADS],
    }
}

shareable! {
    struct Thread {
        /// Set last: the frames are complete.
        tid: AtomicU32,
        frames: [AtomicU64; FRAMES],
    }
}

/// One thread's answer.
pub(crate) struct Trace {
    pub(crate) tid: u32,
    /// Return addresses, innermost first.
    pub(crate) frames: Vec<u64>,
}

impl Area {
    pub(crate) fn clear(&self) {
        for thread in &self.threads {
            thread.tid.store(0, Ordering::Relaxed);
            for frame in &thread.frames {
                frame.store(0, Ordering::Relaxed);
            }
        }
        self.answers.store(0, Ordering::Release);
    }

    /// The threads that have answered so far.
    pub(crate) fn traces(&self) -> Vec<Trace> {
        self.threads
            .iter()
            .filter_map(|thread| {
                let tid = thread.tid.load(Ordering::Acquire);
                (tid != 0).then(|| Trace {
                    tid,
                    frames: thread
                        .frames
                        .iter()
                        .map(|frame| frame.load(Ordering::Relaxed))
                        .take_while(|address| *address != 0)
                        .collect(),
                })
            })
            .collect()
    }
}

static AREA: AtomicPtr<Area> = AtomicPtr::new(std::ptr::null_mut());

fn request_signal() -> libc::c_int {
    libc::SIGRTMIN() + 7
}

/// Makes this process answer. `area` must stay mapped for the rest of the process's life, hence `'static`.
///
/// # Errors
/// What sigaction(2) says.
pub(crate) fn install(area: &'static Area) -> io::Result<()> {
    AREA.store(std::ptr::from_ref(area).cast_mut(), Ordering::Release);
    // SAFETY: an all-zero sigaction is a valid value to fill in.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int) = answer;
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: both pointers are valid for the call, and `answer` does only what a handler may do.
    let result = unsafe {
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(request_signal(), &raw const action, std::ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Asks one thread of a child for its trace.
///
/// # Errors
/// What tgkill(2) says.
pub(crate) fn request(pid: u32, tid: u32) -> io::Result<()> {
    // SAFETY: a system call with three integers.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, request_signal()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

extern "C" fn answer(_signal: libc::c_int) {
    // SAFETY: `install` stored a pointer to an area that lives as long as the process.
    let Some(area) = (unsafe { AREA.load(Ordering::Acquire).as_ref() }) else {
        return;
    };
    let index = area.answers.fetch_add(1, Ordering::AcqRel) as usize;
    let Some(thread) = area.threads.get(index) else {
        return;
    };
    let mut frames = thread.frames.iter();
    // SAFETY: the unwinder reads only this thread's stack and the program's unwind tables. The lock that
    // the synchronised variant takes could be held by the very code that was interrupted.
    unsafe {
        backtrace::trace_unsynchronized(|frame| match frames.next() {
            Some(place) => {
                place.store(frame.ip() as u64, Ordering::Relaxed);
                true
            }
            None => false,
        });
    }
    // SAFETY: gettid(2) has no arguments and cannot fail.
    let tid = unsafe { libc::gettid() };
    thread.tid.store(tid.unsigned_abs(), Ordering::Release);
}
