//! The service manager's file descriptor store: FileDescriptorStoreMax= in systemd.service(5), FDSTORE=1 in
//! sd_notify(3).
//!
//! What is put there outlives this process, and comes back with LISTEN_FDS at the next start. The manager gives no
//! answer: what it has no room for, it closes. So each [`Transfer`] ends with a check, a pipe of which the manager
//! gets one end as the last thing, and with a barrier. When the barrier has come through and the pipe is still open,
//! everything that was sent before is in the store.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::{exec, passing};

/// No more than this many descriptors are put there, whatever the manager has room for: they come back with all
/// their names in one variable, and execve(2) takes 128 KiB at most. A service that cannot be executed could not even
/// empty its store.
pub(crate) const MOST: usize = 4096;

/// What a descriptor in the store is. The manager knows it by its text, and can remove by that alone: everything of
/// one name at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    /// A memory file with what is known of connections.
    Ledger(u32),
    /// A connection, one of those that were put there together.
    Connections(u32),
    /// Memory files with what payloads have kept.
    Kept(u32),
    /// A pipe that shows whether there is room.
    Check,
    /// Something of another version of this program: closed, and taken out. Its text and its number.
    Other(Arc<str>, u32),
}

impl Name {
    /// `None`: nothing of ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("payload-")?;
        if rest == "check" {
            return Some(Self::Check);
        }
        let (kind, number) = rest.rsplit_once('-')?;
        let number = number.parse().ok()?;
        match kind {
            "ledger" => Some(Self::Ledger(number)),
            "connections" => Some(Self::Connections(number)),
            "kept" => Some(Self::Kept(number)),
            "" => None,
            _ => Some(Self::Other(text.into(), number)),
        }
    }

    /// What sets those apart that were made at different times.
    pub(crate) fn number(&self) -> u32 {
        match self {
            Self::Ledger(number)
            | Self::Connections(number)
            | Self::Kept(number)
            | Self::Other(_, number) => *number,
            Self::Check => 0,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ledger(number) => write!(f, "payload-ledger-{number}"),
            Self::Connections(number) => write!(f, "payload-connections-{number}"),
            Self::Kept(number) => write!(f, "payload-kept-{number}"),
            Self::Check => f.write_str("payload-check"),
            Self::Other(text, _) => f.write_str(text),
        }
    }
}

/// A line to the manager of its own, for messages that must all arrive, and in their order. Never waits.
#[derive(Debug)]
pub(crate) struct Line(UnixDatagram);

impl Line {
    /// Over a socket that is connected to the manager's and does not block.
    pub(crate) fn over(socket: UnixDatagram) -> Self {
        Self(socket)
    }

    /// Takes everything of this name out of the store. False: not now, try again.
    ///
    /// # Errors
    /// The manager is gone.
    pub(crate) fn remove(&self, name: &Name) -> io::Result<bool> {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
    }

    fn send(&self, text: &str, fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let sent = passing::send(self.0.as_fd(), &[IoSlice::new(text.as_bytes())], fds);
        match sent {
            Ok(()) => Ok(true),
            Err(error) if is_for_now(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Some descriptors on their way into the store, and how one learns whether they have arrived.
#[derive(Debug)]
pub(crate) struct Transfer {
    name: Name,
    step: Step,
    /// Open as long as the manager has the other end of it.
    check: OwnedFd,
    /// The manager's end, until it is sent.
    check_end: Option<OwnedFd>,
    barrier: Barrier,
}

/// What is to be sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The check of the transfer before takes room.
    RemoveCheck,
    Descriptors,
    Check,
    Barrier,
    Wait,
}

impl Transfer {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// No descriptors.
    pub(crate) fn new(name: Name) -> io::Result<Self> {
        let (check, check_end) = exec::pipe()?;
        Ok(Self {
            name,
            step: Step::RemoveCheck,
            check,
            check_end: Some(check_end),
            barrier: Barrier::new()?,
        })
    }

    pub(crate) fn name(&self) -> Name {
        self.name.clone()
    }

    /// Readable when [`is_processed`](Self::is_processed) may have changed.
    pub(crate) fn watched(&self) -> BorrowedFd<'_> {
        self.barrier.ours.as_fd()
    }

    /// Sends what has not been sent. The descriptors must be the same at each call, at most 253 (SCM_MAX_FD, unix(7)).
    /// False: not now, try again.
    ///
    /// # Errors
    /// The manager is gone.
    pub(crate) fn send(&mut self, line: &Line, fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        loop {
            let next = match self.step {
                Step::RemoveCheck if line.remove(&Name::Check)? => Step::Descriptors,
                // Whoever sees a connection end is this service, when it has it back: not the manager.
                Step::Descriptors if line.send(&stored(&self.name, "\nFDPOLL=0"), fds)? => {
                    Step::Check
                }
                Step::Check if send_end(line, &stored(&Name::Check, ""), &mut self.check_end)? => {
                    Step::Barrier
                }
                Step::Barrier if self.barrier.send(line)? => Step::Wait,
                Step::Wait => return Ok(true),
                _ => return Ok(false),
            };
            self.step = next;
        }
    }

    /// Once it is sent: waits until it is processed, at most so long.
    pub(crate) fn wait(&self, limit: Duration) {
        self.barrier.wait(limit);
    }

    /// The manager has seen all of it.
    pub(crate) fn is_processed(&self) -> bool {
        self.step == Step::Wait && has_ended(&self.barrier.ours)
    }

    /// Once it is processed: whether all of it is in the store. An old manager decides that at once; a newer one (254)
    /// may take a moment to close what it does not store.
    pub(crate) fn is_stored(&self) -> bool {
        !has_ended(&self.check)
    }
}

/// Comes through when the manager has seen all that was sent before it. See BARRIER=1 in sd_notify(3).
#[derive(Debug)]
pub(crate) struct Barrier {
    ours: OwnedFd,
    /// Until it is sent.
    theirs: Option<OwnedFd>,
}

impl Barrier {
    /// # Errors
    /// No descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        let (ours, theirs) = exec::pipe()?;
        let theirs = Some(theirs);
        Ok(Self { ours, theirs })
    }

    /// False: not now, try again.
    ///
    /// # Errors
    /// The manager is gone.
    pub(crate) fn send(&mut self, line: &Line) -> io::Result<bool> {
        send_end(line, "BARRIER=1", &mut self.theirs)
    }

    /// Once it is sent: waits for it, at most so long.
    pub(crate) fn wait(&self, limit: Duration) {
        let mut fds = [PollFd::new(self.ours.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        // What has not come by then is not waited for.
        let _ = poll(&mut fds, limit);
    }
}

/// The sender's copy is closed as soon as the message is on its way.
fn send_end(line: &Line, text: &str, end: &mut Option<OwnedFd>) -> io::Result<bool> {
    let Some(fd) = end else { return Ok(true) };
    let sent = line.send(text, &[fd.as_fd()])?;
    if sent {
        *end = None;
    }
    Ok(sent)
}

fn stored(name: &Name, more: &str) -> String {
    format!("FDSTORE=1\nFDNAME={name}{more}")
}

/// Whether nobody has the other end of a pipe any more.
fn has_ended(pipe: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0);
    ready
        && fds[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// The manager's queue is full, too many descriptors are on their way, or memory is short.
fn is_for_now(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || matches!(
            Errno::from_raw(error.raw_os_error().unwrap_or(0)),
            Errno::ENOBUFS | Errno::ENOMEM | Errno::ETOOMANYREFS
        )
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
