//! File descriptors that come from elsewhere: passed over an exec, or opened inside another crate.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::statfs::{FsType, fstatfs};
use socket2::{Domain, SockRef, Type};

/// Takes ownership of a descriptor that was passed to this process, and makes it close-on-exec.
///
/// Call it at most once per number, before anything else in the process has opened a descriptor.
///
/// # Errors
/// The number is not an open descriptor.
pub(crate) fn adopt(raw: RawFd) -> io::Result<OwnedFd> {
    if raw <= libc::STDERR_FILENO {
        return Err(io::Error::from(Errno::EBADF));
    }
    // SAFETY: F_GETFD reads and F_SETFD writes one integer of the descriptor table; a closed number is
    // answered with EBADF.
    let flags = Errno::result(unsafe { libc::fcntl(raw, libc::F_GETFD) })?;
    // SAFETY: as above.
    Errno::result(unsafe { libc::fcntl(raw, libc::F_SETFD, flags | libc::FD_CLOEXEC) })?;
    // SAFETY: the number is open (checked above), is none of the standard streams, and was passed for this
    // process to own; the caller adopts it once, before anything else could have opened it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The inode number of this process's pidfd, which names it better than a reused pid does; `None` where the
/// kernel has no pidfs (before 6.9).
pub(crate) fn own_pidfd_id() -> Option<u64> {
    const PIDFS_MAGIC: libc::__fsword_t = 0x5049_4446;
    // SAFETY: pidfd_open(2) takes two integers and returns a new close-on-exec descriptor or an error.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) };
    let raw = RawFd::try_from(raw).ok().filter(|raw| *raw >= 0)?;
    // SAFETY: the call above has just opened it and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
    let kind = fstatfs(&pidfd).ok()?.filesystem_type();
    if kind != FsType(PIDFS_MAGIC) {
        return None;
    }
    nix::sys::stat::fstat(&pidfd).ok().map(|stat| stat.st_ino)
}

/// Puts `with` into the place of `place`: same number, another open file, close-on-exec. Atomic.
///
/// # Errors
/// What dup3(2) says; then nothing has changed.
pub(crate) fn replace(place: impl AsFd, with: &OwnedFd) -> io::Result<()> {
    let place = place.as_fd().as_raw_fd();
    // SAFETY: dup3(2) takes integers; `place` is an open descriptor which stays open and owned by whoever
    // owned it, only the file behind it changes, which is what the callers of this function are for.
    let done = unsafe { libc::dup3(with.as_raw_fd(), place, libc::O_CLOEXEC) };
    Errno::result(done).map(drop).map_err(io::Error::from)
}

/// The descriptor of a socket that another crate keeps to itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Captured(RawFd);

impl Captured {
    /// Runs `open`, which opens one Unix datagram socket and nothing else that stays open, and learns the
    /// socket's number: a new descriptor gets the lowest free number (open(2)).
    ///
    /// No other thread may open or close a descriptor meanwhile, and the value must live as long as the
    /// `Captured` is used.
    ///
    /// # Errors
    /// `open` failed, or what has the number is not such a socket.
    pub(crate) fn from_opening<T>(open: impl FnOnce() -> io::Result<T>) -> io::Result<(T, Self)> {
        let lowest = nix::unistd::dup(io::stderr())?.as_raw_fd();
        let value = open()?;
        let captured = Self(lowest);
        let socket = SockRef::from(&captured);
        let is_expected = socket.r#type().is_ok_and(|kind| kind == Type::DGRAM)
            && socket.domain().is_ok_and(|domain| domain == Domain::UNIX);
        if !is_expected {
            return Err(io::Error::other("the socket has not the expected number"));
        }
        Ok((value, captured))
    }
}

impl AsFd for Captured {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `from_opening` found it open, and its owner outlives `self` by that function's contract.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_closed_number_and_a_standard_stream_are_not_adopted() {
        assert!(adopt(2).is_err());
        assert!(adopt(1_000_000).is_err());
    }

    #[test]
    fn an_adopted_descriptor_does_not_survive_an_exec() {
        use nix::fcntl::{FcntlArg, FdFlag, fcntl};
        let (ours, _peer) = UnixStream::pair().unwrap();
        fcntl(&ours, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let adopted = adopt(std::os::fd::IntoRawFd::into_raw_fd(ours)).unwrap();
        let flags = FdFlag::from_bits_truncate(fcntl(&adopted, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
    }

    #[test]
    fn a_replaced_descriptor_keeps_its_number_and_reaches_the_other_file() {
        let (mut old, _) = UnixStream::pair().unwrap();
        let number = old.as_raw_fd();
        let (new, mut far) = UnixStream::pair().unwrap();
        replace(&old, &OwnedFd::from(new)).unwrap();
        assert_eq!(old.as_raw_fd(), number);
        old.write_all(b"here").unwrap();
        let mut read = [0; 4];
        far.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"here");
    }

    #[test]
    fn the_id_of_a_pidfd_is_the_same_at_each_look() {
        assert_eq!(own_pidfd_id(), own_pidfd_id());
    }
}
