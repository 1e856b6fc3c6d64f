//! One client: connects, thinks, and counts what becomes of its requests and connections.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::address::{Address, Stream};
use super::tally::{Counts, Loss, Tally};
use super::wire::{Broken, Stir, Wire};

/// Between two attempts to connect, and after anything that went wrong: a server that is broken is not to be asked
/// as fast as a loop can.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) struct Client {
    pub(super) address: Address,
    pub(super) patience: Duration,
    name: String,
    /// In the ids of its requests.
    prefix: String,
    group: usize,
    keeps: bool,
    tally: Arc<Tally>,
    stop: watch::Receiver<bool>,
    random: Cell<fastrand::Rng>,
    connection: Cell<u64>,
    requests: Cell<u64>,
    ready: Cell<bool>,
}

/// What a client is made of.
pub(super) struct Parts {
    pub(super) address: Address,
    pub(super) patience: Duration,
    pub(super) kind: String,
    pub(super) group: usize,
    pub(super) number: u64,
    /// Whether it would keep its connection for ever.
    pub(super) keeps: bool,
    pub(super) seed: u64,
    pub(super) tally: Arc<Tally>,
    pub(super) stop: watch::Receiver<bool>,
}

/// How a connection ended that the client has not ended by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    /// The server had said that it would.
    Announced,
    Unannounced,
    /// The client does not trust it any more.
    GivenUp,
}

impl Client {
    pub(super) fn new(parts: Parts) -> Rc<Self> {
        let Parts { group, number, .. } = parts;
        let seed =
            parts.seed ^ (((group as u64) << 32) | number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Rc::new(Self {
            address: parts.address,
            patience: parts.patience,
            name: format!("{} client {number}", parts.kind),
            prefix: format!("{group}-{number}"),
            group,
            keeps: parts.keeps,
            tally: parts.tally,
            stop: parts.stop,
            random: Cell::new(fastrand::Rng::with_seed(seed)),
            connection: Cell::new(0),
            requests: Cell::new(0),
            ready: Cell::new(false),
        })
    }

    /// A source of its own, the same in every run with the same seed.
    pub(super) fn random(&self) -> fastrand::Rng {
        let mut random = self.random.replace(fastrand::Rng::with_seed(0));
        let forked = random.fork();
        self.random.set(random);
        forked
    }

    /// An id that no other request has.
    pub(super) fn next_id(&self) -> String {
        self.requests.set(self.requests.get() + 1);
        format!("{}-{}", self.prefix, self.requests.get())
    }

    /// A new connection; none: the load is over. Tries until there is one.
    pub(super) async fn connect(&self) -> Option<Stream> {
        let again = self.keeps && self.connection.get() > 0;
        while !self.stopping() {
            let from = Instant::now();
            let refused = match timeout(self.patience, self.address.connect()).await {
                Ok(Ok(stream)) => {
                    self.connection.set(self.connection.get() + 1);
                    self.count(|counts| {
                        counts.opened += 1;
                        counts.reconnects += u64::from(again);
                    });
                    return Some(stream);
                }
                Ok(Err(error)) if is_ours(&error) => {
                    self.tally.unable(format!("connect: {error}"));
                    sleep(PAUSE).await;
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer to a SYN in time".to_owned(),
            };
            self.count(|counts| counts.refused += 1);
            self.failed(None, format!("refused: {refused}"), from);
            sleep(PAUSE).await;
        }
        None
    }

    /// Waits, but not when the load is over, and watches the idle connection meanwhile. False: it is not to be used
    /// any more, which is counted.
    pub(super) async fn think(&self, wire: &mut Wire, time: Duration) -> bool {
        let from = Instant::now();
        let stir = tokio::select! {
            biased;
            stir = wire.stirs() => stir,
            () = self.wait(time) => return true,
        };
        match stir {
            Stir::Broken(broken) => {
                self.failed(None, format!("closed while idle: {broken}"), from);
                self.ended(End::Unannounced).await;
            }
            Stir::Bytes(bytes) => {
                self.unasked(&bytes, from);
                self.ended(End::GivenUp).await;
            }
        }
        false
    }

    /// Ends early when the load is over.
    pub(super) async fn wait(&self, time: Duration) {
        let mut stop = self.stop.clone();
        let _ = timeout(time, stop.wait_for(|stop| *stop)).await;
    }

    pub(super) fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// The connection is open, and the load is over.
    pub(super) fn lived(&self) {
        if self.connection.get() == 1 {
            self.count(|counts| counts.lived += 1);
        }
    }

    /// The connection is no more.
    pub(super) async fn ended(&self, end: End) {
        self.count(|counts| match end {
            End::Announced => counts.announced += 1,
            End::Unannounced => counts.unannounced += 1,
            End::GivenUp => counts.given_up += 1,
        });
        if end != End::Announced {
            sleep(PAUSE).await;
        }
    }

    /// Of a connection that broke while answers were due. `announced`: by an earlier answer.
    pub(super) fn end_of(broken: &Broken, announced: bool) -> End {
        match broken {
            Broken::Silent | Broken::Garbled(_) => End::GivenUp,
            _ if announced => End::Announced,
            Broken::Closed | Broken::Reset(_) => End::Unannounced,
        }
    }

    /// The first byte of a request was written.
    pub(super) fn sent(&self) {
        self.count(|counts| counts.sent += 1);
    }

    /// A complete, right answer. `from`: the request's first byte; `latency`: from its last byte.
    pub(super) fn answered(&self, from: Instant, latency: Duration) {
        self.tally.latency(self.group, from, latency);
        self.count(|counts| counts.answered += 1);
        self.ready();
    }

    /// It is served: an answer, or the first part of one that has no end.
    pub(super) fn ready(&self) {
        if !self.ready.replace(true) {
            self.tally.ready();
        }
    }

    pub(super) fn wrong(&self, request: String, why: &str, from: Instant) {
        self.count(|counts| counts.wrong += 1);
        self.failed(Some(request), format!("wrong: {why}"), from);
    }

    pub(super) fn lost(&self, request: String, loss: Loss, why: &str, from: Instant) {
        self.count(|counts| {
            counts.lost += 1;
            *counts.lost_by.entry(loss).or_default() += 1;
        });
        self.failed(Some(request), format!("lost, {loss} ({why})"), from);
    }

    pub(super) fn unasked(&self, bytes: &str, from: Instant) {
        self.count(|counts| counts.unasked += 1);
        self.failed(None, format!("came without a request: {bytes}"), from);
    }

    pub(super) fn retryable(&self) {
        self.count(|counts| counts.retryable += 1);
    }

    /// Tells what went wrong; the counting is another's.
    pub(super) fn failed(&self, request: Option<String>, what: String, from: Instant) {
        let connection = self.connection.get();
        self.tally
            .failed(self.name.clone(), connection, request, what, from);
    }

    fn count(&self, count: impl FnOnce(&mut Counts)) {
        self.tally.count(self.group, count);
    }
}

/// Errors of connect(2) that say nothing of the server: no local port, no descriptor, no memory.
fn is_ours(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(
            Errno::EADDRNOTAVAIL
                | Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOBUFS
                | Errno::ENOMEM
                | Errno::EACCES
                | Errno::EPERM
        )
    )
}
