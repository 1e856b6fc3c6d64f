//! Messages to and from the other workers.
//!
//! Each worker has a *mailbox*, a pair of SOCK_SEQPACKET sockets: it has the end to read from its birth, and all
//! others have the end to write, one open file that they share. The arbiter makes it and passes it on, and has no
//! part in what goes through it. [`packet`](crate::messages::packet) has what is said.
//!
//! ```text
//! publish ─┬─ this worker's hub ── subscriptions
//!          └─ each peer ─ (its outbox, while its mailbox is full) ═════ mailbox ─ that worker's hub ── …
//! ```
//!
//! The arbiter tells the others of a worker before it is forked, and notes it on the scoreboard. Who publishes looks
//! there, and keeps in its outbox what is for a worker whose mailbox has not come yet: since this one has not heard of
//! it, could not be told, or had no room for it. So from its first moment on nothing misses a worker.

mod mark;
mod outbox;
mod peer;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tokio::time::{Instant, timeout_at};

use self::mark::Mark;
use self::peer::Peer;
use crate::ipc::scoreboard::Meter;
use crate::messages::packet::{self, Incoming, Outgoing, Records};
use crate::messages::{Carry, Hub, Messages, Tally};
use crate::sys::readiness::Readiness;

/// So many records are taken before others have their turn, the subscribers first of all: far fewer than these keep.
const BATCH: usize = 128;
/// So many messages go out each by itself; what is published behind them in one go shares packets.
const AT_ONCE: u32 = 4;
/// At the end, what the outboxes hold may take this long: a worker that is stuck must not hold this one.
const LAST_CALL: Duration = Duration::from_millis(500);

/// A worker's way to the others.
pub(super) struct Post {
    worker: u64,
    hub: Arc<Hub>,
    meter: Meter,
    peers: RwLock<Vec<Arc<Peer>>>,
    /// Up to this number, workers are among the peers, if they are there; those before this worker that send and hear
    /// no messages are not. Numbers rise.
    expected: AtomicU64,
    /// The youngest worker whose mailbox did not come: it is said once.
    unmet: AtomicU64,
    /// How many messages were published since the outboxes were looked at.
    burst: AtomicU32,
    /// Something may be in an outbox.
    published: Notify,
    /// What workers that are gone have not sent, as the arbiter says: it comes behind all that they have sent.
    missed: Mutex<Tally>,
    /// There is something in it.
    told: Notify,
}

/// The end to read, not read yet.
pub(super) struct Mailbox(OwnedFd);

/// The tasks, running.
pub(super) struct Office {
    post: Arc<Post>,
    reading: JoinHandle<()>,
}

impl Post {
    /// `peers`: the workers that are there already.
    pub(super) fn new(
        worker: u64,
        mailbox: OwnedFd,
        peers: Vec<(u64, OwnedFd)>,
        meter: Meter,
    ) -> (Arc<Self>, Mailbox) {
        let peers = peers
            .into_iter()
            .map(|(worker, fd)| Peer::new(worker, Some(fd), Mark::of(worker, &meter)));
        let post = Arc::new(Self {
            worker,
            hub: Arc::default(),
            peers: RwLock::new(peers.collect()),
            meter,
            expected: AtomicU64::new(worker),
            unmet: AtomicU64::new(0),
            burst: AtomicU32::new(0),
            published: Notify::new(),
            missed: Mutex::default(),
            told: Notify::new(),
        });
        (post, Mailbox(mailbox))
    }

    /// The face of it for the app.
    pub(super) fn messages(self: &Arc<Self>) -> Messages {
        Messages::carried(self.worker, self.hub.clone(), self.clone())
    }

    /// There is another worker; from any thread. False: its mailbox could not be taken, and has to come again.
    pub(super) fn meet(&self, worker: u64, mailbox: Option<OwnedFd>) -> bool {
        let is_there = mailbox.is_some();
        if !is_there && self.unmet.fetch_max(worker, Relaxed) < worker {
            tracing::warn!(
                to = worker,
                "a worker's mailbox did not come with the order: until it does, messages to it wait here"
            );
        }
        self.forget_gone();
        self.expect();
        let mut peers = self.write_peers();
        match (peers.iter().find(|peer| peer.worker == worker), mailbox) {
            (Some(peer), Some(mailbox)) => peer.arrive(mailbox),
            (Some(_), None) => {}
            // An arbiter that does not say on the scoreboard who is there.
            (None, mailbox) => {
                peers.push(Peer::new(worker, mailbox, Mark::of(worker, &self.meter)));
            }
        }
        is_there
    }

    /// Those of whom the scoreboard says that they are there are peers, whether the arbiter's word has come or not.
    fn expect(&self) {
        let board = self.meter.board();
        let youngest = board.header.youngest.load(Acquire);
        if youngest <= self.expected.load(Acquire) {
            return;
        }
        let mut peers = self.write_peers();
        // Who was there before, and is forgotten, is gone.
        let known = self.expected.load(Acquire);
        for seat in &board.seats {
            let worker = seat.worker.load(Relaxed);
            let is_new = worker > known && peers.iter().all(|peer| peer.worker != worker);
            if is_new {
                peers.push(Peer::new(worker, None, Mark::of(worker, &self.meter)));
            }
        }
        self.expected.fetch_max(youngest, Release);
    }

    /// Workers that are gone have not sent so many messages to this one; from any thread.
    pub(super) fn miss(&self, topics: Vec<(String, u64)>) {
        if !topics.is_empty() {
            self.lock_missed().extend(topics);
            self.told.notify_one();
        }
    }

    /// Reads the mailbox, and sends what is late. Must be called inside the app's runtime.
    pub(super) fn open(self: Arc<Self>, Mailbox(mailbox): Mailbox) -> Office {
        tokio::spawn(self.clone().send_late());
        let post = self.clone();
        let reading = tokio::spawn(async move {
            if let Err(error) = post.read(&mailbox).await {
                tracing::error!(error = %error, "the worker's mailbox cannot be read: it gets no messages from others");
            }
        });
        Office {
            post: self,
            reading,
        }
    }

    /// Sends what was not sent at once, when whoever has published it has given up its turn.
    async fn send_late(self: Arc<Self>) {
        loop {
            self.published.notified().await;
            self.burst.store(0, Relaxed);
            for peer in self.peers().iter() {
                if peer.flush(self.worker) {
                    tokio::spawn(peer.clone().drain(self.worker));
                }
            }
        }
    }

    async fn read(&self, mailbox: &OwnedFd) -> io::Result<()> {
        let readiness = Readiness::of(mailbox.as_fd())?;
        let mut buffer = vec![0; packet::MOST];
        let mut turn = 0;
        let mut missed = Tally::default();
        loop {
            let ready = tokio::select! {
                ready = readiness.readable() => Some(ready?),
                () = self.told.notified() => None,
            };
            // What these workers have sent is in the mailbox by now, and is heard before it.
            missed.extend(self.lock_missed().take().list());
            // It says how long a packet is, also where it is cut.
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
            match recv(mailbox.as_raw_fd(), &mut buffer, flags) {
                // The arbiter is gone, and all workers.
                Ok(0) if nobody_writes(mailbox)? => return Ok(()),
                Ok(length) => {
                    let is_cut = length > buffer.len();
                    for record in Records(&buffer[..length.min(buffer.len())]) {
                        self.take(&record);
                        turn += 1;
                        if turn == BATCH {
                            turn = 0;
                            yield_now().await;
                        }
                    }
                    if is_cut {
                        self.hub.miss_somewhere();
                    }
                }
                Err(Errno::EAGAIN) => {
                    self.hub.miss_all(&missed.take());
                    if let Some(mut ready) = ready {
                        ready.clear_ready();
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn take(&self, record: &Incoming<'_>) {
        match record {
            Incoming::Message { topic, bytes, .. } => {
                let bytes = || Bytes::copy_from_slice(bytes);
                self.hub.deliver(record.worker(), topic, bytes);
            }
            Incoming::Missed { topics, .. } => {
                for (topic, count) in topics.clone() {
                    if topic.is_empty() {
                        self.hub.miss_somewhere();
                    } else {
                        self.hub.miss(topic, count);
                    }
                }
            }
            Incoming::Other => {
                tracing::debug!("another worker has sent something of an unknown kind");
            }
        }
    }

    /// Lets go of the mailboxes that nobody reads any more; one that is never written to says it only when asked.
    fn forget_gone(&self) {
        let mut peers = self.write_peers();
        let mut polled: Vec<_> = peers.iter().filter_map(|peer| peer.polled()).collect();
        // What cannot be asked is found out by the next message.
        let _ = poll(&mut polled, PollTimeout::ZERO);
        let has_ended = |events: PollFlags| events.contains(PollFlags::POLLHUP);
        let closed: Vec<_> = polled
            .iter()
            .map(|fd| fd.revents().is_some_and(has_ended))
            .collect();
        let mut closed = closed.into_iter();
        peers.retain(|peer| {
            let is_closed = peer.polled().is_some() && closed.next().unwrap_or(false);
            !is_closed && !peer.is_gone()
        });
    }

    fn lock_missed(&self) -> MutexGuard<'_, Tally> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> RwLockReadGuard<'_, Vec<Arc<Peer>>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_peers(&self) -> RwLockWriteGuard<'_, Vec<Arc<Peer>>> {
        self.peers.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the mailbox has come to its end: nobody has the other one any more. A packet of no bytes looks the same to
/// who reads.
fn nobody_writes(mailbox: &OwnedFd) -> io::Result<bool> {
    let mut polled = [PollFd::new(mailbox.as_fd(), PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO)?;
    let events = polled[0].revents().unwrap_or(PollFlags::empty());
    Ok(events.contains(PollFlags::POLLHUP))
}

impl Carry for Post {
    fn carry(&self, topic: &str, bytes: &Bytes) {
        self.expect();
        let message = Outgoing::new(self.worker, topic, bytes);
        let at_once = self.burst.fetch_add(1, Relaxed) < AT_ONCE;
        let (mut record, mut gone) = (None, false);
        for peer in self.peers().iter() {
            gone |= !peer.send(self.worker, &message, &mut record, at_once);
        }
        // After it: who is told looks for it.
        self.published.notify_one();
        if gone {
            self.forget_gone();
        }
    }
}

impl Office {
    /// The end: what was published goes out as far as that is possible by the deadline, then nothing more is read. Of the
    /// rest `tell` says to the arbiter how much it is, by the worker that misses it and by topic; false: it cannot.
    pub(super) async fn close(
        self,
        deadline: Option<Instant>,
        tell: impl Fn(u64, Vec<(String, u64)>) -> bool,
    ) {
        let (post, now) = (&self.post, Instant::now());
        let deadline = deadline.map_or(now + LAST_CALL, |at| at.min(now + LAST_CALL));
        let late = |peer: &&Arc<Peer>| peer.flush(post.worker) || peer.has_drainer();
        let late: Vec<_> = post.peers().iter().filter(late).cloned().collect();
        let tasks = late.iter().cloned().map(|peer| peer.drain(post.worker));
        let mut tasks: JoinSet<()> = tasks.collect();
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout_at(deadline, all).await.is_err() {
            for peer in &late {
                let messages = peer.give_up(|topics| tell(peer.worker, topics));
                if messages > 0 {
                    tracing::warn!(
                        to = peer.worker,
                        messages,
                        "messages to a worker that does not keep up are lost: this one leaves"
                    );
                }
            }
        }
        // Whoever still writes hears at once that nobody reads.
        self.reading.abort();
        let _ = self.reading.await;
    }
}
