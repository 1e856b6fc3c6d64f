//! The way into the manager's store: when the service stops to be started again, the arbiter is every worker's heir.
//!
//! What is said over a link is the same as between workers ([`crate::ipc::parcel`]). A connection is answered for
//! when it is known to be in the store, and gets its record in the ledger when its worker has the answer: at no
//! moment have two processes a right to serve it, whoever dies.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::SockRef;

use super::closing::Closing;
use super::ledger::Ledger;
use super::{AGAIN, DOUBT};
use crate::arbiter::intake::Source;
use crate::exit::chain;
use crate::ipc::parcel::{Answer, Incoming, Link, Parcel};
use crate::moment::Moment;
use crate::systemd::fd_store::{Barrier, Line, MOST, Name, Transfer};

/// So many connections go into the store at once, and so many more wait: what the arbiter holds open is bounded.
const BATCH: usize = 128;

/// What the manager's store takes, and what is in it already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// `None`: it does not say.
    pub(super) most: Option<usize>,
    pub(super) used: usize,
    /// Names up to this number are in use.
    pub(super) last: u32,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Connections in the store, each with its record.
    pub(super) kept: usize,
    /// Connections that there was no room for; their workers have closed them.
    pub(super) closed: usize,
    /// Why there was none.
    pub(super) why: Option<&'static str>,
}

/// Takes connections from workers and puts them into the store. Never waits, but in [`finish`](Self::finish).
pub(super) struct Keep {
    line: Line,
    ledger: Ledger,
    ledger_name: Name,
    givers: Vec<Giver>,
    /// Received and not on their way into the store.
    waiting: VecDeque<Item>,
    under_way: Option<UnderWay>,
    /// To be taken out of the store before anything else is put there.
    removals: VecDeque<Name>,
    last: u32,
    /// So many connections in one transfer; 0: no more at all.
    batch: usize,
    /// So many more connections, as far as the manager has said.
    room: usize,
    doubtful: bool,
    retry_at: Option<Moment>,
    outcome: Outcome,
}

/// The arbiter's end of a link, and what is to be said over it.
struct Giver {
    /// `None`: its worker is gone, or it was given up.
    link: Option<Link>,
    /// Its worker keeps what it has no answer to.
    is_given_up: bool,
    replies: VecDeque<Reply>,
}

enum Reply {
    /// It is in the store.
    Taken(Item),
    Refused(u64, &'static str, Option<OwnedFd>),
}

struct Item {
    /// `None`: it is nobody's but the arbiter's.
    giver: Option<usize>,
    parcel: Parcel,
    socket: OwnedFd,
}

/// Without items: the ledger.
struct UnderWay {
    transfer: Transfer,
    items: Vec<Item>,
    doubted_until: Option<Moment>,
}

impl Keep {
    /// `passed`: see [`Ledger::new`].
    ///
    /// # Errors
    /// No memory, no descriptors.
    pub(super) fn new(line: Line, room: Room, passed: bool, epoll: &Epoll) -> io::Result<Self> {
        // Beside them the ledger and the check.
        let free = room.most.unwrap_or(MOST).min(MOST);
        let free = free.saturating_sub(room.used + 2);
        let mut keep = Self {
            line,
            ledger: Ledger::new(passed)?,
            ledger_name: Name::Ledger(room.last + 1),
            givers: Vec::new(),
            waiting: VecDeque::new(),
            under_way: None,
            removals: VecDeque::new(),
            last: room.last + 1,
            batch: BATCH,
            room: free,
            doubtful: room.most.is_none(),
            retry_at: None,
            outcome: Outcome {
                kept: 0,
                closed: 0,
                why: None,
            },
        };
        if free == 0 {
            keep.shut("the store is full");
        } else {
            keep.launch(keep.ledger_name.clone(), Vec::new(), epoll)?;
        }
        Ok(keep)
    }

    /// A worker will send its connections over this link.
    ///
    /// # Errors
    /// It cannot be watched.
    pub(super) fn add(&mut self, link: OwnedFd, epoll: &Epoll) -> io::Result<()> {
        watch(epoll, link.as_fd())?;
        let is_full = (self.batch == 0).then(|| Reply::Refused(0, self.why(), None));
        self.givers.push(Giver {
            link: Some(Link::over(link)),
            is_given_up: false,
            replies: is_full.into_iter().collect(),
        });
        Ok(())
    }

    /// A connection that no worker has.
    pub(super) fn take(&mut self, parcel: Parcel, socket: OwnedFd) {
        self.waiting.push_back(Item {
            giver: None,
            parcel,
            socket,
        });
    }

    /// Does everything that can be done now.
    pub(super) fn pump(&mut self, now: Moment, epoll: &Epoll, closing: &mut Closing) {
        self.retry_at = None;
        loop {
            self.send(now);
            let landed = self.land(now);
            let launched = self.launch_next(epoll);
            let received = self.receive();
            self.reply(now, closing);
            if !(landed || launched || received) {
                return;
            }
        }
    }

    /// No worker is left: waits, but not for ever, for what is under way, and closes the ledger.
    pub(super) fn finish(
        &mut self,
        limit: Duration,
        clock: impl Fn() -> Moment,
        epoll: &Epoll,
        closing: &mut Closing,
    ) -> Outcome {
        let end = clock() + limit;
        self.pump(clock(), epoll, closing);
        while !self.is_settled() && clock() < end {
            thread::sleep(AGAIN);
            self.pump(clock(), epoll, closing);
        }
        self.ledger.seal();
        self.removals.push_back(Name::Check);
        if self.outcome.kept == 0 {
            self.removals.push_back(self.ledger_name.clone());
        }
        while !self.send_removals(clock()) && clock() < end {
            thread::sleep(AGAIN);
        }
        self.wait_for_manager(end, clock);
        let given_up = self.under_way.take().map_or(0, |under| under.items.len());
        self.outcome.closed += given_up + self.waiting.len();
        if given_up + self.waiting.len() > 0 {
            self.outcome
                .why
                .get_or_insert("the service manager did not answer");
        }
        self.waiting.clear();
        self.outcome
    }

    /// Until it has seen everything: of a process that is gone it might not take it.
    fn wait_for_manager(&self, end: Moment, clock: impl Fn() -> Moment) {
        let Ok(mut barrier) = Barrier::new() else {
            return;
        };
        while let Ok(sent) = barrier.send(&self.line)
            && clock() < end
        {
            if sent {
                return barrier.wait(end.since(clock()));
            }
            thread::sleep(AGAIN);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.retry_at
    }

    pub(super) fn kept(&self) -> usize {
        self.outcome.kept
    }

    fn why(&self) -> &'static str {
        self.outcome.why.unwrap_or("the store is closed")
    }

    fn is_settled(&self) -> bool {
        self.waiting.is_empty()
            && self.under_way.is_none()
            && self.removals.is_empty()
            && self.givers.iter().all(|giver| giver.replies.is_empty())
    }

    fn send(&mut self, now: Moment) {
        if !self.send_removals(now) {
            return;
        }
        let Some(under) = &mut self.under_way else {
            return;
        };
        let fds: Vec<BorrowedFd<'_>> = if under.items.is_empty() {
            vec![self.ledger.as_fd()]
        } else {
            under.items.iter().map(|item| item.socket.as_fd()).collect()
        };
        match under.transfer.send(&self.line, &fds) {
            Ok(true) => {}
            Ok(false) => self.retry_at = Some(now + AGAIN),
            Err(error) => self.manager_is_gone(&error),
        }
    }

    /// False: not all of them now.
    fn send_removals(&mut self, now: Moment) -> bool {
        while let Some(name) = self.removals.front() {
            match self.line.remove(name) {
                Ok(true) => drop(self.removals.pop_front()),
                Ok(false) => {
                    self.retry_at = Some(now + AGAIN);
                    return false;
                }
                Err(error) => {
                    self.manager_is_gone(&error);
                    self.removals.clear();
                }
            }
        }
        true
    }

    fn manager_is_gone(&mut self, error: &io::Error) {
        tracing::warn!(error = %error, "the service manager's file descriptor store cannot be reached");
        if let Some(under) = self.under_way.take() {
            self.waiting.extend(under.items);
        }
        self.shut("the service manager cannot be reached");
    }

    /// Looks whether what was sent is in the store. True: that is known now.
    fn land(&mut self, now: Moment) -> bool {
        let Some(mut under) = self
            .under_way
            .take_if(|under| under.transfer.is_processed())
        else {
            return false;
        };
        if !under.transfer.is_stored() {
            self.not_stored(under);
            return true;
        }
        if self.doubtful {
            let until = *under.doubted_until.get_or_insert(now + DOUBT);
            if now < until {
                self.retry_at = Some(until);
                self.under_way = Some(under);
                return false;
            }
            self.doubtful = false;
        }
        self.room = self.room.saturating_sub(under.items.len());
        for item in under.items {
            match item.giver {
                Some(giver) => self.givers[giver].replies.push_back(Reply::Taken(item)),
                None => self.record(&item),
            }
        }
        true
    }

    /// The store has taken a part of it, or nothing, and does not say which: none of it is to stay. Half of it may
    /// fit.
    fn not_stored(&mut self, under: UnderWay) {
        self.removals.push_back(under.transfer.name());
        self.batch = under.items.len() / 2;
        for item in under.items.into_iter().rev() {
            self.waiting.push_front(item);
        }
        if self.batch == 0 {
            self.shut("the store is full, or off");
        }
    }

    /// True: there is more on its way now.
    fn launch_next(&mut self, epoll: &Epoll) -> bool {
        if self.room == 0 && self.batch > 0 && !self.waiting.is_empty() {
            self.shut("the store is full");
        }
        let count = self.batch.min(self.room).min(self.waiting.len());
        if self.under_way.is_some() || count == 0 {
            return false;
        }
        let items = self.waiting.drain(..count).collect();
        self.last += 1;
        match self.launch(Name::Connections(self.last), items, epoll) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(error = %error, "connections cannot be put into the file descriptor store");
                self.shut("the arbiter has no descriptors left");
                false
            }
        }
    }

    fn launch(&mut self, name: Name, items: Vec<Item>, epoll: &Epoll) -> io::Result<()> {
        let transfer = Transfer::new(name).and_then(|transfer| {
            watch(epoll, transfer.watched())?;
            Ok(transfer)
        });
        match transfer {
            Ok(transfer) => {
                self.under_way = Some(UnderWay {
                    transfer,
                    items,
                    doubted_until: None,
                });
                Ok(())
            }
            Err(error) => {
                self.waiting.extend(items);
                Err(error)
            }
        }
    }

    /// True: something came, and more may be there.
    fn receive(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.givers.len() {
            while self.batch == 0 || self.waiting.len() < BATCH {
                let giver = &mut self.givers[index];
                let Some(link) = &giver.link else { break };
                match link.receive() {
                    Ok(Incoming::Parcel(parcel, socket)) => {
                        any = true;
                        self.waiting.push_back(Item {
                            giver: Some(index),
                            parcel,
                            socket,
                        });
                        if self.batch == 0 {
                            self.refuse_all();
                        }
                    }
                    Ok(Incoming::Unusable { id, reason }) => {
                        any = true;
                        self.outcome.closed += 1;
                        giver.replies.push_back(Reply::Refused(id, reason, None));
                    }
                    Ok(Incoming::Empty) => break,
                    Ok(Incoming::Closed) => giver.link = None,
                    Err(error) => giver.give_up(&error),
                }
            }
        }
        any
    }

    /// Nothing more goes into the store. The workers hear of it: responses can still announce the close.
    fn shut(&mut self, why: &'static str) {
        self.batch = 0;
        self.outcome.why.get_or_insert(why);
        for giver in &mut self.givers {
            giver.replies.push_back(Reply::Refused(0, why, None));
        }
        self.refuse_all();
    }

    fn refuse_all(&mut self) {
        let why = self.why();
        for item in self.waiting.drain(..) {
            self.outcome.closed += 1;
            if let Some(giver) = item.giver {
                let reply = Reply::Refused(item.parcel.id, why, Some(item.socket));
                self.givers[giver].replies.push_back(reply);
            }
        }
    }

    /// Says what is to be said, as far as the workers listen.
    fn reply(&mut self, now: Moment, closing: &mut Closing) {
        let mut taken = Vec::new();
        for giver in &mut self.givers {
            while let Some(reply) = giver.replies.pop_front() {
                match (giver.say(&reply), reply) {
                    (Said::Later, reply) => {
                        giver.replies.push_front(reply);
                        self.retry_at = Some(now + AGAIN);
                        break;
                    }
                    (Said::Heard | Said::Gone, Reply::Taken(item)) => taken.push(item),
                    (Said::Gone, Reply::Refused(_, _, Some(socket))) => closing.add(socket, now),
                    (Said::Heard | Said::Gone | Said::GivenUp, _) => {}
                }
            }
        }
        for item in &taken {
            self.record(item);
        }
    }

    /// It is in the store, and nobody else's.
    fn record(&mut self, item: &Item) {
        let recorded = SockRef::from(&item.socket)
            .cookie()
            .and_then(|cookie| self.ledger.append(cookie, &item.parcel));
        match recorded {
            Ok(()) => self.outcome.kept += 1,
            Err(error) => {
                // The next process closes it.
                tracing::warn!(error = %error, "a connection in the file descriptor store has no record");
                self.outcome.closed += 1;
            }
        }
    }
}

impl Giver {
    fn say(&mut self, reply: &Reply) -> Said {
        let Some(link) = &self.link else {
            return if self.is_given_up {
                Said::GivenUp
            } else {
                Said::Gone
            };
        };
        let answer = match reply {
            Reply::Taken(item) => Answer::Taken { id: item.parcel.id },
            Reply::Refused(id, reason, _) => Answer::Refused {
                id: *id,
                reason: (*reason).to_owned(),
            },
        };
        match link.answer(&answer) {
            Ok(()) => Said::Heard,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Said::Later,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Said::Gone,
            Err(error) => {
                self.give_up(&error);
                Said::GivenUp
            }
        }
    }

    fn give_up(&mut self, error: &io::Error) {
        tracing::warn!(
            error = chain(error),
            "a link from a worker to the arbiter is given up"
        );
        self.link = None;
        self.is_given_up = true;
    }
}

/// What became of an answer.
#[derive(Clone, Copy)]
enum Said {
    Heard,
    /// Nobody hears it, and nobody takes the connection back.
    Gone,
    /// Its worker takes the connection back.
    GivenUp,
    Later,
}

/// Edge-triggered: each time that something comes, everything is looked at.
pub(super) fn watch(epoll: &Epoll, fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
    Ok(epoll.add(fd, EpollEvent::new(flags, Source::Store.into()))?)
}

#[cfg(test)]
mod tests;
