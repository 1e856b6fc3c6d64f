//! What is known about one connection: the only thing that its parts share.

use std::fmt;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::upgrade::Upgrade;
use crate::peer::Peer;
use crate::worker::server::Shared;
use crate::worker::signal::Order;

/// The state of one connection, shared by the socket's wrapper, the calls of the service and the driver.
///
/// All of them run in the connection's task, except HTTP/2 streams and request bodies that a handler gave
/// to another task. So each flag has one writer, and plain loads and stores are enough; only the counts
/// that other tasks lower are read-modify-write. Nothing is published through them: what one task must
/// see of another comes with the wake-up. The one exception is `bodies_open`: who sees that nobody holds a
/// body any more also sees that it was abandoned, and hyper sees that its receiver is gone.
pub(in crate::worker) struct State {
    pub(super) server: Arc<Shared>,
    pub(super) peer: Peer,
    /// Unique in this worker.
    number: u64,
    /// Requests that other workers have served on it before.
    earlier: u64,
    /// How many requests were read. Written by the calls.
    requests: AtomicU64,
    /// Requests whose response hyper has not taken whole.
    in_flight: AtomicU32,
    /// When the connection began or `in_flight` last fell to zero: nanoseconds since the server was made.
    idle_since: AtomicU64,
    /// Request bodies that somebody still holds and that have not ended.
    bodies_open: AtomicU32,
    /// A request body was dropped before its end: what follows on the wire may be the rest of it.
    body_abandoned: AtomicBool,
    /// The last response was one after which the connection leaves HTTP.
    upgraded: AtomicBool,
    upgrade: Mutex<Option<Box<Upgrade>>>,
    /// Responses on their way that are streams of events.
    event_streams: AtomicU32,
    /// A stream of events was ended since the server goes away.
    events_ended: AtomicBool,
    /// The connection's task, when it waits for their end.
    after_events: Mutex<Option<Waker>>,
    /// Bytes were read since the last request ended, and no request came of them yet.
    pub(super) head_begun: AtomicBool,
    /// hyper has written and not yet flushed.
    pub(super) writing: AtomicBool,
    /// The wrapper holds bytes that are not in the kernel.
    pub(super) held: AtomicBool,
    /// The driver wants the held bytes written with the next flush.
    pub(super) release: AtomicBool,
    /// The peer has closed its side.
    pub(super) eof: AtomicBool,
    /// It speaks HTTP/2: hyper's HTTP/1.1 has seen none of its bytes.
    pub(super) http2: AtomicBool,
    /// The offers to other workers that it has had in vain, as [`Handoff::epoch`] names them.
    ///
    /// [`Handoff::epoch`]: crate::worker::handoff::Handoff::epoch
    unwanted: AtomicU32,
    /// The arbiter has refused to keep it: there is nobody who could take it any more.
    refused: AtomicBool,
}

impl State {
    /// `earlier`: requests that other workers have served on it.
    pub(in crate::worker) fn new(server: Arc<Shared>, peer: Peer, earlier: u64) -> Self {
        Self {
            earlier,
            number: server.next_connection(),
            idle_since: AtomicU64::new(server.now()),
            server,
            peer,
            requests: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            bodies_open: AtomicU32::new(0),
            body_abandoned: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            upgrade: Mutex::new(None),
            event_streams: AtomicU32::new(0),
            events_ended: AtomicBool::new(false),
            after_events: Mutex::new(None),
            head_begun: AtomicBool::new(false),
            writing: AtomicBool::new(false),
            held: AtomicBool::new(false),
            release: AtomicBool::new(false),
            eof: AtomicBool::new(false),
            http2: AtomicBool::new(false),
            unwanted: AtomicU32::new(0),
            refused: AtomicBool::new(false),
        }
    }

    /// How long nothing may happen on it between two requests, and before the first.
    pub(super) fn idle_limit(&self) -> Duration {
        if self.all_requests() == 0 {
            self.server.patience()
        } else {
            self.server.http.keep_alive_timeout
        }
    }

    /// A request was read: its number on this connection, from 1. Only from the connection's task.
    pub(super) fn request_begun(&self) -> u64 {
        let number = self.requests.load(Relaxed) + 1;
        self.requests.store(number, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        self.head_begun.store(false, Relaxed);
        self.server.meter.request_started();
        self.server.count_request();
        number
    }

    /// hyper has the whole response, or nobody wants it any more. `begun` is the server's time then.
    pub(super) fn request_ended(&self, begun: u64) {
        let now = self.server.now();
        let took = Duration::from_nanos(now.saturating_sub(begun));
        self.server.meter.request_ended(took);
        if self.in_flight.fetch_sub(1, Relaxed) == 1 {
            self.idle_since.store(now, Relaxed);
        }
    }

    /// Somebody holds a request's body.
    pub(super) fn body_begun(&self) {
        self.bodies_open.fetch_add(1, Relaxed);
    }

    /// Nobody holds it any more: hyper must not be able to give anything to it by now.
    pub(super) fn body_ended(&self, abandoned: bool) {
        if abandoned {
            self.body_abandoned.store(true, Relaxed);
        }
        if self.bodies_open.fetch_sub(1, Release) == 1
            && self.server.signal().order() > Order::Serve
        {
            // Whoever held it may have been the last thing that the connection had to wait for.
            self.server.signal().call();
        }
    }

    /// When this response is written, HTTP is over.
    pub(super) fn upgrades(&self, upgrade: Box<Upgrade>) {
        *self.upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgrade);
        self.upgraded.store(true, Relaxed);
    }

    /// What the last response said about the time after HTTP, once.
    pub(super) fn take_upgrade(&self) -> Option<Box<Upgrade>> {
        if !self.upgraded.swap(false, Relaxed) {
            return None;
        }
        let mut upgrade = self.upgrade.lock().unwrap_or_else(PoisonError::into_inner);
        upgrade.take()
    }

    /// A response begins that is a stream of events.
    pub(super) fn events_begun(&self) {
        self.event_streams.fetch_add(1, Relaxed);
    }

    /// hyper has its end, or nobody wants it any more. `early`: the server has ended it.
    pub(super) fn events_over(&self, early: bool) {
        if early {
            self.events_ended.store(true, Relaxed);
        }
        if self.event_streams.fetch_sub(1, Release) == 1
            && self.server.signal().order() == Order::Cancel
        {
            let waker = self.waits_for_events().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Wakes the connection's task when no stream of events is on its way any more.
    pub(super) fn wake_after_events(&self, cx: &Context<'_>) {
        *self.waits_for_events() = Some(cx.waker().clone());
        if !self.has_events() {
            cx.waker().wake_by_ref();
        }
    }

    fn waits_for_events(&self) -> MutexGuard<'_, Option<Waker>> {
        let waker = self.after_events.lock();
        waker.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a body was abandoned since the last time that this was asked.
    pub(super) fn take_abandoned(&self) -> bool {
        self.body_abandoned.swap(false, Relaxed)
    }

    /// No other worker has taken it.
    pub(super) fn is_unwanted(&self, epoch: u32) {
        self.unwanted.store(epoch, Relaxed);
    }

    /// No other process will ever take it.
    pub(super) fn is_refused(&self) {
        self.refused.store(true, Relaxed);
    }

    /// Nothing is in flight as yet, and from now on that counts as idle.
    pub(super) fn idle_begins(&self) {
        self.idle_since.store(self.server.now(), Relaxed);
    }

    /// Those that this worker has read.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Those that all workers together have read.
    pub(super) fn all_requests(&self) -> u64 {
        self.earlier + self.requests()
    }

    pub(super) fn busy(&self) -> bool {
        self.in_flight.load(Relaxed) > 0
    }

    /// Whether bytes that come in now begin a request (or a body nobody waits for, which hyper sorts out).
    pub(super) fn awaits_head(&self) -> bool {
        !self.busy() && self.bodies_open.load(Acquire) == 0
    }

    /// Whether a stream of events is on its way, so that the connection may say its end before it is cancelled.
    pub(super) fn has_events(&self) -> bool {
        self.event_streams.load(Acquire) > 0
    }

    /// Whether the client of a stream of events has heard its end, or will.
    pub(super) fn says_goodbye(&self) -> bool {
        self.has_events() || self.events_ended.load(Relaxed)
    }

    /// Whether something that was answered is not in the kernel yet.
    pub(super) fn unflushed(&self) -> bool {
        self.writing.load(Relaxed) || self.held.load(Relaxed)
    }

    /// Whether another worker could go on with it from what is unread: a half-read head does not matter, since
    /// it goes along.
    pub(super) fn can_leave(&self) -> bool {
        self.awaits_head()
            && !self.unflushed()
            && !self.eof.load(Relaxed)
            && !self.upgraded.load(Relaxed)
    }

    /// Whether there is another worker that might take it when this one leaves.
    pub(super) fn has_heir(&self) -> bool {
        let handoff = &self.server.handoff;
        self.unwanted.load(Relaxed) != handoff.epoch() && handoff.has_heirs()
    }

    /// What the server's order means for this connection.
    pub(super) fn told(&self, order: Order) -> Order {
        match order {
            Order::HandOff if self.refused.load(Relaxed) => Order::Drain,
            order => order,
        }
    }

    /// What the server wants of this connection.
    pub(super) fn order(&self) -> Order {
        self.told(self.server.signal().order())
    }

    /// Whether it leaves this worker as soon as it can.
    pub(super) fn is_leaving(&self) -> bool {
        self.order() == Order::HandOff
    }

    /// Nothing is going on in either direction: the connection can be closed unnoticed.
    pub(super) fn idle(&self) -> bool {
        self.awaits_head() && !self.head_begun.load(Relaxed) && !self.unflushed()
    }

    /// Since when nothing is in flight. Meaningless while [`busy`](Self::busy).
    pub(super) fn idle_since(&self) -> Instant {
        self.server.started + Duration::from_nanos(self.idle_since.load(Relaxed))
    }

    /// For log lines and the client: unique among the requests of all workers of this service's life.
    pub(super) fn request_id(&self, request: u64) -> RequestId {
        RequestId {
            worker: self.server.meter.seat().worker.load(Relaxed),
            connection: self.number,
            request,
        }
    }
}

/// `worker-connection-request`, rendered only when somebody wants to read it.
#[derive(Clone, Copy)]
pub(super) struct RequestId {
    worker: u64,
    connection: u64,
    request: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.worker, self.connection, self.request)
    }
}
