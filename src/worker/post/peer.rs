//! Another worker, as somebody to send messages to.

use std::future::pending;
use std::io::{self, IoSlice};
use std::mem::take;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use tokio::sync::SetOnce;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::mark::Mark;
use super::outbox::Outbox;
use crate::messages::Tally;
use crate::messages::packet::Outgoing;
use crate::sys::passing;
use crate::sys::readiness::Readiness;

/// How soon a send is tried again that nobody has said is possible. All senders share the room in a mailbox, and the
/// kernel says that there is some when three quarters are free: others may take it again and again.
const AGAIN: Duration = Duration::from_secs(1);

/// The sending end of its mailbox.
pub(super) struct Peer {
    /// Its number.
    pub(super) worker: u64,
    /// Until the arbiter has passed it on, it is as good as full.
    mailbox: SetOnce<OwnedFd>,
    state: Mutex<State>,
    /// Set before something is put into the outbox, taken back when nothing is left there.
    mark: Mark,
}

#[derive(Debug, Default)]
struct State {
    outbox: Outbox,
    /// A task sends what is in the outbox, as there is room.
    has_drainer: bool,
    /// It does not read any more.
    is_gone: bool,
}

impl Peer {
    pub(super) fn new(worker: u64, mailbox: Option<OwnedFd>, mark: Mark) -> Arc<Self> {
        Arc::new(Self {
            worker,
            mailbox: SetOnce::new_with(mailbox),
            state: Mutex::default(),
            mark,
        })
    }

    /// What has waited for its mailbox is sent by [`drain`](Self::drain). Only while nobody reads the list of the peers.
    pub(super) fn arrive(&self, mailbox: OwnedFd) {
        // It may come twice: the first is as good.
        let _ = self.mailbox.set(mailbox);
    }

    /// Sends a message of worker `from` at once, if that is wanted and possible; else it is in the outbox, and
    /// [`flush`](Self::flush) has to be called. What fills a packet there is sent right here: who publishes much in one
    /// go gives nobody else a turn. `record` is the same in one piece, made when it is first needed. False: nobody
    /// reads it.
    pub(super) fn send(
        &self,
        from: u64,
        message: &Outgoing<'_>,
        record: &mut Option<Bytes>,
        at_once: bool,
    ) -> bool {
        let mut state = self.state();
        if at_once && !state.is_gone && state.outbox.is_empty() {
            match self.write(&message.parts()) {
                Ok(()) => return true,
                Err(error) if is_full(&error) => {}
                Err(error) => self.close(&mut state, &error),
            }
        }
        if !state.is_gone {
            if state.outbox.is_empty() {
                self.mark.set(true);
            }
            let record = record.get_or_insert_with(|| message.record());
            state.outbox.push(record.clone());
            if state.outbox.has_full_packet() {
                self.empty(&mut state, from);
            }
        }
        !state.is_gone
    }

    /// Sends what there is room for. True: there is more, and nobody else sees to it: [`drain`](Self::drain) has to.
    pub(super) fn flush(&self, from: u64) -> bool {
        let mut state = self.state();
        if state.has_drainer {
            return false;
        }
        state.has_drainer = !self.empty(&mut state, from);
        state.has_drainer
    }

    /// Sends what is in the outbox, as worker `from`, until there is nothing left or nobody reads it. Looks every
    /// [`AGAIN`] while the mailbox is full or has not come. Several may do this at the same time.
    pub(super) async fn drain(self: Arc<Self>, from: u64) {
        let mailbox = loop {
            if let Some(mailbox) = self.mailbox.get() {
                break mailbox;
            }
            // It may be gone.
            if let Next::Nothing = self.send_next(from) {
                return;
            }
            let _ = timeout(AGAIN, self.mailbox.wait()).await;
        };
        // It is watched only as long as there is something to send: each message that is read wakes all who watch.
        let room = Readiness::of_writing(mailbox.as_fd());
        if let Err(error) = &room {
            tracing::warn!(to = self.worker, error = %error, "a worker's mailbox cannot be watched: messages to it are late");
        }
        loop {
            let ready = match &room {
                Ok(room) => timeout(AGAIN, room.writable()).await,
                Err(_) => timeout(AGAIN, pending()).await,
            };
            match self.send_next(from) {
                Next::Nothing => return,
                Next::More => yield_now().await,
                Next::Full => {
                    if let Ok(Ok(mut ready)) = ready {
                        ready.clear_ready();
                    }
                }
            }
        }
    }

    /// A task is at what is in its outbox.
    pub(super) fn has_drainer(&self) -> bool {
        self.state().has_drainer
    }

    /// Gives up what it has not got and does not know of, and gives back how many messages that is. `tell` is called with
    /// their topics; false: nobody will hear of them, and the mark stays.
    pub(super) fn give_up(&self, tell: impl FnOnce(Vec<(String, u64)>) -> bool) -> u64 {
        let mut state = self.state();
        let outbox = take(&mut state.outbox);
        let messages = outbox.messages();
        if messages > 0 {
            let mut tally = Tally::default();
            outbox.count(&mut tally);
            if tell(tally.list()) {
                self.mark.set(false);
            }
        }
        messages
    }

    /// Nothing is sent to it any more.
    pub(super) fn is_gone(&self) -> bool {
        let never_came = self.mailbox.get().is_none() && !self.mark.is_seated();
        never_came || self.state().is_gone
    }

    /// What its mailbox is asked whether it has ended. `None`: that has not come yet.
    pub(super) fn polled(&self) -> Option<PollFd<'_>> {
        let mailbox = self.mailbox.get()?;
        Some(PollFd::new(mailbox.as_fd(), PollFlags::empty()))
    }

    fn send_next(&self, from: u64) -> Next {
        let mut state = self.state();
        // It may have been given up.
        if state.outbox.is_empty() {
            state.has_drainer = false;
            return Next::Nothing;
        }
        match state.outbox.send(from, |parts| self.write(parts)) {
            Ok(()) if !state.outbox.is_empty() => return Next::More,
            Err(error) if is_full(&error) => return Next::Full,
            Ok(()) => {}
            Err(error) => self.close(&mut state, &error),
        }
        self.mark.set(false);
        state.has_drainer = false;
        Next::Nothing
    }

    /// Sends what there is room for. False: there is more.
    fn empty(&self, state: &mut State, from: u64) -> bool {
        if state.outbox.is_empty() {
            return true;
        }
        while !state.outbox.is_empty() {
            match state.outbox.send(from, |parts| self.write(parts)) {
                Ok(()) => {}
                Err(error) if is_full(&error) => return false,
                Err(error) => self.close(state, &error),
            }
        }
        self.mark.set(false);
        true
    }

    fn close(&self, state: &mut State, error: &io::Error) {
        // The end of its worker is no news.
        if error.kind() != io::ErrorKind::BrokenPipe {
            tracing::error!(to = self.worker, error = %error, "a worker's mailbox takes no messages: nothing reaches it from here any more");
        }
        state.is_gone = true;
        state.outbox = Outbox::default();
    }

    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        match self.mailbox.get() {
            Some(mailbox) => passing::send(mailbox.as_fd(), parts, &[]),
            None if self.mark.is_seated() => Err(Errno::EAGAIN.into()),
            // It was gone before its mailbox came, or has never been forked.
            None => Err(Errno::EPIPE.into()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be done with an outbox.
enum Next {
    Nothing,
    More,
    Full,
}

/// There may be room later. Anything else is the end: a message has a size that every mailbox takes.
fn is_full(error: &io::Error) -> bool {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    matches!(errno, Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM)
}
