//! The way out of the manager's store: connections of the service's last life go to the workers of this one.
//!
//! They leave the store first, and all at once. What was served from here on must never come back: a request would be
//! answered twice.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::epoll::Epoll;
use socket2::SockRef;

use super::closing::Closing;
use super::keep::watch;
use super::ledger;
use super::{AGAIN, DEAF};
use crate::exit::chain;
use crate::ipc::parcel::{Answer, Link, Outcome, Parcel};
use crate::moment::Moment;
use crate::sockets::activation::Stored;
use crate::systemd::fd_store::{Line, Name};

/// A connection that so many workers have refused is closed.
const TRIES: u32 = 3;

/// What came back from the store at the start.
#[derive(Debug, Default)]
pub(super) struct Leftover {
    pub(super) names: BTreeSet<Name>,
    /// How many descriptors they stand for.
    pub(super) count: usize,
    /// The listeners were passed then.
    pub(super) passed: bool,
    connections: Vec<(Parcel, OwnedFd)>,
    /// What payloads have kept, the newest first.
    pub(super) kept: Vec<OwnedFd>,
    /// Nothing is known of these.
    unknown: Vec<OwnedFd>,
}

impl Leftover {
    /// Finds out which connection is which.
    pub(super) fn new(stored: Vec<Stored>) -> Self {
        let mut leftover = Self::default();
        let (mut records, mut sockets) = (BTreeMap::new(), Vec::new());
        let mut kept = Vec::new();
        for Stored { name, fd } in stored {
            leftover.names.insert(name.clone());
            leftover.count += 1;
            match name {
                Name::Kept(number) => kept.push((number, fd)),
                Name::Other(name, _) => {
                    tracing::info!(
                        name = &*name,
                        "another version of this program has left something in the file descriptor store"
                    );
                }
                Name::Check => {}
                Name::Connections(_) => sockets.push(fd),
                Name::Ledger(_) => {
                    let (mut contents, trouble) = ledger::read(fd);
                    records.append(&mut contents.records);
                    leftover.passed |= contents.passed;
                    if let Some(why) = trouble {
                        tracing::warn!(
                            name = %name,
                            why,
                            "what is known of the connections in the file descriptor store cannot be read"
                        );
                    }
                }
            }
        }
        kept.sort_by_key(|(number, _)| Reverse(*number));
        leftover.kept = kept.into_iter().map(|(_, fd)| fd).collect();
        for socket in sockets {
            let known = usable(&socket).and_then(|cookie| records.remove(&cookie));
            match known {
                Some(parcel) => leftover.connections.push((parcel, socket)),
                None => leftover.unknown.push(socket),
            }
        }
        leftover
    }
}

/// Its cookie.
fn usable(socket: &OwnedFd) -> Option<u64> {
    let socket = SockRef::from(socket);
    // Whoever has passed it may have changed that.
    socket.set_nonblocking(true).ok()?;
    socket.cookie().ok()
}

/// Gives the connections to workers. Never waits.
#[derive(Debug)]
pub(super) struct Adoption {
    line: Option<Line>,
    /// To be taken out of the store, before anything is given.
    removals: VecDeque<Name>,
    waiting: VecDeque<Offer>,
    unknown: Vec<OwnedFd>,
    heirs: Vec<Heir>,
    last: u64,
    retry_at: Option<Moment>,
    pub(super) adopted: usize,
    pub(super) closed: usize,
}

#[derive(Debug)]
struct Offer {
    parcel: Parcel,
    socket: OwnedFd,
    refused: u32,
}

/// A worker that takes connections.
#[derive(Debug)]
struct Heir {
    link: Link,
    /// Offers that it has not answered, by number.
    open: BTreeMap<u64, Offer>,
    /// How many it was offered in all.
    offered: usize,
    /// It can be sent nothing more; its answers may still come.
    is_broken: bool,
}

impl Adoption {
    /// Without a line there is no store to remove anything from.
    pub(super) fn new(leftover: Leftover, line: Option<Line>) -> Self {
        let offer = |(parcel, socket)| Offer {
            parcel,
            socket,
            refused: 0,
        };
        let mut removals = VecDeque::new();
        if line.is_some() {
            removals.extend(leftover.names);
        }
        Self {
            line,
            removals,
            waiting: leftover.connections.into_iter().map(offer).collect(),
            unknown: leftover.unknown,
            heirs: Vec::new(),
            last: 0,
            retry_at: None,
            adopted: 0,
            closed: 0,
        }
    }

    /// A worker takes connections over this link.
    ///
    /// # Errors
    /// It cannot be watched.
    pub(super) fn add(&mut self, link: OwnedFd, epoll: &Epoll) -> io::Result<()> {
        watch(epoll, link.as_fd())?;
        self.heirs.push(Heir {
            link: Link::over(link),
            open: BTreeMap::new(),
            offered: 0,
            is_broken: false,
        });
        Ok(())
    }

    /// Does everything that can be done now.
    pub(super) fn pump(&mut self, now: Moment, closing: &mut Closing) {
        self.retry_at = None;
        if !self.leave_the_store(now) {
            return;
        }
        for socket in self.unknown.drain(..) {
            self.closed += 1;
            closing.add(socket, now);
        }
        self.hear(now, closing);
        self.offer(now);
    }

    /// What no worker has: the service stops. Answers that are missing decide as before.
    pub(super) fn take_waiting(&mut self) -> Vec<(Parcel, OwnedFd)> {
        let waiting = self.waiting.drain(..);
        waiting.map(|offer| (offer.parcel, offer.socket)).collect()
    }

    pub(super) fn wants_heirs(&self) -> bool {
        !self.waiting.is_empty() && self.heirs.iter().all(|heir| heir.is_broken)
    }

    /// Everything is out of the store, and with a worker or closed.
    pub(super) fn is_done(&self) -> bool {
        let idle = self.heirs.iter().all(|heir| heir.open.is_empty());
        self.removals.is_empty() && self.unknown.is_empty() && self.waiting.is_empty() && idle
    }

    /// Of what is in the store still, what payloads have kept.
    pub(super) fn kept_names(&self) -> Vec<Name> {
        let is_kept = |name: &&Name| matches!(name, Name::Kept(_));
        self.removals.iter().filter(is_kept).cloned().collect()
    }

    /// Nothing is left in the store.
    pub(super) fn has_left_the_store(&self) -> bool {
        self.removals.is_empty()
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.retry_at
    }

    fn leave_the_store(&mut self, now: Moment) -> bool {
        while let (Some(name), Some(line)) = (self.removals.front(), &self.line) {
            match line.remove(name) {
                Ok(true) => drop(self.removals.pop_front()),
                Ok(false) => {
                    self.retry_at = Some(now + AGAIN);
                    return false;
                }
                Err(error) => {
                    // Then its store is gone, too.
                    tracing::warn!(error = %error, "the file descriptor store cannot be emptied");
                    self.removals.clear();
                }
            }
        }
        true
    }

    fn hear(&mut self, now: Moment, closing: &mut Closing) {
        let Self {
            heirs,
            waiting,
            retry_at,
            ..
        } = self;
        heirs.retain_mut(|heir| {
            loop {
                match heir.link.outcome() {
                    Ok(Outcome::Empty) => return true,
                    Ok(Outcome::Answer(Answer::Taken { id })) => {
                        self.adopted += usize::from(heir.open.remove(&id).is_some());
                    }
                    Ok(Outcome::Answer(Answer::Refused { id, reason })) => {
                        let Some(mut offer) = heir.open.remove(&id) else {
                            continue;
                        };
                        offer.refused += 1;
                        if offer.refused < TRIES {
                            waiting.push_back(offer);
                        } else {
                            tracing::debug!(reason, "no worker takes a connection of the last run");
                            self.closed += 1;
                            closing.add(offer.socket, now);
                        }
                    }
                    Ok(Outcome::Unreadable(reason)) => {
                        tracing::warn!(reason, "an answer cannot be read");
                    }
                    // It is no end: that would make ours what the worker may be serving.
                    Err(error) => {
                        tracing::warn!(
                            error = chain(&error),
                            "the answers of a worker cannot be read now"
                        );
                        *retry_at = Some(now + DEAF);
                        return true;
                    }
                    Ok(Outcome::Closed) => {
                        waiting.extend(std::mem::take(&mut heir.open).into_values());
                        return false;
                    }
                }
            }
        });
    }

    /// Each to the worker that was offered the fewest.
    fn offer(&mut self, now: Moment) {
        let mut full = BTreeSet::new();
        while let Some(mut offer) = self.waiting.pop_front() {
            let fit = self.heirs.iter_mut().enumerate();
            let heir = fit
                .filter(|(index, heir)| !heir.is_broken && !full.contains(index))
                .min_by_key(|(_, heir)| heir.offered);
            let Some((index, heir)) = heir else {
                self.waiting.push_front(offer);
                break;
            };
            self.last += 1;
            offer.parcel.id = self.last;
            match heir.link.send(&offer.parcel, offer.socket.as_fd()) {
                Ok(()) => {
                    heir.offered += 1;
                    heir.open.insert(self.last, offer);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => heir.is_broken = true,
                // Its link is full, or too many descriptors are on their way.
                Err(_) => {
                    full.insert(index);
                    self.retry_at = Some(now + AGAIN);
                }
            }
            self.waiting.push_front(offer);
        }
    }
}

#[cfg(test)]
mod tests;
