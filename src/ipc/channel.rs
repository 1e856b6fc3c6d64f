//! The typed channel between the arbiter and one worker: a pair of SOCK_SEQPACKET sockets, one message a
//! packet, JSON inside, so that a newer binary can talk to an older one.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::events::LifecycleEvent;
use crate::ipc::orders::Recycle;
use crate::lease::Released;
use crate::lenient;
use crate::moment::Moment;
use crate::status::Scope;
use crate::sys::passing;
use crate::worker::phase::Phase;

/// The largest message. What can grow is small before: reasons are cut, and names of payloads and of topics that are too
/// long are refused.
const MAX: usize = 64 * 1024;
/// The longest text inside a message.
pub(crate) const MAX_TEXT: usize = 8 * 1024;

/// See [`Channel::has_room`]. Of what unix(7) sockets take by default it is a third.
const HIGH_WATER: usize = 64 << 10;

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
    /// The names of its app's payloads, in the order of registration, and their scopes in the same order. One whose
    /// scope is not known here gets no lease; the others do.
    Payloads {
        names: Vec<String>,
        #[serde(default, deserialize_with = "lenient::places")]
        scopes: Vec<Scope>,
        /// The places of those that can be started only once in this worker.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        once: Vec<u32>,
    },
    /// A lease is free again, since then. The last that is said about this epoch: it counts, however it came about.
    Released {
        payload: u32,
        epoch: u64,
        #[serde(deserialize_with = "lenient::value")]
        how: Released,
        at: Moment,
    },
    /// The holder of a lease has kept what is passed with this. It replaces what was kept before.
    Kept {
        payload: u32,
        epoch: u64,
    },
    /// It accepts nothing; what it has accepted is on the scoreboard. The number is that of the order.
    Paused {
        round: u64,
    },
    /// It was told of that worker, and its mailbox did not come along.
    Unmet {
        worker: u64,
    },
    /// It leaves, and that worker has not got so many of its messages, by their topics.
    Unsent {
        worker: u64,
        #[serde(default, deserialize_with = "lenient::list")]
        topics: Vec<(String, u64)>,
    },
    /// A lifecycle event of this worker, for everybody. Its number is the arbiter's to give.
    Happened {
        event: Box<LifecycleEvent>,
    },
}

/// A message that is ready to be sent, now or later, to one or to many.
#[derive(Debug, PartialEq)]
pub(crate) struct Packet(Vec<u8>);

impl Packet {
    /// # Errors
    /// It is too long.
    pub(crate) fn of<M: Serialize>(message: &M) -> io::Result<Self> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX {
            return Err(io::Error::other(format!(
                "a message of {} bytes, and {MAX} is the limit",
                bytes.len()
            )));
        }
        Ok(Self(bytes))
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What came out of a channel.
#[derive(Debug, PartialEq)]
pub(crate) enum Received<M> {
    Message(M),
    /// Something that is no message of this type, and why: a newer program may say more than is known here.
    Unreadable(String),
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
        self.write(message, &[])
    }

    /// The same with a message that was made before.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub(crate) fn send_packet(&self, packet: &Packet) -> io::Result<()> {
        self.pass(packet, &[])
    }

    /// The same with a descriptor, of which the other side gets a copy.
    ///
    /// # Errors
    /// As for [`send`](Self::send); and ETOOMANYREFS, see unix(7).
    pub(crate) fn send_with<M: Serialize>(
        &self,
        message: &M,
        fd: BorrowedFd<'_>,
    ) -> io::Result<()> {
        self.write(message, &[fd])
    }

    /// How much the other side has not taken yet, in bytes of the kernel's memory.
    pub(crate) fn unsent(&self) -> io::Result<usize> {
        passing::unsent(self.0.as_fd())
    }

    /// Whether there is room for what can be left out or put off. An arbiter that has not read so much yet is given
    /// nothing more of that: what must be said, that a lease is free for example, needs the room.
    pub(crate) fn has_room(&self) -> bool {
        self.unsent().is_ok_and(|bytes| bytes <= HIGH_WATER)
    }

    /// Takes the next message, with the descriptor that came with it; `None` also where this process had no room for it.
    /// Never blocks.
    ///
    /// # Errors
    /// What recvmsg(2) says.
    pub(crate) fn receive_with<M: DeserializeOwned>(
        &self,
    ) -> io::Result<(Received<M>, Option<OwnedFd>)> {
        let mut bytes = vec![0; MAX];
        let message = match passing::receive(self.0.as_fd(), &mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok((Received::Empty, None));
            }
            other => other?,
        };
        if message.length == 0 {
            return Ok((Received::Closed, None));
        }
        let received = match serde_json::from_slice(&bytes[..message.length]) {
            Ok(message) => Received::Message(message),
            Err(error) => Received::Unreadable(error.to_string()),
        };
        Ok((received, message.fds.into_iter().next()))
    }

    /// Nothing more is taken from the other side; what it has sent is still here, and after that the end.
    pub(crate) fn refuse_more(&self) {
        // One that cannot be shut down has no other side any more.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Read);
    }

    fn write<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.pass(&Packet::of(message)?, fds)
    }

    fn pass(&self, Packet(bytes): &Packet, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        passing::send(self.0.as_fd(), &[IoSlice::new(bytes)], fds)
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
    use crate::status::{PAYLOAD_NAME, PAYLOADS};

    impl Channel {
        fn receive<M: DeserializeOwned>(&self) -> io::Result<Received<M>> {
            self.receive_with().map(|(received, _)| received)
        }
    }

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
    fn a_descriptor_arrives_with_its_message_and_with_no_other() {
        let (arbiter, worker) = Channel::pair().unwrap();
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        arbiter.send(&Order::Serve).unwrap();
        let order = Order::Receive { from: 3 };
        arbiter.send_with(&order, near.as_fd()).unwrap();
        drop(near);
        let (first, none) = worker.receive_with().unwrap();
        assert_eq!(
            (first, none.is_none()),
            (Received::Message(Order::Serve), true)
        );
        let (second, fd) = worker.receive_with().unwrap();
        assert_eq!(second, Received::Message(order));
        io::Write::write_all(&mut std::os::unix::net::UnixStream::from(fd.unwrap()), b"x").unwrap();
        assert_eq!(io::read_to_string(far).unwrap(), "x");
    }

    #[test]
    fn the_last_messages_of_a_side_that_left_orders_unread_are_received() {
        let (arbiter, worker) = Channel::pair().unwrap();
        arbiter.send(&Order::Serve).unwrap();
        let last = Report::Failed {
            reason: "why".to_owned(),
        };
        worker.send(&last).unwrap();
        drop(worker);
        assert_eq!(arbiter.receive().unwrap(), Received::Message(last));
        assert_eq!(arbiter.receive::<Report>().unwrap(), Received::Closed);
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
    fn what_is_not_known_here_is_no_message_and_no_end() {
        let (arbiter, worker) = Channel::pair().unwrap();
        worker.send(&"nonsense").unwrap();
        let report = Report::Paused { round: 1 };
        worker.send(&report).unwrap();
        let first = arbiter.receive::<Report>().unwrap();
        assert!(matches!(first, Received::Unreadable(_)), "{first:?}");
        assert_eq!(arbiter.receive().unwrap(), Received::Message(report));
    }

    #[test]
    fn who_is_refused_has_said_what_it_has_said_and_says_no_more() {
        let (arbiter, worker) = Channel::pair().unwrap();
        let report = Report::Paused { round: 1 };
        worker.send(&report).unwrap();
        arbiter.refuse_more();
        let error = worker.send(&report).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(arbiter.receive().unwrap(), Received::Message(report));
        assert_eq!(arbiter.receive::<Report>().unwrap(), Received::Closed);
    }

    /// Each byte of a name may take six in JSON.
    #[test]
    fn as_many_payloads_as_there_can_be_with_the_longest_names_are_one_message() {
        let names = vec!["\u{1}".repeat(PAYLOAD_NAME); PAYLOADS];
        let report = Report::Payloads {
            names,
            scopes: vec![Scope::Service; PAYLOADS],
            once: vec![u32::MAX; PAYLOADS],
        };
        assert!(Packet::of(&report).is_ok());
    }

    #[test]
    fn a_message_that_is_too_large_is_an_error_that_says_so() {
        let reason = "x".repeat(MAX);
        let error = Packet::of(&Report::Failed { reason }).unwrap_err();
        assert!(error.to_string().contains("65536 is the limit"), "{error}");
    }

    #[test]
    fn a_cut_text_ends_at_a_character() {
        let text = "é".repeat(MAX_TEXT);
        let cut = cut(&text);
        assert!(cut.len() <= MAX_TEXT && cut.chars().all(|c| c == 'é'));
    }
}
