//! One way out: the sender's end of a link, and the answers that are still to come over it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::{Notify, oneshot};

use crate::exit::chain;
use crate::ipc::orders::ARBITER;
use crate::ipc::parcel::{Answer, Link, Outcome, Parcel};
use crate::sys::readiness::Readiness;

/// How soon a send is tried again that failed for want of something which nobody tells the return of.
const AGAIN: Duration = Duration::from_millis(5);
/// The same for the answers where nothing can be received.
const DEAF: Duration = Duration::from_secs(1);

/// A worker that takes connections.
#[derive(Debug)]
pub(super) struct Heir {
    /// The worker's number.
    pub(super) worker: u64,
    /// Its seat on the scoreboard.
    pub(super) seat: usize,
    /// It gets so many and no more, for balance.
    limited: bool,
    link: Link<Readiness>,
    /// Held by whoever sends, so that one task alone waits for room in the link.
    turn: tokio::sync::Mutex<()>,
    offers: Mutex<Offers>,
    /// To be set when it says that it takes no more.
    is_full: Arc<AtomicBool>,
    /// An answer has come, or the end; an offer is over, or the quota is used up.
    news: Notify,
}

#[derive(Debug, Default)]
struct Offers {
    /// How many more it is to get; `None`: as many as there are.
    quota: Option<u32>,
    /// How many are being made.
    open: usize,
    last: u64,
    ended: bool,
    answers: HashMap<u64, oneshot::Sender<Verdict>>,
}

/// One connection's turn with an heir. As long as it lives, the link is not closed.
#[derive(Debug)]
pub(super) struct Offer(Arc<Heir>);

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
        is_full: Arc<AtomicBool>,
    ) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            worker,
            seat,
            limited: quota.is_some(),
            link: Link::over(Readiness::of_both(link)?),
            turn: tokio::sync::Mutex::new(()),
            offers: Mutex::new(Offers {
                quota,
                ..Offers::default()
            }),
            is_full,
            news: Notify::new(),
        }))
    }

    /// Reads answers until the heir is gone; then whatever it has not answered is ours.
    pub(super) async fn hear(self: Arc<Self>) {
        while let Ok(mut ready) = self.link.channel().readable().await {
            match self.link.outcome() {
                Ok(Outcome::Answer(answer)) => self.settle(&answer),
                Ok(Outcome::Empty) => ready.clear_ready(),
                Ok(Outcome::Closed) => break,
                Ok(Outcome::Unreadable(reason)) => {
                    tracing::warn!(to = self.worker, reason, "an answer cannot be read");
                }
                // It is no end: that would make ours what the heir may be serving.
                Err(error) => {
                    tracing::warn!(
                        to = self.worker,
                        error = chain(&error),
                        "the answers of a worker cannot be read now"
                    );
                    tokio::time::sleep(DEAF).await;
                }
            }
        }
        let mut offers = self.offers();
        offers.ended = true;
        offers.answers.clear();
        drop(offers);
        self.news.notify_waiters();
    }

    /// A turn, unless the heir is gone or its quota is used up.
    pub(super) fn offer(self: &Arc<Self>) -> Option<Offer> {
        let mut offers = self.offers();
        if offers.ended {
            return None;
        }
        if let Some(quota) = &mut offers.quota {
            *quota = quota.checked_sub(1)?;
        }
        offers.open += 1;
        Some(Offer(self.clone()))
    }

    /// Nothing more is given; tells how many more it could have been.
    pub(super) fn end_quota(&self) -> u32 {
        self.offers().quota.as_mut().map_or(0, std::mem::take)
    }

    /// Until the quota is used up, or the heir is gone. Cancel-safe.
    pub(super) async fn used_up(&self) {
        self.wait(|offers| offers.quota == Some(0) || offers.ended)
            .await;
    }

    /// Until no offer is being made. Cancel-safe.
    pub(super) async fn settled(&self) {
        self.wait(|offers| offers.open == 0).await;
    }

    pub(super) fn is_for_balance(&self) -> bool {
        self.limited
    }

    pub(super) fn has_ended(&self) -> bool {
        self.offers().ended
    }

    /// How many connections are on their way to it.
    pub(super) fn on_their_way(&self) -> usize {
        self.offers().open
    }

    async fn wait(&self, done: impl Fn(&Offers) -> bool) {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            if done(&self.offers()) {
                return;
            }
            news.await;
        }
    }

    fn expect_answer(&self) -> Option<(u64, oneshot::Receiver<Verdict>)> {
        let mut offers = self.offers();
        if offers.ended {
            return None;
        }
        offers.last += 1;
        let id = offers.last;
        let (answer, verdict) = oneshot::channel();
        offers.answers.insert(id, answer);
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
                if self.worker == ARBITER {
                    self.is_full.store(true, Relaxed);
                }
                (id, Verdict::Ours)
            }
        };
        if let Some(waiting) = self.offers().answers.remove(id) {
            // Cancelled meanwhile, it is the heir's or closed.
            let _ = waiting.send(verdict);
        }
        self.news.notify_waiters();
    }

    fn offers(&self) -> MutexGuard<'_, Offers> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Offer {
    pub(super) fn to(&self) -> u64 {
        self.0.worker
    }

    /// Offers a connection and waits for the answer as long as the heir lives.
    ///
    /// Dropped after the parcel was sent, the future leaves the connection to the heir.
    pub(super) async fn make(self, parcel: &mut Parcel, socket: BorrowedFd<'_>) -> Verdict {
        let heir = &self.0;
        let Some((id, answer)) = heir.expect_answer() else {
            return Verdict::Ours;
        };
        parcel.id = id;
        if let Err(error) = heir.send(parcel, socket).await {
            // It was not sent. What was sent before is decided by the answers that are still to be read.
            tracing::debug!(to = heir.worker, error = %error, "a connection could not be offered");
            heir.offers().answers.remove(&id);
            return Verdict::Ours;
        }
        answer.await.unwrap_or(Verdict::Ours)
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.0.offers().open -= 1;
        self.0.news.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::eventfd::EventFd;

    /// recvmsg(2) says the same about it each time. The clock goes on by itself when nobody does anything.
    #[tokio::test(start_paused = true)]
    async fn answers_that_cannot_be_received_are_waited_for_and_are_no_end() {
        // Readable and writable, and no socket.
        let counter = EventFd::from_value(1).unwrap();
        let heir = Heir::new(1, 0, None, counter.into(), Arc::default()).unwrap();
        let hearing = tokio::time::timeout(DEAF * 10, heir.clone().hear());
        assert!(hearing.await.is_err() && !heir.has_ended());
    }
}
