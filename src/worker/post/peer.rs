//! Another worker, as somebody to send messages to.

use std::future::pending;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::outbox::Outbox;
use crate::messages::packet::Outgoing;
use crate::sys::passing;
use crate::sys::readiness::Readiness;

/// How soon a send is tried again that nobody has said is possible. All senders share the room in a mailbox, and the
/// kernel says that there is some when three quarters are free: others may take it again and again.
const AGAIN: Duration = Duration::from_secs(1);
/// So many packets go out before others have their turn.
const BATCH: usize = 32;

/// The sending end of its mailbox.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its number.
    pub(super) worker: u64,
    mailbox: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    outbox: Outbox,
    /// A task sends what is in the outbox.
    is_drained: bool,
    /// It does not read any more.
    is_gone: bool,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is in the mailbox, or somebody sees to it.
    Done,
    /// It is in the outbox, and somebody has to call [`Peer::drain`].
    Kept,
    /// Nobody will read it.
    Gone,
}

impl Peer {
    pub(super) fn new(worker: u64, mailbox: OwnedFd) -> Arc<Self> {
        Arc::new(Self {
            worker,
            mailbox,
            state: Mutex::default(),
        })
    }

    /// Sends or keeps a message of worker `from`. `packet` is the same in one piece, made when it is first needed.
    pub(super) fn send(&self, message: &Outgoing<'_>, packet: &mut Option<Bytes>) -> Sent {
        let mut state = self.state();
        if state.is_gone {
            return Sent::Gone;
        }
        if state.outbox.is_empty() {
            match passing::send(self.mailbox.as_fd(), &message.parts(), &[]) {
                Ok(()) => return Sent::Done,
                Err(error) if is_full(&error) => {}
                Err(_) => {
                    state.close();
                    return Sent::Gone;
                }
            }
        }
        state
            .outbox
            .push(packet.get_or_insert_with(|| message.packet()).clone());
        state.keep()
    }

    /// Sends what is in the outbox, as worker `from`, until there is nothing left or nobody reads it. Costs nothing
    /// while the mailbox is full. Several may do this at the same time. Cancel-safe.
    pub(super) async fn drain(self: Arc<Self>, from: u64) {
        // It is watched only as long as there is something to send: each message that is read wakes all who watch.
        let room = Readiness::of_writing(self.mailbox.as_fd());
        if let Err(error) = &room {
            tracing::warn!(to = self.worker, error = %error, "a worker's mailbox cannot be watched: messages to it are late");
        }
        loop {
            let ready = match &room {
                Ok(room) => timeout(AGAIN, room.writable()).await,
                Err(_) => timeout(AGAIN, pending()).await,
            };
            match self.send_batch(from) {
                Batch::Over => return,
                Batch::More => yield_now().await,
                Batch::Full => {
                    if let Ok(Ok(mut ready)) = ready {
                        ready.clear_ready();
                    }
                }
            }
        }
    }

    /// Sends what there is room for; true: nothing is left to send.
    pub(super) fn flush(&self, from: u64) -> bool {
        loop {
            match self.send_batch(from) {
                Batch::Over => return true,
                Batch::More => {}
                Batch::Full => return false,
            }
        }
    }

    /// Nothing is sent to it any more.
    pub(super) fn is_gone(&self) -> bool {
        self.state().is_gone
    }

    /// What its mailbox is asked whether it has ended.
    pub(super) fn polled(&self) -> PollFd<'_> {
        PollFd::new(self.mailbox.as_fd(), PollFlags::empty())
    }

    fn send_batch(&self, from: u64) -> Batch {
        let mut state = self.state();
        let send =
            |packet: &[u8]| passing::send(self.mailbox.as_fd(), &[IoSlice::new(packet)], &[]);
        let sent = state.outbox.send(from, BATCH, send);
        match sent {
            Ok(()) if !state.outbox.is_empty() => return Batch::More,
            Err(error) if is_full(&error) => return Batch::Full,
            Ok(()) => {}
            Err(_) => state.close(),
        }
        state.is_drained = false;
        Batch::Over
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Batch {
    /// The outbox is empty, or nobody reads.
    Over,
    More,
    Full,
}

impl State {
    /// There is something in the outbox.
    fn keep(&mut self) -> Sent {
        if std::mem::replace(&mut self.is_drained, true) {
            Sent::Done
        } else {
            Sent::Kept
        }
    }

    fn close(&mut self) {
        self.is_gone = true;
        self.outbox = Outbox::default();
    }
}

/// There may be room later. Anything else is the end: a message has a size that every mailbox takes.
fn is_full(error: &io::Error) -> bool {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    matches!(errno, Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM)
}
