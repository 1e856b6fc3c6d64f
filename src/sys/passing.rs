//! Messages that carry file descriptors over a local socket, see unix(7) and cmsg(3).

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// More descriptors than this in one message are not taken.
pub(crate) const MAX_FDS: usize = 4;

/// One message.
#[derive(Debug)]
pub(crate) struct Message {
    /// How many bytes of the buffer it filled; 0: the other side has closed.
    pub(crate) length: usize,
    /// In the order in which they were sent, close-on-exec.
    pub(crate) fds: Vec<OwnedFd>,
    /// Descriptors are missing: this process has no room for them, or they were too many. Those that came are
    /// in `fds`, and dropping the message closes them.
    pub(crate) fds_lost: bool,
    /// Bytes are missing: the buffer was too small.
    pub(crate) cut: bool,
}

/// Sends one message whole, or not at all. Never waits, never raises SIGPIPE.
///
/// A peer that has closed is EPIPE, also where the kernel reports first, once, that it has left messages unread.
///
/// # Errors
/// What sendmsg(2) says; among it `WouldBlock`, EPIPE, EMSGSIZE, and ETOOMANYREFS for an unprivileged process
/// with as many descriptors on their way as RLIMIT_NOFILE allows it.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), parts, control, flags, None) {
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            other => return other.map(drop).map_err(Into::into),
        }
    }
}

/// Whether a send or a receive has failed for want of something that this process or the machine has too little of, now:
/// memory, or descriptors, for which more may be on their way than unix(7) allows. The other side has no part in it.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE)
    )
}

/// How much of what was sent over this socket the other side has not taken yet, in bytes of the kernel's memory:
/// SIOCOUTQ of a local socket.
///
/// # Errors
/// What ioctl(2) says.
pub(crate) fn unsent(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int to the pointer, which is valid for the call.
    let code = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    Errno::result(code)?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Takes one message. Never waits.
///
/// The reset of a peer that closed without reading everything is passed over: its messages may still be queued
/// behind it, and after them comes the end.
///
/// # Errors
/// What recvmsg(2) says, among it `WouldBlock`.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Message> {
    receive_up_to::<MAX_FDS>(socket, buffer)
}

/// The same with another number of descriptors.
///
/// # Errors
/// As [`receive`].
pub(crate) fn receive_up_to<const MOST: usize>(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<Message> {
    let mut control = MaybeUninit::<Control<MOST>>::uninit();
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: a msghdr of zeros is a valid value: null pointers with lengths of zero.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    let length = loop {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of::<Control<MOST>>();
        // SAFETY: the header points to one part, which is `buffer` with its length, and to `control` with its
        // length; all of them outlive the call.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
        match Errno::result(received) {
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(errno) => return Err(errno.into()),
            Ok(length) => break length,
        }
    };
    Ok(Message {
        length: usize::try_from(length).unwrap_or(0),
        // SAFETY: recvmsg has just filled the header and the control buffer that it points to.
        fds: unsafe { take_fds(&header) },
        fds_lost: header.msg_flags & libc::MSG_CTRUNC != 0,
        cut: header.msg_flags & libc::MSG_TRUNC != 0,
    })
}

/// Room for one control message with so many descriptors.
#[repr(C)]
struct Control<const MOST: usize> {
    head: MaybeUninit<libc::cmsghdr>,
    fds: [MaybeUninit<RawFd>; MOST],
}

/// Owns every descriptor that the kernel has put into this process with a message, also with one that it had to
/// cut: it says in the control message's length how many there are.
///
/// # Safety
/// `header` is as recvmsg(2) left it, its control buffer is alive, and this is called once for it.
unsafe fn take_fds(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the caller's promise; CMSG_FIRSTHDR checks the length.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: not null, so it points to a whole header inside of the control buffer.
        let head = unsafe { &*message };
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN only computes; CMSG_DATA points behind the header, into the buffer.
            let (empty, data) = unsafe { (libc::CMSG_LEN(0) as usize, libc::CMSG_DATA(message)) };
            let count = head.cmsg_len.saturating_sub(empty) / size_of::<RawFd>();
            for index in 0..count {
                // SAFETY: the kernel has written `count` descriptors there, maybe unaligned. They are new in this
                // process's table and nobody else knows them.
                fds.push(unsafe {
                    OwnedFd::from_raw_fd(ptr::read_unaligned(data.cast::<RawFd>().add(index)))
                });
            }
        }
        // SAFETY: `message` came from this header; CMSG_NXTHDR checks the length.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    fds
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        nix::unistd::pipe().unwrap()
    }

    fn ends(reader: OwnedFd) -> bool {
        // Every writing end is closed: a read does not wait.
        File::from(reader).read(&mut [0]).unwrap() == 0
    }

    #[test]
    fn bytes_and_descriptors_arrive_together() {
        let (a, b) = pair();
        let (reader, writer) = pipe();
        let parts = [IoSlice::new(b"head"), IoSlice::new(b"body")];
        send(a.as_fd(), &parts, &[writer.as_fd(), reader.as_fd()]).unwrap();
        let mut buffer = [0; 64];
        let message = receive(b.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..message.length], b"headbody");
        assert!(!message.fds_lost && !message.cut);
        assert_eq!(message.fds.len(), 2);
        for fd in &message.fds {
            let flags = FdFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
        nix::unistd::write(&message.fds[0], b"x").unwrap();
        drop((message, writer));
        let mut read = String::new();
        File::from(reader).read_to_string(&mut read).unwrap();
        assert_eq!(read, "x");
    }

    #[test]
    fn nothing_there_is_would_block_and_the_end_is_no_byte() {
        let (a, b) = pair();
        let error = receive(b.as_fd(), &mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut [0; 8]).unwrap().length, 0);
    }

    #[test]
    fn too_many_descriptors_are_told_and_none_stays_open() {
        let (a, b) = pair();
        let (reader, writer) = pipe();
        let many = [writer.as_fd(); MAX_FDS + 3];
        send(a.as_fd(), &[IoSlice::new(b"x")], &many).unwrap();
        let message = receive(b.as_fd(), &mut [0; 8]).unwrap();
        assert!(message.fds_lost);
        assert_eq!(message.fds.len(), MAX_FDS);
        drop((message, writer));
        assert!(ends(reader));
    }

    #[test]
    fn a_message_that_is_too_long_is_told_and_its_descriptor_is_not_lost() {
        let (a, b) = pair();
        let (reader, writer) = pipe();
        send(a.as_fd(), &[IoSlice::new(&[7; 100])], &[writer.as_fd()]).unwrap();
        let message = receive(b.as_fd(), &mut [0; 10]).unwrap();
        assert!(message.cut && !message.fds_lost);
        assert_eq!((message.length, message.fds.len()), (10, 1));
        drop((message, writer));
        assert!(ends(reader));
    }

    #[test]
    fn a_shortage_is_told_from_what_the_other_side_does() {
        let shortage = |errno: Errno| is_shortage(&errno.into());
        assert!(shortage(Errno::ETOOMANYREFS) && shortage(Errno::ENOBUFS));
        assert!(shortage(Errno::ENOMEM) && shortage(Errno::EMFILE) && shortage(Errno::ENFILE));
        let (a, b) = pair();
        let send = || send(a.as_fd(), &[IoSlice::new(&[7; 1000])], &[]);
        let full = (0..10_000).find_map(|_| send().err()).unwrap();
        assert!(full.kind() == io::ErrorKind::WouldBlock && !is_shortage(&full));
        drop(b);
        assert!(!is_shortage(&send().unwrap_err()), "it is gone");
        assert!(!is_shortage(&io::Error::other("a message of 70000 bytes")));
    }

    #[test]
    fn what_was_sent_before_a_reset_is_received_behind_it() {
        let (a, b) = pair();
        send(b.as_fd(), &[IoSlice::new(b"unread")], &[]).unwrap();
        send(a.as_fd(), &[IoSlice::new(b"one")], &[]).unwrap();
        send(a.as_fd(), &[IoSlice::new(b"two")], &[]).unwrap();
        // It closes with something unread: the other side's next call would say ECONNRESET.
        drop(a);
        let mut buffer = [0; 8];
        let error = send(b.as_fd(), &[IoSlice::new(b"x")], &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        for expected in ["one", "two", ""] {
            let length = receive(b.as_fd(), &mut buffer).unwrap().length;
            assert_eq!(&buffer[..length], expected.as_bytes());
        }
        let error = send(b.as_fd(), &[IoSlice::new(b"x")], &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
