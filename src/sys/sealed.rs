//! Bytes that travel as a descriptor and that nobody can change on the way, see memfd_create(2).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The bytes in a sealed memfd, close-on-exec.
///
/// # Errors
/// No memory, no descriptor.
pub(crate) fn write(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let memfd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(memfd);
    file.write_all(bytes)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(all_seals()))?;
    Ok(file.into())
}

/// What is in a memfd that [`write`] made, if it is `length` bytes.
///
/// # Errors
/// It is not sealed, or has another length.
pub(crate) fn read(memfd: OwnedFd, length: usize) -> io::Result<Vec<u8>> {
    let seals = SealFlag::from_bits_truncate(fcntl(&memfd, FcntlArg::F_GET_SEALS)?);
    if !seals.contains(all_seals()) {
        return Err(io::Error::other("the memfd is not sealed"));
    }
    let file = File::from(memfd);
    if file.metadata()?.len() != length as u64 {
        return Err(io::Error::other("the memfd has not the expected length"));
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn all_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_cannot_be_changed() {
        let memfd = write("test", b"abc").unwrap();
        let file = File::from(memfd.try_clone().unwrap());
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.set_len(1).is_err());
        assert_eq!(read(memfd, 3).unwrap(), b"abc");
    }

    #[test]
    fn another_length_or_no_seal_is_an_error() {
        assert!(read(write("test", b"abc").unwrap(), 4).is_err());
        let open = memfd_create("test", MFdFlags::MFD_CLOEXEC).unwrap();
        assert!(read(open, 0).is_err());
        let (pipe, _) = nix::unistd::pipe().unwrap();
        assert!(read(pipe, 0).is_err());
    }
}
