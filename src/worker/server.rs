//! The worker's HTTP server: accepts, serves, drains.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use tokio::io::DuplexStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::accept;
use super::connection;
use super::gate::Gate;
use super::handoff::Handoff;
use super::room::Room;
use super::signal::{Order, Signal};
use super::tasks::{Streams, Tasks};
use crate::app::service::Service;
use crate::config::Http;
use crate::exit::Failure;
use crate::ipc::orders;
use crate::ipc::scoreboard::Meter;
use crate::lifecycle;
use crate::logs::events::Event;
use crate::peer::Peer;
use crate::sockets::Listener;

/// hyper's own limit; with any other it allocates for the headers of every request.
const HYPER_MAX_HEADERS: usize = 100;
/// What hyper buffers of a body, and of a response, at least.
const MIN_BUFFER: usize = 64 * 1024;
/// HTTP/2: how often a silent peer is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// At a cancel, what the last words to the clients of WebSockets and event streams may take.
const FAREWELL: Duration = Duration::from_millis(500);

/// After so long whoever was cancelled has had them.
const LAST_WORDS: Duration = Duration::from_millis(750);

/// Serves the listeners with one service, in the runtime it is used in.
///
/// 1. [`serve`](Server::serve) once, when the worker may accept.
/// 2. [`link`](Server::link), whenever the arbiter says something about handing connections on.
/// 3. [`drain`](Server::drain), as often as one likes: nothing new is taken; it ends when nothing is left.
/// 4. [`cancel`](Server::cancel), at the deadline.
/// 5. [`end`](Server::end).
///
/// All of it must run inside one tokio runtime with time and IO.
pub(crate) struct Server {
    shared: Arc<Shared>,
    listeners: Arc<[Listener]>,
}

/// What a cancel has left behind.
pub(crate) struct Rest {
    tasks: Arc<Tasks>,
    until: Instant,
}

impl Rest {
    /// Lets those say their last words who still may. Who does not come to an end all the same blocks a thread, and
    /// then it says so.
    pub(crate) async fn end(self) -> Option<String> {
        if timeout_at(self.until, self.tasks.over()).await.is_ok() {
            return None;
        }
        let count = self.tasks.count();
        let requests = if count == 1 { "request" } else { "requests" };
        Some(format!(
            "{count} {requests} did not end although cancelled: what blocks its thread belongs into spawn_blocking"
        ))
    }
}

impl Server {
    /// What a [`cancel`](Self::cancel) takes at most that nothing goes wrong with.
    pub(crate) const PATIENCE: Duration = Duration::from_millis(1500);

    /// `max_requests`: after so many requests [`request_limit`](Server::request_limit) resolves; the
    /// server itself goes on.
    pub(crate) fn new(
        listeners: Arc<[Listener]>,
        service: Service,
        http: Http,
        meter: Meter,
        max_requests: Option<u64>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared::new(service, http, meter, max_requests)),
            listeners,
        }
    }

    /// Starts to accept.
    ///
    /// # Errors
    /// A listener could not be registered with the runtime.
    pub(crate) fn serve(&self) -> Result<(), Failure> {
        for listener in self.listeners.iter() {
            accept::start(listener, &self.shared)?;
        }
        Ok(())
    }

    /// Serves a connection that no listener has accepted.
    pub(crate) fn attach(&self, socket: DuplexStream, peer: Peer) {
        let serving = connection::serve(socket, peer, self.shared.clone(), None);
        self.shared.tasks.spawn(serving);
    }

    /// Does what the arbiter orders about accepting and about links to other workers; `link` is the end that came
    /// with the order.
    pub(crate) fn link(&self, order: orders::Order, link: Option<OwnedFd>) {
        let server = &self.shared;
        let linked = match (order, link) {
            (orders::Order::Receive { from }, Some(link)) => Handoff::receive(server, from, link),
            (orders::Order::Give { to, seat, count }, Some(link)) => {
                Handoff::add_heir(server, to, seat, count, link)
            }
            (orders::Order::Close, _) => {
                server.signal().raise(Order::Drain);
                Ok(())
            }
            (orders::Order::Pause { round }, _) => {
                server.gate.close(round);
                server.signal().call_always();
                Ok(())
            }
            (orders::Order::Resume, _) => {
                server.gate.open();
                server.signal().call_always();
                Ok(())
            }
            _ => Err(std::io::Error::other(
                "the link did not come with the order",
            )),
        };
        if let Err(error) = linked {
            // Its other end sees that it is closed.
            tracing::warn!(order = ?order, error = %error, "a link to another worker cannot be used");
        }
    }

    /// Resolves with the number of an order to pause when no accept is under way, once for each. Cancel-safe.
    pub(crate) async fn paused(&self) -> u64 {
        self.shared.gate.all_hold().await
    }

    /// Accepts nothing any more, but for what is under way. [`drain`](Self::drain) follows.
    pub(crate) fn close(&self) {
        self.shared.signal().raise(Order::HandOff);
    }

    /// Resolves when no accept is under way and, after [`close`](Self::close), none will be. Cancel-safe.
    pub(crate) async fn nobody_accepts(&self) {
        self.shared.tasks.nobody_accepts().await;
    }

    /// Stops accepting and resolves when no connection is left.
    ///
    /// Idle HTTP/1.1 connections are given to the workers that take over, and busy ones after their response. As
    /// long as nobody is known who does, idle ones wait for that, and responses announce the close. After
    /// [`Order::Close`](orders::Order::Close) nobody will: idle connections are closed. HTTP/2 gets GOAWAY.
    ///
    /// Cancel-safe: dropped, it leaves the server draining.
    pub(crate) async fn drain(&self) {
        self.close();
        self.shared.tasks.over().await;
    }

    /// Drops every handler that still runs and closes every connection. WebSockets get a close frame with 1001
    /// between two frames of the author's, and streams of events end as streams do; that and the closing have half a
    /// second. No task of the server is left when it returns, or there is a rest after so much `patience`: with less
    /// than [`PATIENCE`](Self::PATIENCE) last words, and handlers that block their threads.
    pub(crate) async fn cancel(&self, patience: Duration) -> Option<Rest> {
        let (begun, tasks) = (Instant::now(), &self.shared.tasks);
        self.cut_off();
        if timeout(patience, tasks.over()).await.is_ok() {
            return None;
        }
        Some(Rest {
            tasks: tasks.clone(),
            until: begun + LAST_WORDS,
        })
    }

    /// The beginning of that, for whoever does not wait.
    pub(crate) fn cut_off(&self) {
        self.shared.signal().raise(Order::Cancel);
    }

    /// Closes the links to other workers, and says what came of the handoff. `left`: the connections that were
    /// open when the drain was over.
    pub(crate) async fn end(&self, left: u64) {
        let tally = self.shared.handoff.tally();
        if self.shared.handoff.epoch() > 0 || tally.given > 0 {
            lifecycle!(
                Event::HandedOn,
                given = tally.given,
                taken_back = tally.taken_back,
                left,
                "connections were handed on"
            );
        }
        self.shared.handoff.end().await;
    }

    pub(crate) fn connections(&self) -> u64 {
        self.shared.meter.seat().connections.load(Relaxed)
    }

    /// Resolves when accepting has failed for good. Cancel-safe.
    pub(crate) async fn fatal(&self) -> Failure {
        loop {
            let failed = self.shared.failed.notified();
            let failure = self
                .shared
                .failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            match failure {
                Some(failure) => return failure,
                None => failed.await,
            }
        }
    }

    /// Resolves when `max_requests` requests were taken; never without such a limit. Cancel-safe.
    pub(crate) async fn request_limit(&self) {
        loop {
            let mut reached = std::pin::pin!(self.shared.limit_reached.notified());
            reached.as_mut().enable();
            if self
                .shared
                .max_requests
                .is_some_and(|max| self.shared.requests.load(Relaxed) >= max)
            {
                return;
            }
            reached.await;
        }
    }
}

/// What every connection of the server uses.
pub(super) struct Shared {
    pub(super) service: Service,
    pub(super) http: Http,
    pub(super) meter: Meter,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<Streams>,
    pub(super) tasks: Arc<Tasks>,
    pub(super) room: Arc<Room>,
    pub(super) gate: Gate,
    pub(super) handoff: Handoff,
    pub(super) started: Instant,
    farewell: OnceLock<Instant>,
    connections: AtomicU64,
    requests: AtomicU64,
    max_requests: Option<u64>,
    limit_reached: Notify,
    failure: Mutex<Option<Failure>>,
    failed: Notify,
}

impl Shared {
    pub(super) fn new(
        service: Service,
        http: Http,
        meter: Meter,
        max_requests: Option<u64>,
    ) -> Self {
        let tasks = Arc::new(Tasks::new());
        Self {
            http1: http1_builder(&http),
            http2: http2_builder(&http, tasks.clone()),
            room: Room::new(http.max_connections),
            gate: Gate::default(),
            handoff: Handoff::default(),
            service,
            http,
            meter,
            tasks,
            started: Instant::now(),
            farewell: OnceLock::new(),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            max_requests,
            limit_reached: Notify::new(),
            failure: Mutex::new(None),
            failed: Notify::new(),
        }
    }

    pub(super) fn signal(&self) -> &Signal {
        &self.tasks.signal
    }

    /// From 1.
    pub(super) fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn count_request(&self) {
        if let Some(max) = self.max_requests
            && self.requests.fetch_add(1, Relaxed) + 1 == max
        {
            self.limit_reached.notify_waiters();
        }
    }

    /// How long a client may take for its first word, and to take the last bytes: with a `keep_alive_timeout` of zero
    /// nothing is kept open, and a client needs its time all the same.
    pub(super) fn patience(&self) -> Duration {
        let Http {
            keep_alive_timeout,
            header_read_timeout,
            ..
        } = self.http;
        if keep_alive_timeout.is_zero() {
            header_read_timeout
        } else {
            keep_alive_timeout
        }
    }

    /// Until when a connection may say its last words. Asked for only after [`Order::Cancel`].
    pub(super) fn farewell(&self) -> Instant {
        *self.farewell.get_or_init(|| Instant::now() + FAREWELL)
    }

    /// Another time for last words than the usual one.
    #[cfg(test)]
    pub(super) fn allow_farewell(&self, time: Duration) {
        self.farewell.get_or_init(|| Instant::now() + time);
    }

    /// Nanoseconds since the server was made.
    pub(super) fn now(&self) -> u64 {
        let since = self.started.elapsed();
        // Wraps after 584 years.
        since.as_secs().wrapping_mul(1_000_000_000) + u64::from(since.subsec_nanos())
    }

    /// Accepting is over for good; the first reason is kept.
    pub(super) fn fail(&self, failure: Failure) {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(failure);
        self.failed.notify_one();
    }
}

/// No `with_upgrades` (`connection::upgrade` has why), no header timeout (the connection's own clock does it without a timer per
/// request), no `pipeline_flush` (the socket's wrapper batches).
fn http1_builder(http: &Http) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_header_size(http.max_head_size)
        .max_buf_size(http.max_head_size.max(MIN_BUFFER));
    if http.max_headers != HYPER_MAX_HEADERS {
        builder.max_headers(http.max_headers);
    }
    builder
}

fn http2_builder(http: &Http, tasks: Arc<Tasks>) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(Streams(tasks));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(http.max_streams)
        .max_header_list_size(u32::try_from(http.max_head_size).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

#[cfg(test)]
mod tests;
