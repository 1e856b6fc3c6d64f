//! What one holder of a lease leaves to the next: bytes in a sealed memory file that says whose they are.
//!
//! ```text
//! {"version":1,"payload":"sampler","slot":null,"length":5}\n
//! bytes
//! ```
//!
//! The same file goes from the worker to the arbiter, to the next worker, over an exec and through the service
//! manager's store: nobody has to copy it, and it is read only where somebody asks for it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::sys::sealed;

/// So many bytes can a payload keep.
pub(crate) const MOST: usize = 16 << 20;
/// The longest first line. What can be long in it is the payload's name.
const MAX_LINE: usize = 64 << 10;
/// Raised when an older program would read it wrongly. What is unknown in the first line is passed over.
const VERSION: u32 = 1;

/// The bytes that were left for one lease.
#[derive(Debug)]
pub(crate) struct Kept {
    memfd: File,
    payload: String,
    /// `None`: the whole service's.
    slot: Option<u32>,
    /// Where the bytes begin.
    start: usize,
    length: usize,
}

#[derive(Serialize, Deserialize)]
struct Line {
    version: u32,
    payload: String,
    slot: Option<u32>,
    length: usize,
}

impl Kept {
    /// # Errors
    /// No memory, no descriptor.
    pub(crate) fn write(payload: &str, slot: Option<u32>, bytes: &[u8]) -> io::Result<Self> {
        let mut line = serde_json::to_vec(&Line {
            version: VERSION,
            payload: payload.to_owned(),
            slot,
            length: bytes.len(),
        })?;
        line.push(b'\n');
        if line.len() > MAX_LINE {
            return Err(io::Error::other("the payload's name is too long"));
        }
        Ok(Self {
            memfd: sealed::write_all("payload-kept", &[&line, bytes])?.into(),
            payload: payload.to_owned(),
            slot,
            start: line.len(),
            length: bytes.len(),
        })
    }

    /// One that came from elsewhere.
    ///
    /// # Errors
    /// It can still be changed, is too long, or is none.
    pub(crate) fn adopt(memfd: OwnedFd) -> io::Result<Self> {
        let size = sealed::length(memfd.as_fd())?;
        let file = File::from(memfd);
        let mut beginning = vec![0; size.min(MAX_LINE)];
        file.read_exact_at(&mut beginning, 0)?;
        let end = beginning.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| io::Error::other("it has no beginning"))?;
        let line: Line = serde_json::from_slice(&beginning[..end])?;
        if line.version > VERSION {
            return Err(io::Error::other(format!(
                "it is of version {}",
                line.version
            )));
        }
        let start = end + 1;
        if line.length > MOST || line.length != size - start {
            return Err(io::Error::other("it has not the expected length"));
        }
        Ok(Self {
            memfd: file,
            payload: line.payload,
            slot: line.slot,
            start,
            length: line.length,
        })
    }

    pub(crate) fn payload(&self) -> &str {
        &self.payload
    }

    pub(crate) fn slot(&self) -> Option<u32> {
        self.slot
    }

    /// How many bytes there are.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// # Errors
    /// What pread(2) says.
    pub(crate) fn bytes(&self) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.length];
        self.memfd.read_exact_at(&mut bytes, self.start as u64)?;
        Ok(bytes.into())
    }
}

impl AsFd for Kept {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(kept: &Kept) -> OwnedFd {
        kept.as_fd().try_clone_to_owned().unwrap()
    }

    fn refusal(memfd: OwnedFd) -> String {
        Kept::adopt(memfd).unwrap_err().to_string()
    }

    #[test]
    fn what_was_kept_is_read_by_whoever_gets_it() {
        let long = vec![b'\n'; 100_000];
        for (slot, bytes) in [(None, &b"abc\n"[..]), (Some(7), b""), (Some(0), &long)] {
            let kept = Kept::write("a \"b\"\n", slot, bytes).unwrap();
            assert_eq!(kept.bytes().unwrap(), bytes);
            let adopted = Kept::adopt(copy(&kept)).unwrap();
            assert_eq!((adopted.payload(), adopted.slot()), ("a \"b\"\n", slot));
            assert_eq!(adopted.length(), bytes.len());
            assert_eq!(adopted.bytes().unwrap(), bytes);
            assert_eq!(adopted.bytes().unwrap(), bytes, "and again");
        }
    }

    #[test]
    fn what_is_none_or_could_change_is_not_taken() {
        let file = |text: &str| sealed::write_all("test", &[text.as_bytes()]).unwrap();
        let line = |version, length| {
            format!(
                r#"{{"version":{version},"payload":"p","slot":null,"length":{length},"new":0}}"#
            )
        };
        assert!(Kept::adopt(file(&(line(1, 2) + "\nab"))).is_ok());
        assert!(refusal(file(&(line(2, 2) + "\nab"))).contains("version 2"));
        for length in [1, 3, MOST + 1] {
            assert!(refusal(file(&(line(1, length) + "\nab"))).contains("length"));
        }
        assert!(refusal(file(&line(1, 0))).contains("no beginning"));
        assert!(refusal(file("")).contains("no beginning"));
        refusal(file("nonsense\nab"));
        let growing = sealed::Growing::new("test").unwrap();
        let open = growing.as_fd().try_clone_to_owned().unwrap();
        assert!(refusal(open).contains("not sealed"));
        refusal(nix::unistd::pipe().unwrap().0);
    }

    #[test]
    fn the_longest_is_whole() {
        let bytes = vec![7; MOST];
        let kept = Kept::write("p", None, &bytes).unwrap();
        assert_eq!(Kept::adopt(copy(&kept)).unwrap().bytes().unwrap(), bytes);
        let longer = Kept::write("p", None, &vec![7; MOST + 1]).unwrap();
        assert!(refusal(copy(&longer)).contains("length"));
    }
}
