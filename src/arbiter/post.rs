//! The workers' mailboxes: the arbiter makes them and tells everybody, and reads and writes none.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use socket2::SockRef;

use super::core::WorkerId;
use super::news::has_room;
use super::seats::Child;
use super::shell::Shell;
use crate::ipc::bulletin::{Bulletin, Told};
use crate::ipc::channel::Channel;
use crate::ipc::orders::Order;
use crate::messages::Tally;

/// Bytes of unread packets, as the kernel counts them; it gives no more than net.core.wmem_max allows, socket(7).
const ROOM: usize = 1024 * 1024;

/// Bytes of the kernel's memory that may wait in the channel of a worker that is still told of others: it has to hold
/// orders too.
const LEFT_UNREAD: usize = 64 * 1024;

/// A new one: the end to write to, and the end to read.
///
/// # Errors
/// What socketpair(2) says.
pub(super) fn mailbox() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (writer, reader) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    SockRef::from(&writer).set_send_buffer_size(ROOM)?;
    Ok((writer, reader))
}

impl Shell {
    /// Gives the mailbox of a worker to all others that know messages. What they publish before they have heard this,
    /// they keep for it: they see on the scoreboard that it is there. (Those of older programs do not look there.)
    pub(super) fn introduce(&mut self, worker: WorkerId, mailbox: &OwnedFd) {
        let knows_messages = |child: &Child| child.mailbox.is_some();
        for (other, child) in self.children.iter_mut() {
            let Some(channel) = child.channel.as_ref().filter(|_| knows_messages(child)) else {
                continue;
            };
            if let Err(error) = tell(channel, worker, mailbox, false) {
                tracing::warn!(payload_worker = other.0, about = worker.0, error = %error, "a worker could not be told of another one: until it is, its messages to that one wait");
                child.unmet.insert(worker);
            }
        }
    }

    /// Another chance for those who could not be told of everybody.
    pub(super) fn introduce_again(&mut self) {
        let mut met = Vec::new();
        for (id, child) in self.children.iter() {
            for other in &child.unmet {
                let its = self.children.get(*other);
                let told = match (&child.channel, its.and_then(|its| its.mailbox.as_ref())) {
                    (Some(channel), Some(mailbox)) => tell(channel, *other, mailbox, true).is_ok(),
                    // One of the two is gone.
                    _ => true,
                };
                if told {
                    met.push((id, *other));
                }
            }
        }
        for (id, other) in met {
            if let Some(child) = self.children.get_mut(id) {
                child.unmet.remove(&other);
            }
        }
    }
}

impl Shell {
    /// Tells workers of messages that they will not get, since those are gone that had still to send them. Who does not
    /// listen is told later.
    pub(super) fn tell_unsent(&mut self) {
        for (_, child) in self.children.iter_mut() {
            if let Some(channel) = &child.channel {
                tell_unsent(channel, &mut child.unsent);
            }
        }
    }
}

/// What is told is forgotten.
fn tell_unsent(channel: &Channel, unsent: &mut Tally) {
    if unsent.is_empty() || !has_room(channel) {
        return;
    }
    let bulletin = Bulletin {
        unsent: unsent.list(),
        ..Bulletin::default()
    };
    if channel.send(&Told::Bulletin(Box::new(bulletin))).is_ok() {
        unsent.take();
    }
}

/// # Errors
/// `WouldBlock`: the worker does not listen. What sendmsg(2) says.
fn tell(channel: &Channel, worker: WorkerId, mailbox: &OwnedFd, late: bool) -> io::Result<()> {
    if channel.unsent()? > LEFT_UNREAD {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let order = Order::Peer {
        worker: worker.0,
        late,
    };
    channel.send_with(&order, mailbox.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::channel::Received;

    #[test]
    fn who_does_not_listen_is_told_of_some_and_can_still_get_an_order() {
        let (arbiter, _worker) = Channel::pair().unwrap();
        let (mailbox, _reader) = mailbox().unwrap();
        let told =
            (0..10_000).take_while(|n| tell(&arbiter, WorkerId(*n), &mailbox, false).is_ok());
        assert!((10..1_000).contains(&told.count()));
        for round in 0..20 {
            arbiter.send(&Order::Pause { round }).unwrap();
        }
    }

    #[test]
    fn what_was_not_sent_is_told_once_and_to_who_listens() {
        let (arbiter, worker) = Channel::pair().unwrap();
        let mut unsent = Tally::default();
        while has_room(&arbiter) {
            arbiter.send(&Order::Resume).unwrap();
        }
        unsent.add("news", 3);
        tell_unsent(&arbiter, &mut unsent);
        assert_eq!(unsent.list(), [("news".to_owned(), 3)], "it is for later");
        let heard = || {
            let mut heard = Vec::new();
            while let (Received::Message(told), _) = worker.receive_with().unwrap() {
                if let Told::Bulletin(bulletin) = told {
                    heard.push(bulletin.unsent);
                }
            }
            heard
        };
        assert!(heard().is_empty());
        for _ in 0..2 {
            tell_unsent(&arbiter, &mut unsent);
        }
        assert!(unsent.is_empty());
        assert_eq!(heard(), [[("news".to_owned(), 3)]]);
    }
}
