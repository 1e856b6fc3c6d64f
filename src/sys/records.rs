//! Reading log records that another layer has written into a local socket pair, as bytes or as a memfd.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, setsockopt,
    socketpair, sockopt,
};

/// The largest record that travels as bytes; the writer puts larger ones into a memfd, since the pair's send
/// buffer is no larger than this.
const LARGEST: usize = 16 * 1024;

/// A connected pair that keeps the boundaries of records: what is written into the first comes out of the
/// second. Both are close-on-exec.
///
/// # Errors
/// No descriptor, no memory.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (inlet, outlet) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    // The kernel doubles the value (socket(7)): twice this is LARGEST, and unix(7) refuses what is larger.
    setsockopt(&inlet, sockopt::SndBuf, &(LARGEST / 2))?;
    Ok((inlet, outlet))
}

/// Takes one record. Never waits: `None` when there is none.
///
/// # Errors
/// The record cannot be read; it is gone.
pub(crate) fn take(outlet: impl AsFd) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = [0; LARGEST];
    let mut control = nix::cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = match recvmsg::<()>(
        outlet.as_fd().as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
    ) {
        Ok(received) => received,
        Err(nix::errno::Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (length, flags) = (received.bytes, received.flags);
    let passed = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(raw) => raw.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel has just put this descriptor into our table, and nobody else knows it; the control
    // buffer has room for one, so none is forgotten.
    let memfd = passed.map(|raw| unsafe { OwnedFd::from_raw_fd(raw) });
    if let Some(memfd) = memfd {
        return read_all(memfd).map(Some);
    }
    if flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::other(
            "the record is larger than the socket pair allows",
        ));
    }
    Ok(Some(bytes[..length].to_vec()))
}

/// The writer left the file's position at its end.
fn read_all(memfd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(memfd);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessage, send, sendmsg};
    use std::io::Write;

    #[test]
    fn records_come_out_one_by_one_and_then_none() {
        let (inlet, outlet) = pair().unwrap();
        for record in [&b"first"[..], b"second"] {
            send(inlet.as_raw_fd(), record, MsgFlags::empty()).unwrap();
        }
        assert_eq!(take(&outlet).unwrap().unwrap(), b"first");
        assert_eq!(take(&outlet).unwrap().unwrap(), b"second");
        assert_eq!(take(&outlet).unwrap(), None);
    }

    #[test]
    fn what_does_not_fit_into_the_buffer_is_refused_to_its_writer() {
        let (inlet, outlet) = pair().unwrap();
        let fits = vec![b'x'; LARGEST - 32];
        send(inlet.as_raw_fd(), &fits, MsgFlags::empty()).unwrap();
        assert_eq!(take(&outlet).unwrap().unwrap().len(), fits.len());
        assert_eq!(
            send(inlet.as_raw_fd(), &[b'x'; LARGEST + 1], MsgFlags::empty()),
            Err(nix::errno::Errno::EMSGSIZE)
        );
    }

    #[test]
    fn a_record_in_a_memfd_is_read_from_its_start() {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let (inlet, outlet) = pair().unwrap();
        let mut file = File::from(memfd_create("record", MFdFlags::MFD_CLOEXEC).unwrap());
        file.write_all(&[b'y'; 100_000]).unwrap();
        let fds = [file.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(inlet.as_raw_fd(), &[], &rights, MsgFlags::empty(), None).unwrap();
        assert_eq!(take(&outlet).unwrap().unwrap(), [b'y'; 100_000]);
    }
}
