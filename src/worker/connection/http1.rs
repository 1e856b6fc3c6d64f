//! Drives one HTTP/1.1 connection through hyper, and takes it out again at its end.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::clock::Clock;
use super::exchange::Calls;
use super::io::Io;
use super::state::State;
use super::upgrade::Upgrade;
use crate::worker::handoff::Socket;
use crate::worker::signal::{Order, Watch};

/// For a client whose request head did not come in time. RFC 9110, section 15.5.9.
pub(super) const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// A connection that was accepted just before the drain may have its first request on the way.
const GRACE: Duration = Duration::from_millis(50);

/// What is left of a connection that HTTP/1.1 is done with.
pub(super) enum Left<S> {
    /// It still has to be finished.
    Ended(Io<S>),
    /// The client speaks HTTP/2, and none of its bytes is lost.
    Http2(Io<S>),
    /// The client was told that it leaves HTTP, and its next bytes are the other protocol's: these, and those that
    /// were kept from hyper. What is held is still the response.
    Upgraded(Io<S>, Bytes, Box<Upgrade>),
    /// Another worker is to go on with it, from these bytes on and those that were kept from hyper.
    Leaving(Io<S>, Bytes),
    /// It was cancelled and is gone.
    Nothing,
}

/// Serves until the connection has ended, is to be closed, or turns out to speak HTTP/2.
pub(super) async fn serve<S: Socket>(
    io: Io<S>,
    state: &Arc<State>,
    clock: &mut Clock<'_>,
    watch: &mut Watch<'_, '_>,
) -> Left<S> {
    let server = &state.server;
    let mut driver = Driver {
        connection: server
            .http1
            .serve_connection(TokioIo::new(io), Calls::new(state.clone())),
        state,
        begun_with: state.requests(),
        head_since: None,
        flushed_at: None,
        closing: false,
    };
    let end = poll_fn(|cx| driver.poll(cx, clock, watch)).await;
    if end == End::Cancelled {
        return Left::Nothing;
    }
    let parts = driver.connection.into_parts();
    let mut io = parts.io.into_inner();
    match end {
        End::Http2 => return Left::Http2(io),
        End::Leaving => return Left::Leaving(io, parts.read_buf),
        _ => {}
    }
    if let Some(upgrade) = state.take_upgrade()
        && !state.writing.load(Relaxed)
        && !io.failed()
    {
        return Left::Upgraded(io, parts.read_buf, upgrade);
    }
    if end == End::TimedOut && !(parts.read_buf.is_empty() && io.unread().is_empty()) {
        io.write_own(REQUEST_TIMEOUT);
    }
    Left::Ended(io)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// hyper is done with it.
    Done,
    Http2,
    Leaving,
    /// Idle for too long, or a head was too slow.
    TimedOut,
    Cancelled,
}

/// One poll of it is, in this order:
/// 1. hyper, so that bytes that have arrived become a request before anything is decided;
/// 2. what the batch still holds goes to the socket;
/// 3. the server's order;
/// 4. the timer.
struct Driver<'a, S: Socket> {
    connection: http1::Connection<TokioIo<Io<S>>, Calls>,
    state: &'a State,
    /// How many requests the connection had when hyper got it.
    begun_with: u64,
    /// When the driver first saw a part of the head that is being read, and how many requests were read before it:
    /// one poll can end a request and begin the next head.
    head_since: Option<(u64, Instant)>,
    /// When the peer took the last bytes, if that was later than the end of the exchange.
    flushed_at: Option<Instant>,
    /// hyper was told to close; it does so after what it has.
    closing: bool,
}

impl<S: Socket> Driver<'_, S> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        clock: &mut Clock<'_>,
        watch: &mut Watch<'_, '_>,
    ) -> Poll<End> {
        if self.poll_hyper(cx).is_ready() {
            return Poll::Ready(End::Done);
        }
        if self.state.http2.load(Relaxed) {
            return Poll::Ready(End::Http2);
        }
        match self.state.told(watch.poll_order(cx)) {
            Order::Serve => {}
            order @ (Order::Rebalance | Order::HandOff) if S::MOVES => {
                if let Poll::Ready(end) = self.poll_leave(order, cx) {
                    return Poll::Ready(end);
                }
            }
            Order::Rebalance => {}
            Order::HandOff | Order::Drain if self.closing || !self.state.idle() => {}
            // Its deadline closes it.
            Order::HandOff | Order::Drain if self.state.requests() == 0 => {}
            Order::HandOff | Order::Drain => {
                if self.poll_close(cx).is_ready() {
                    return Poll::Ready(End::Done);
                }
            }
            Order::Cancel => return self.poll_cancel(cx, clock),
        }
        if !self.poll_deadline(cx, clock) {
            return Poll::Pending;
        }
        if self.closing {
            // hyper had its chance.
            return Poll::Ready(End::Cancelled);
        }
        if !self.is_fresh() && self.poll_close(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(End::TimedOut)
    }

    /// hyper, and after it what the batch holds.
    fn poll_hyper(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_connection(cx).is_ready() {
            return Poll::Ready(());
        }
        if !self.state.held.load(Relaxed) || self.state.release.load(Relaxed) {
            return Poll::Pending;
        }
        self.state.release.store(true, Relaxed);
        if self.poll_connection(cx).is_ready() {
            return Poll::Ready(());
        }
        if self.state.held.load(Relaxed) && !self.state.release.load(Relaxed) {
            // That poll wrote the batch and began another; others have a turn before it.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut again = false;
        let result = loop {
            let result = ready!(Pin::new(&mut self.connection).poll(cx));
            // When an upgrade was asked for on this connection, now or long ago, hyper forgets to flush before it
            // ends. Asked again, it does.
            let orderly = result.as_ref().err().is_none_or(hyper::Error::is_parse);
            if again || !orderly || !self.state.writing.load(Relaxed) {
                break result;
            }
            again = true;
        };
        if let Err(error) = result {
            tracing::debug!(
                peer = %self.state.peer,
                error = crate::exit::chain(&error),
                "an HTTP/1.1 connection ended with an error"
            );
        }
        Poll::Ready(())
    }

    /// Tells hyper to close. Ready: it agrees that nothing is going on.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.closing = true;
        Pin::new(&mut self.connection).graceful_shutdown();
        self.poll_hyper(cx)
    }

    /// A stream of events has a little time to end as it should; anything else must not look as if it were whole.
    fn poll_cancel(&mut self, cx: &mut Context<'_>, clock: &mut Clock<'_>) -> Poll<End> {
        let state = self.state;
        if !state.says_goodbye() || clock.passed(state.server.farewell(), cx) {
            return Poll::Ready(End::Cancelled);
        }
        if state.has_events() || state.unflushed() {
            return Poll::Pending;
        }
        Poll::Ready(End::Done)
    }

    /// Takes the connection out of hyper for another worker, if one may take it and nothing is going on. What
    /// hyper has read then begins with a request, or with a part of one.
    fn poll_leave(&mut self, order: Order, cx: &mut Context<'_>) -> Poll<End> {
        let state = self.state;
        if self.closing || !state.can_leave() || order == Order::HandOff && !state.has_heir() {
            return Poll::Pending;
        }
        // The rest of an abandoned body would look like a request to the other worker. hyper reads it away, or
        // closes, when it is polled once more after nobody holds the body.
        if state.take_abandoned() {
            if self.poll_hyper(cx).is_ready() {
                return Poll::Ready(End::Done);
            }
            if !state.can_leave() {
                return Poll::Pending;
            }
        }
        if order == Order::Rebalance && !state.server.handoff.reserve() {
            return Poll::Pending;
        }
        if self.is_fresh() {
            return Poll::Ready(End::Leaving);
        }
        let requests = state.requests();
        let closed = self.poll_close(cx);
        // What hyper closes for another reason than having nothing to do is at its end.
        if closed.is_ready() && state.can_leave() && state.requests() == requests {
            return Poll::Ready(End::Leaving);
        }
        if order == Order::Rebalance {
            state.server.handoff.unreserve();
        }
        closed.map(|()| End::Done)
    }

    /// Before its first request, hyper would keep half a head to itself and wait for the rest. Nothing was
    /// written then, so the connection can be taken apart as it is.
    fn is_fresh(&self) -> bool {
        self.state.requests() == self.begun_with
    }

    /// True when the present deadline has passed.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, clock: &mut Clock<'_>) -> bool {
        let limits = &self.state.server.http;
        if !self.state.awaits_head() {
            self.head_since = None;
            self.flushed_at = None;
            clock.rest();
            return false;
        }
        if self.state.unflushed() {
            self.flushed_at = Some(Instant::now());
            clock.rest();
            return false;
        }
        if self.state.head_begun.load(Relaxed) {
            let requests = self.state.requests();
            let since = match self.head_since {
                Some((before, since)) if before == requests => since,
                _ => Instant::now(),
            };
            self.head_since = Some((requests, since));
            return clock.passed(since + limits.header_read_timeout, cx);
        }
        let drains = match self.state.order() {
            Order::Serve | Order::Rebalance => false,
            Order::HandOff => !S::MOVES,
            Order::Drain | Order::Cancel => true,
        };
        let (urgent, limit) = if drains && self.state.requests() == 0 {
            (true, GRACE)
        } else {
            (false, self.state.idle_limit())
        };
        if !urgent && !clock.wants_deadline() {
            return false;
        }
        let since = self
            .state
            .idle_since()
            .max(self.flushed_at.unwrap_or(self.state.server.started));
        clock.passed(since + limit, cx)
    }
}
