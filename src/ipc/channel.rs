//! The typed channel between the arbiter and one worker: a pair of SOCK_SEQPACKET sockets, one message a
//! packet, JSON inside, so that a newer binary can talk to an older one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ipc::orders::Recycle;
use crate::worker::phase::Phase;

/// The largest message. What can grow (a reason, names) is cut before it is sent.
const MAX: usize = 64 * 1024;
/// The longest text inside a message.
pub(crate) const MAX_TEXT: usize = 8 * 1024;

/// What a worker tells the arbiter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    Entered {
        phase: Phase,
    },
    /// Why it is going to end.
    Failed {
        reason: String,
    },
    /// It has reached a limit, and serves on until its replacement does.
    Recycle {
        cause: Recycle,
    },
    /// The names of its app's payloads, in the order of registration.
    Payloads {
        names: Vec<String>,
    },
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What came out of a channel.
#[derive(Debug, PartialEq)]
pub(crate) enum Received<M> {
    Message(M),
    /// Nothing now.
    Empty,
    /// The other side is gone.
    Closed,
}

impl Channel {
    /// Both ends, non-blocking and close-on-exec.
    ///
    /// # Errors
    /// What socketpair(2) says.
    pub(crate) fn pair() -> io::Result<(Channel, Channel)> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Channel(a), Channel(b)))
    }

    /// Sends one message whole, or not at all. Never blocks.
    ///
    /// # Errors
    /// `WouldBlock`: the other side does not read. `BrokenPipe`: it is gone.
    pub(crate) fn send<M: Serialize>(&self, message: &M) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX {
            return Err(io::Error::other(format!(
                "a message of {} bytes",
                bytes.len()
            )));
        }
        loop {
            match send(self.0.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EINTR) => {}
                other => return other.map(drop).map_err(Into::into),
            }
        }
    }

    /// Takes the next message. Never blocks.
    ///
    /// # Errors
    /// A packet that is no message of this type, or what recv(2) says.
    pub(crate) fn receive<M: DeserializeOwned>(&self) -> io::Result<Received<M>> {
        let mut bytes = vec![0; MAX];
        loop {
            return match recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Ok(Received::Empty),
                Err(Errno::ECONNRESET) | Ok(0) => Ok(Received::Closed),
                Err(errno) => Err(errno.into()),
                Ok(length) => Ok(Received::Message(serde_json::from_slice(&bytes[..length])?)),
            };
        }
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// At most [`MAX_TEXT`] bytes of a text, cut at a character.
pub(crate) fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::orders::{Level, Order};

    #[test]
    fn messages_arrive_whole_and_in_order() {
        let (arbiter, worker) = Channel::pair().unwrap();
        assert_eq!(arbiter.receive::<Report>().unwrap(), Received::Empty);
        worker
            .send(&Report::Entered {
                phase: Phase::Loading,
            })
            .unwrap();
        let reason = "x".repeat(MAX_TEXT);
        worker
            .send(&Report::Failed {
                reason: reason.clone(),
            })
            .unwrap();
        arbiter.send(&Order::Stop(Level::Quick)).unwrap();
        assert_eq!(
            arbiter.receive().unwrap(),
            Received::Message(Report::Entered {
                phase: Phase::Loading
            })
        );
        assert_eq!(
            arbiter.receive().unwrap(),
            Received::Message(Report::Failed { reason })
        );
        assert_eq!(
            worker.receive().unwrap(),
            Received::Message(Order::Stop(Level::Quick))
        );
    }

    #[test]
    fn the_end_of_the_other_side_is_seen_after_its_last_message() {
        let (arbiter, worker) = Channel::pair().unwrap();
        worker
            .send(&Report::Entered {
                phase: Phase::Exited,
            })
            .unwrap();
        drop(worker);
        assert!(matches!(
            arbiter.receive::<Report>().unwrap(),
            Received::Message(_)
        ));
        assert_eq!(arbiter.receive::<Report>().unwrap(), Received::Closed);
        let error = arbiter.send(&Order::Serve).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_side_that_does_not_read_blocks_nobody() {
        let (arbiter, _worker) = Channel::pair().unwrap();
        let refused = (0..1_000_000).find_map(|_| arbiter.send(&Order::Serve).err());
        assert_eq!(
            refused.map(|error| error.kind()),
            Some(io::ErrorKind::WouldBlock)
        );
    }

    #[test]
    fn garbage_is_an_error_and_not_a_message() {
        let (arbiter, worker) = Channel::pair().unwrap();
        send(worker.as_raw_fd(), b"\"nonsense\"", MsgFlags::empty()).unwrap();
        assert!(arbiter.receive::<Report>().is_err());
    }

    #[test]
    fn a_cut_text_ends_at_a_character() {
        let text = "é".repeat(MAX_TEXT);
        let cut = cut(&text);
        assert!(cut.len() <= MAX_TEXT && cut.chars().all(|c| c == 'é'));
    }
}
