//! A link: the way of open connections from one process of the service to another.
//!
//! A pair of SOCK_SEQPACKET sockets. One packet is one message: the length of a JSON head, the head, raw bytes.
//! The one side sends [`Parcel`]s, each with its socket; the other answers each with [`Answer::Taken`] or
//! [`Answer::Refused`].
//!
//! # Contract
//! 1. The sender keeps its own descriptor of the socket until the answer, and does not use it. It takes the
//!    connection back when the parcel is refused or when the link has ended without an answer, never on a
//!    timeout: there must not be two readers.
//! 2. The receiver answers *before* it first reads the socket. An answer that fails since the sender is gone
//!    changes nothing: the connection is the receiver's. After any other failure it gives the connection up and
//!    closes the link. One that leaves closes the link instead of answering.
//! 3. A message from a newer program is refused where it can be understood far enough, else the link is
//!    closed. What is unknown inside a head is passed over.
//!
//! Nothing here waits or knows a runtime, so that every process of the service can be an end.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::Bytes;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};

use crate::sys::{passing, sealed};

/// Of parcels. Raised when an older program would serve one wrongly.
const VERSION: u32 = 1;
/// Unread bytes up to this many are in the message itself, more are in a memfd.
const INLINE: usize = 32 * 1024;
/// The head of a message. What can be long in it is a listener's name.
const MAX_HEAD: usize = 4 * 1024;
/// What is taken of unread bytes. hyper's buffer holds less.
const MAX_BYTES: usize = 8 << 20;

/// A connection on its way, but for its socket.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parcel {
    /// Unique on its link.
    pub(crate) id: u64,
    /// The name of the listening socket that it came from.
    pub(crate) listener: String,
    /// Who is at the other end; `None` on a Unix socket.
    pub(crate) peer: Option<SocketAddr>,
    /// It speaks HTTP/1.1. If not, that is not known yet.
    pub(crate) http1: bool,
    /// Requests that it has made so far.
    pub(crate) requests: u64,
    /// What was read of the socket and belongs to requests that are not answered.
    pub(crate) unread: Bytes,
}

/// What becomes of a parcel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// The connection is the receiver's.
    Taken { id: u64 },
    /// It is still the sender's. The arbiter says so of number 0, which no parcel has, when it takes no more.
    Refused { id: u64, reason: String },
}

/// What came out of a link at the receiver's end.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// To be answered.
    Parcel(Parcel, OwnedFd),
    /// To be refused: its socket did not come along, or a newer program sent it.
    Unusable { id: u64, reason: &'static str },
    /// Nothing now.
    Empty,
    /// The sender is gone.
    Closed,
}

/// What came out of a link at the sender's end.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    Answer(Answer),
    /// Something that is no answer, and why. Only the receiver's end says that it will not serve what it was sent.
    Unreadable(String),
    /// Nothing now.
    Empty,
    /// The receiver is gone, and has said all that it ever will.
    Closed,
}

/// One end of a link. `F` is what keeps its descriptor.
#[derive(Debug)]
pub(crate) struct Link<F = OwnedFd>(F);

impl Link {
    /// Both ends, non-blocking and close-on-exec.
    ///
    /// # Errors
    /// What socketpair(2) says.
    pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        Ok(socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            flags,
        )?)
    }
}

impl<F: AsFd> Link<F> {
    /// Over an end that [`pair`](Link::pair) made.
    pub(crate) fn over(end: F) -> Self {
        Self(end)
    }

    pub(crate) fn channel(&self) -> &F {
        &self.0
    }

    /// Sends a parcel with its socket whole, or not at all.
    ///
    /// # Errors
    /// `WouldBlock`: the link is full. ETOOMANYREFS: too many descriptors are on their way. EPIPE: the receiver
    /// is gone; its answers to what was sent before may still be here. Else what sendmsg(2) says.
    pub(crate) fn send(&self, parcel: &Parcel, socket: BorrowedFd<'_>) -> io::Result<()> {
        let aside = (parcel.unread.len() > INLINE)
            .then(|| sealed::write("payload-unread", &parcel.unread))
            .transpose()?;
        let head = Head {
            version: Some(VERSION),
            id: parcel.id,
            what: What::Parcel {
                listener: parcel.listener.as_str().into(),
                peer: parcel.peer,
                http1: parcel.http1,
                requests: parcel.requests,
                unread: parcel.unread.len(),
                aside: aside.is_some(),
            },
        };
        match &aside {
            None => self.write(&head, &parcel.unread, &[socket]),
            Some(memfd) => self.write(&head, &[], &[socket, memfd.as_fd()]),
        }
    }

    /// # Errors
    /// `WouldBlock`: the sender does not read. EPIPE: it is gone. Else what sendmsg(2) says.
    pub(crate) fn answer(&self, answer: &Answer) -> io::Result<()> {
        let (id, what) = match answer {
            Answer::Taken { id } => (*id, What::Taken {}),
            Answer::Refused { id, reason } => (
                *id,
                What::Refused {
                    reason: reason.as_str().into(),
                },
            ),
        };
        let head = Head {
            version: None,
            id,
            what,
        };
        self.write(&head, &[], &[])
    }

    /// The next parcel.
    ///
    /// # Errors
    /// What came cannot be read, not even to be refused. The link is to be closed.
    pub(crate) fn receive(&self) -> io::Result<Incoming> {
        let mut buffer = vec![0; size_of::<u32>() + MAX_HEAD + INLINE];
        let Some(message) = self.read(&mut buffer)? else {
            return Ok(Incoming::Empty);
        };
        if message.length == 0 {
            return Ok(Incoming::Closed);
        }
        if message.cut {
            return Err(unreadable("a packet that is too long"));
        }
        let (head, bytes) = split(&buffer[..message.length])?;
        let beginning: Beginning = serde_json::from_slice(head)?;
        let id = beginning.id;
        if beginning.version.is_none_or(|version| version > VERSION) {
            return Ok(Incoming::Unusable {
                id,
                reason: "a newer program sent it",
            });
        }
        if message.fds_lost {
            return Ok(Incoming::Unusable {
                id,
                reason: "no descriptor is left for it",
            });
        }
        let head: Head<'_> = serde_json::from_slice(head)?;
        let What::Parcel {
            listener,
            peer,
            http1,
            requests,
            unread,
            aside,
        } = head.what
        else {
            return Err(unreadable("an answer instead of a parcel"));
        };
        let mut fds = message.fds.into_iter();
        let (Some(socket), memfd) = (fds.next(), fds.next()) else {
            return Ok(Incoming::Unusable {
                id,
                reason: "it came without its socket",
            });
        };
        let unread = match (aside, memfd) {
            (false, _) if unread == bytes.len() => Bytes::copy_from_slice(bytes),
            (true, Some(memfd)) if unread <= MAX_BYTES => match sealed::read(memfd, unread) {
                Ok(bytes) => bytes.into(),
                Err(_) => {
                    return Ok(Incoming::Unusable {
                        id,
                        reason: "its unread bytes cannot be had",
                    });
                }
            },
            _ => {
                return Ok(Incoming::Unusable {
                    id,
                    reason: "its unread bytes did not come with it",
                });
            }
        };
        let parcel = Parcel {
            id,
            listener: listener.into_owned(),
            peer,
            http1,
            requests,
            unread,
        };
        Ok(Incoming::Parcel(parcel, socket))
    }

    /// The next answer.
    ///
    /// # Errors
    /// What recvmsg(2) says. It may say it again at once.
    pub(crate) fn outcome(&self) -> io::Result<Outcome> {
        let mut buffer = [0; size_of::<u32>() + MAX_HEAD];
        let Some(message) = self.read(&mut buffer)? else {
            return Ok(Outcome::Empty);
        };
        if message.length == 0 {
            return Ok(Outcome::Closed);
        }
        Ok(match answer(&buffer[..message.length]) {
            Ok(answer) => Outcome::Answer(answer),
            Err(error) => Outcome::Unreadable(error.to_string()),
        })
    }

    fn write(&self, head: &Head<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let head = serde_json::to_vec(head)?;
        if head.len() > MAX_HEAD {
            return Err(io::Error::other("the head of a message is too long"));
        }
        let length = u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes();
        let parts = [&length[..], &head, bytes].map(IoSlice::new);
        passing::send(self.0.as_fd(), &parts, fds)
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<passing::Message>> {
        match passing::receive(self.0.as_fd(), buffer) {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What every message begins with, in every version.
#[derive(Deserialize)]
struct Beginning {
    version: Option<u32>,
    id: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head<'a> {
    /// Of a parcel; answers have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    id: u64,
    #[serde(flatten, borrow)]
    what: What<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What<'a> {
    Parcel {
        listener: std::borrow::Cow<'a, str>,
        peer: Option<SocketAddr>,
        http1: bool,
        requests: u64,
        /// How many bytes are unread.
        unread: usize,
        /// They are in a memfd.
        aside: bool,
    },
    Taken {},
    Refused {
        reason: std::borrow::Cow<'a, str>,
    },
}

fn answer(packet: &[u8]) -> io::Result<Answer> {
    let (head, _) = split(packet)?;
    let head: Head<'_> = serde_json::from_slice(head)?;
    match head.what {
        What::Taken {} => Ok(Answer::Taken { id: head.id }),
        What::Refused { reason } => Ok(Answer::Refused {
            id: head.id,
            reason: reason.into_owned(),
        }),
        What::Parcel { .. } => Err(unreadable("a parcel instead of an answer")),
    }
}

/// The head and what follows it.
fn split(packet: &[u8]) -> io::Result<(&[u8], &[u8])> {
    let too_short = || unreadable("a packet that is too short");
    let (length, rest) = packet.split_first_chunk().ok_or_else(too_short)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    rest.split_at_checked(length).ok_or_else(too_short)
}

fn unreadable(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
