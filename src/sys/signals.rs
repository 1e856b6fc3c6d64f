//! Signal masks and the arbiter's signalfd.
//!
//! The arbiter blocks what it waits for before it forks; a worker keeps that mask until its own handlers are
//! in place, so that no signal is lost in between and none is handled by the wrong process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal as set_disposition};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What the arbiter takes from its signalfd.
pub(crate) const ARBITER: [Signal; 9] = [
    Signal::SIGCHLD,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// The arbiter's signals as a readable descriptor.
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Blocks the arbiter's signals in this thread and opens the descriptor.
    ///
    /// A parent may have left some of them ignored, which survives an exec: an ignored SIGCHLD would have the
    /// kernel reap the workers without a word. So all get their default disposition first.
    ///
    /// # Errors
    /// What pthread_sigmask(3) and signalfd(2) say.
    pub(crate) fn take() -> io::Result<Self> {
        let set: SigSet = ARBITER.into_iter().collect();
        set.thread_block()?;
        for signal in ARBITER {
            // SAFETY: the default disposition runs no code of this process.
            unsafe { set_disposition(signal, SigHandler::SigDfl) }?;
        }
        // Blocked, so it never runs; but newer managers refuse to send a SIGHUP that nobody handles
        // (systemd.service(5), Type=notify-reload).
        // SAFETY: the handler does nothing.
        unsafe { set_disposition(Signal::SIGHUP, SigHandler::Handler(nothing)) }?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self(fd))
    }

    /// Does something that may take long, and that SIGTERM, SIGINT and SIGQUIT may end together with this process.
    ///
    /// # Errors
    /// What pthread_sigmask(3) says.
    pub(crate) fn let_end<T>(&self, act: impl FnOnce() -> T) -> io::Result<T> {
        if std::process::id() == 1 {
            // There the kernel drops a signal that nobody handles, signal(7); blocked, it comes afterwards.
            return Ok(act());
        }
        let deadly = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];
        let deadly: SigSet = deadly.into_iter().collect();
        deadly.thread_unblock()?;
        let done = act();
        deadly.thread_block()?;
        Ok(done)
    }

    /// The next signal and the pid that sent it (0: the kernel); `None`: there is none now.
    ///
    /// # Errors
    /// What read(2) says.
    pub(crate) fn next(&self) -> io::Result<Option<(Signal, u32)>> {
        loop {
            match self.0.read_signal() {
                Ok(None) | Err(Errno::EAGAIN) => return Ok(None),
                Ok(Some(info)) => {
                    let number = i32::try_from(info.ssi_signo).unwrap_or(0);
                    if let Ok(signal) = Signal::try_from(number) {
                        return Ok(Some((signal, info.ssi_pid)));
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

extern "C" fn nothing(_: nix::libc::c_int) {}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets every signal through to this thread, and to the threads and processes that it starts.
///
/// # Errors
/// What pthread_sigmask(3) says.
pub(crate) fn unblock_all() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}
