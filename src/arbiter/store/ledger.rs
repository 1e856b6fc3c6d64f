//! What is known of the connections in the manager's store: a memory file that lies there beside them.
//!
//! ```text
//! {"version":1,"written_by":"0.1.0","passed":true}\n
//! length of the head, length of the bytes (32 bits each, little endian), head (JSON), bytes
//! …
//! ```
//!
//! A record is written when its connection belongs to this process alone and is in the store. So a connection
//! without a record may be somebody else's, and may not be served; one with a record is served from its bytes on. The
//! file is put into the store before the first connection, and grows there: it is true at every moment, also when
//! this process is killed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ipc::parcel::Parcel;
use crate::sys::sealed::{self, Growing};

/// Raised when an older program would read it wrongly. What is unknown inside a head is passed over.
const VERSION: u32 = 1;

/// The writer's side.
#[derive(Debug)]
pub(super) struct Ledger(Growing);

/// The reader's side.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Contents {
    /// The listeners were passed by the manager.
    pub(super) passed: bool,
    /// By the cookie of the socket, SO_COOKIE in socket(7): it stays the same in every copy.
    pub(super) records: BTreeMap<u64, Parcel>,
}

#[derive(Serialize, Deserialize)]
struct Beginning {
    version: u32,
    /// The program's version, for people.
    #[serde(default)]
    written_by: String,
    #[serde(default)]
    passed: bool,
}

#[derive(Serialize, Deserialize)]
struct Head<'a> {
    cookie: u64,
    listener: Cow<'a, str>,
    peer: Option<SocketAddr>,
    http1: bool,
    requests: u64,
}

impl Ledger {
    /// `passed`: the manager has passed the listeners of this service.
    ///
    /// # Errors
    /// No memory, no descriptors.
    pub(super) fn new(passed: bool) -> io::Result<Self> {
        let mut file = Growing::new("payload-connections")?;
        let beginning = Beginning {
            version: VERSION,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            passed,
        };
        let mut line = serde_json::to_vec(&beginning)?;
        line.push(b'\n');
        file.append(&line)?;
        Ok(Self(file))
    }

    /// # Errors
    /// No memory. Then there is no record of it.
    pub(super) fn append(&mut self, cookie: u64, parcel: &Parcel) -> io::Result<()> {
        let head = serde_json::to_vec(&Head {
            cookie,
            listener: parcel.listener.as_str().into(),
            peer: parcel.peer,
            http1: parcel.http1,
            requests: parcel.requests,
        })?;
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
        let mut record = Vec::with_capacity(8 + head.len() + parcel.unread.len());
        record.extend(length(&head)?.to_le_bytes());
        record.extend(length(&parcel.unread)?.to_le_bytes());
        record.extend(head);
        record.extend(&parcel.unread);
        self.0.append(&record)
    }

    /// There is nothing more to come.
    pub(super) fn seal(&self) {
        if let Err(error) = self.0.seal() {
            tracing::debug!(error = %error, "the ledger stays open");
        }
    }
}

impl AsFd for Ledger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads what can be read. The second is why that is not all.
pub(super) fn read(file: OwnedFd) -> (Contents, Option<String>) {
    let mut contents = Contents::default();
    let trouble = sealed::read_grown(file)
        .map_err(|error| error.to_string())
        .and_then(|bytes| contents.take(bytes.into()));
    (contents, trouble.err())
}

impl Contents {
    fn take(&mut self, mut bytes: Bytes) -> Result<(), String> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let line = bytes.split_to(end.ok_or("it has no beginning")? + 1);
        let beginning: Beginning =
            serde_json::from_slice(&line).map_err(|error| error.to_string())?;
        if beginning.version > VERSION {
            return Err(format!(
                "it is of version {}, written by payload {}",
                beginning.version, beginning.written_by
            ));
        }
        self.passed = beginning.passed;
        while !bytes.is_empty() {
            let (cookie, parcel) = record(&mut bytes).ok_or("it is cut off, or damaged")?;
            self.records.insert(cookie, parcel);
        }
        Ok(())
    }
}

fn record(bytes: &mut Bytes) -> Option<(u64, Parcel)> {
    let mut number = || {
        let (first, _) = bytes.split_first_chunk()?;
        let number = u32::from_le_bytes(*first);
        drop(bytes.split_to(4));
        usize::try_from(number).ok()
    };
    let (head, unread) = (number()?, number()?);
    if bytes.len() < head.checked_add(unread)? {
        return None;
    }
    let head = bytes.split_to(head);
    let unread = bytes.split_to(unread);
    let head: Head<'_> = serde_json::from_slice(&head).ok()?;
    let parcel = Parcel {
        id: 0,
        listener: head.listener.into_owned(),
        peer: head.peer,
        http1: head.http1,
        requests: head.requests,
        unread,
    };
    Some((head.cookie, parcel))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(requests: u64, unread: &'static [u8]) -> Parcel {
        Parcel {
            id: 0,
            listener: "http".into(),
            peer: Some("[::1]:7".parse().unwrap()),
            http1: requests > 0,
            requests,
            unread: Bytes::from_static(unread),
        }
    }

    fn written() -> (Ledger, BTreeMap<u64, Parcel>) {
        let mut ledger = Ledger::new(true).unwrap();
        let records = BTreeMap::from([
            (u64::MAX, parcel(3, b"GET / HT")),
            (5, parcel(0, b"")),
            (9, parcel(1, &[0, 255, b'\n'])),
        ]);
        for (cookie, parcel) in &records {
            ledger.append(*cookie, parcel).unwrap();
        }
        (ledger, records)
    }

    fn copy(ledger: &Ledger) -> OwnedFd {
        ledger.as_fd().try_clone_to_owned().unwrap()
    }

    fn file(bytes: &[u8]) -> OwnedFd {
        sealed::write("test", bytes).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let (ledger, records) = written();
        let whole = Contents {
            passed: true,
            records,
        };
        assert_eq!(read(copy(&ledger)), (whole, None));
        ledger.seal();
        assert_eq!(read(copy(&ledger)).1, None);
    }

    #[test]
    fn of_one_that_is_cut_off_the_whole_records_are_read() {
        let (ledger, records) = written();
        let bytes = sealed::read_grown(copy(&ledger)).unwrap();
        let mut counts = Vec::new();
        for length in 0..bytes.len() {
            let (contents, trouble) = read(file(&bytes[..length]));
            for (cookie, parcel) in &contents.records {
                assert_eq!(parcel, &records[cookie]);
            }
            counts.push((contents.records.len(), trouble.is_some()));
        }
        counts.dedup();
        // Between two records nothing tells that there was more.
        let expected = [
            (0, true),
            (0, false),
            (0, true),
            (1, false),
            (1, true),
            (2, false),
            (2, true),
        ];
        assert_eq!(counts, expected);
    }

    #[test]
    fn one_of_a_newer_version_or_without_sense_is_not_read() {
        for (text, why) in [
            (
                "{\"version\":2,\"written_by\":\"9.9\",\"other\":[]}\n",
                "9.9",
            ),
            ("{\"version\":2}\nwhatever", "of version 2"),
            ("{\"version\":1", "no beginning"),
            ("nonsense\n", "expected"),
            ("", "no beginning"),
            ("{\"version\":1}\n\0\0\0\x01\0\0\0\0{}", "cut off"),
            ("{\"version\":1}\n\x02\0\0\0\0\0\0\0{}", "damaged"),
        ] {
            let (contents, trouble) = read(file(text.as_bytes()));
            assert!(trouble.is_some_and(|text| text.contains(why)), "{text}");
            assert!(contents.records.is_empty());
        }
        let (pipe, _) = nix::unistd::pipe().unwrap();
        assert!(read(pipe).1.is_some());
    }

    #[test]
    fn what_a_newer_program_adds_to_a_head_is_passed_over() {
        let head =
            r#"{"cookie":7,"listener":"a\"b","peer":null,"http1":true,"requests":2,"new":1}"#;
        let mut bytes = b"{\"version\":1,\"new\":{}}\n".to_vec();
        bytes.extend(u32::try_from(head.len()).unwrap().to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(head.as_bytes());
        bytes.push(b'x');
        let (contents, trouble) = read(file(&bytes));
        assert_eq!(trouble, None);
        let parcel = &contents.records[&7];
        assert_eq!((parcel.listener.as_str(), parcel.requests), ("a\"b", 2));
        assert_eq!(&parcel.unread[..], b"x");
    }
}
