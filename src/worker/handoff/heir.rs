//! One way out: the sender's end of a link, and the answers that are still to come over it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::{Notify, oneshot};

use crate::exit::chain;
use crate::ipc::parcel::{Answer, Link, Outcome, Parcel};
use crate::sys::readiness::Readiness;

/// How soon a send is tried again that failed for want of something which nobody tells the return of.
const AGAIN: Duration = Duration::from_millis(5);

/// A worker that takes connections.
#[derive(Debug)]
pub(super) struct Heir {
    /// The worker's number.
    pub(super) worker: u64,
    /// Its seat on the scoreboard.
    pub(super) seat: usize,
    /// How many more it is to get; `None`: as many as there are.
    quota: Option<AtomicU32>,
    link: Link<Readiness>,
    /// Held by whoever sends, so that one task alone waits for room in the link.
    turn: tokio::sync::Mutex<()>,
    expected: Mutex<Expected>,
    /// An answer has come, or the end, or the quota is used up.
    news: Notify,
}

#[derive(Debug, Default)]
struct Expected {
    last: u64,
    ended: bool,
    answers: HashMap<u64, oneshot::Sender<Verdict>>,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The connection is the heir's.
    Taken,
    /// The connection is ours: the heir refused it, or is gone, or it could not be sent.
    Ours,
}

impl Heir {
    /// Must be called inside a runtime.
    ///
    /// # Errors
    /// The runtime cannot watch the link.
    pub(super) fn new(
        worker: u64,
        seat: usize,
        quota: Option<u32>,
        link: OwnedFd,
    ) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            worker,
            seat,
            quota: quota.map(AtomicU32::new),
            link: Link::over(Readiness::of_both(link)?),
            turn: tokio::sync::Mutex::new(()),
            expected: Mutex::new(Expected::default()),
            news: Notify::new(),
        }))
    }

    /// Offers a connection and waits for the answer as long as the heir lives.
    ///
    /// Dropped after the parcel was sent, the future leaves the connection to the heir.
    pub(super) async fn offer(&self, parcel: &mut Parcel, socket: BorrowedFd<'_>) -> Verdict {
        let Some((id, answer)) = self.expect_answer() else {
            return Verdict::Ours;
        };
        parcel.id = id;
        match self.send(parcel, socket).await {
            Ok(()) => {}
            // It was not sent; what was before it is decided by the answers that are still to be read.
            Err(error) => {
                tracing::debug!(to = self.worker, error = %error, "a connection could not be offered");
                self.expected().answers.remove(&id);
                return Verdict::Ours;
            }
        }
        answer.await.unwrap_or(Verdict::Ours)
    }

    /// Reads answers until the heir is gone; then whatever it has not answered is ours.
    pub(super) async fn hear(self: Arc<Self>) {
        while let Ok(mut ready) = self.link.channel().readable().await {
            match self.link.outcome() {
                Ok(Outcome::Answer(answer)) => self.settle(&answer),
                Ok(Outcome::Empty) => ready.clear_ready(),
                Ok(Outcome::Closed) => break,
                // Only its end says that it will not serve what it was sent.
                Err(error) => {
                    tracing::warn!(
                        to = self.worker,
                        error = chain(&error),
                        "an answer cannot be read"
                    );
                }
            }
        }
        let mut expected = self.expected();
        expected.ended = true;
        expected.answers.clear();
        drop(expected);
        self.news.notify_waiters();
    }

    /// Takes one of the quota; false: it is used up.
    pub(super) fn reserve(&self) -> bool {
        let Some(quota) = &self.quota else {
            return true;
        };
        let less = |left: u32| left.checked_sub(1);
        let had = quota.fetch_update(Relaxed, Relaxed, less);
        if had == Ok(1) {
            self.news.notify_waiters();
        }
        had.is_ok()
    }

    /// Nothing more is given; tells how many more it could have been.
    pub(super) fn end_quota(&self) -> u32 {
        self.quota.as_ref().map_or(0, |left| left.swap(0, Relaxed))
    }

    /// Until the quota is used up, or the heir is gone. Cancel-safe.
    pub(super) async fn used_up(&self) {
        let used = || {
            self.quota
                .as_ref()
                .is_some_and(|left| left.load(Relaxed) == 0)
        };
        self.wait(|| used() || self.has_ended()).await;
    }

    /// Until no answer is missing. Cancel-safe.
    pub(super) async fn settled(&self) {
        self.wait(|| self.expected().answers.is_empty()).await;
    }

    pub(super) fn is_for_balance(&self) -> bool {
        self.quota.is_some()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.expected().ended
    }

    /// How many answers are missing.
    pub(super) fn unanswered(&self) -> usize {
        self.expected().answers.len()
    }

    async fn wait(&self, done: impl Fn() -> bool) {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            if done() {
                return;
            }
            news.await;
        }
    }

    fn expect_answer(&self) -> Option<(u64, oneshot::Receiver<Verdict>)> {
        let mut expected = self.expected();
        if expected.ended {
            return None;
        }
        expected.last += 1;
        let id = expected.last;
        let (answer, verdict) = oneshot::channel();
        expected.answers.insert(id, answer);
        Some((id, verdict))
    }

    async fn send(&self, parcel: &Parcel, socket: BorrowedFd<'_>) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        loop {
            let mut ready = self.link.channel().writable().await?;
            let Err(error) = self.link.send(parcel, socket) else {
                return Ok(());
            };
            if error.kind() == io::ErrorKind::WouldBlock {
                ready.clear_ready();
                continue;
            }
            match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                // Too many descriptors are on their way: each one that is received makes room.
                Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM if !self.has_ended() => {
                    let _ = tokio::time::timeout(AGAIN, self.news.notified()).await;
                }
                _ => return Err(error),
            }
        }
    }

    fn settle(&self, answer: &Answer) {
        let (id, verdict) = match answer {
            Answer::Taken { id } => (id, Verdict::Taken),
            Answer::Refused { id, reason } => {
                tracing::debug!(to = self.worker, reason, "a connection was refused");
                (id, Verdict::Ours)
            }
        };
        if let Some(waiting) = self.expected().answers.remove(id) {
            // Cancelled meanwhile, it is the heir's or closed.
            let _ = waiting.send(verdict);
        }
        self.news.notify_waiters();
    }

    fn expected(&self) -> MutexGuard<'_, Expected> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
