//! Bytes that travel as a descriptor and that nobody can change on the way, see memfd_create(2).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The bytes in a sealed memfd, close-on-exec.
///
/// # Errors
/// No memory, no descriptor.
pub(crate) fn write(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    write_all(name, &[bytes])
}

/// The same of several pieces, one behind the other.
///
/// # Errors
/// As for [`write`].
pub(crate) fn write_all(name: &str, pieces: &[&[u8]]) -> io::Result<OwnedFd> {
    let memfd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(memfd);
    for piece in pieces {
        file.write_all(piece)?;
    }
    fcntl(&file, FcntlArg::F_ADD_SEALS(all_seals()))?;
    Ok(file.into())
}

/// What is in a memfd that [`write`] made, if it is `length` bytes.
///
/// # Errors
/// It is not sealed, or has another length.
pub(crate) fn read(memfd: OwnedFd, length: usize) -> io::Result<Vec<u8>> {
    if self::length(memfd.as_fd())? != length {
        return Err(io::Error::other("the memfd has not the expected length"));
    }
    let file = File::from(memfd);
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// How many bytes are in a memfd that [`write`] made.
///
/// # Errors
/// It is no memfd, or is not sealed.
pub(crate) fn length(memfd: BorrowedFd<'_>) -> io::Result<usize> {
    let seals = SealFlag::from_bits_truncate(fcntl(memfd, FcntlArg::F_GET_SEALS)?);
    if !seals.contains(all_seals()) {
        return Err(io::Error::other("the memfd is not sealed"));
    }
    usize::try_from(nix::sys::stat::fstat(memfd)?.st_size).map_err(io::Error::other)
}

/// A memfd that grows record by record, and is sealed at last, close-on-exec. Who has a copy sees it grow.
#[derive(Debug)]
pub(crate) struct Growing {
    file: File,
    length: u64,
}

impl Growing {
    /// # Errors
    /// No descriptor.
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        let memfd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        Ok(Self {
            file: memfd.into(),
            length: 0,
        })
    }

    /// The whole record, or nothing of it.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all_at(record, self.length) {
            // What is left of it would be read as the beginning of the next one.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += record.len() as u64;
        Ok(())
    }

    /// Nothing more can be changed.
    ///
    /// # Errors
    /// What fcntl(2) says.
    pub(crate) fn seal(&self) -> io::Result<()> {
        fcntl(&self.file, FcntlArg::F_ADD_SEALS(all_seals()))?;
        Ok(())
    }
}

impl AsFd for Growing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What is in a [`Growing`] memfd, sealed or not.
///
/// # Errors
/// It is no memfd, or cannot be read.
pub(crate) fn read_grown(memfd: OwnedFd) -> io::Result<Vec<u8>> {
    fcntl(&memfd, FcntlArg::F_GET_SEALS)?;
    let file = File::from(memfd);
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
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
    fn what_grows_is_seen_by_whoever_has_a_copy_until_it_is_sealed() {
        let mut growing = Growing::new("test").unwrap();
        let copy = growing.as_fd().try_clone_to_owned().unwrap();
        growing.append(b"abc").unwrap();
        growing.append(b"def").unwrap();
        assert_eq!(read_grown(copy.try_clone().unwrap()).unwrap(), b"abcdef");
        growing.seal().unwrap();
        growing.append(b"x").unwrap_err();
        assert_eq!(read_grown(copy).unwrap(), b"abcdef");
        assert!(read_grown(nix::unistd::pipe().unwrap().0).is_err());
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
