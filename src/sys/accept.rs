//! Taking a connection off a listening socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;
use socket2::SockAddr;

/// One connection, non-blocking and close-on-exec, with the peer's address, in one call.
///
/// # Errors
/// What accept4(2) says, among it errors that the network had ready for the new connection.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SockAddr)> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `try_init` passes a zeroed sockaddr_storage and its length, which is what accept4 wants;
    // the kernel writes at most that length and a valid address.
    let (fd, peer) = unsafe {
        SockAddr::try_init(|storage, length| {
            match libc::accept4(listener.as_raw_fd(), storage.cast(), length, flags) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(fd),
            }
        })?
    };
    // SAFETY: accept4 has just made this fd, and nobody else knows it.
    Ok((unsafe { OwnedFd::from_raw_fd(fd) }, peer))
}
