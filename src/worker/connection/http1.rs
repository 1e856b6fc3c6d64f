//! Drives one HTTP/1.1 connection through hyper, and takes it out again at its end.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::clock::Clock;
use super::exchange::Calls;
use super::io::Io;
use super::state::State;
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
    /// It was cancelled and is gone.
    Nothing,
}

/// Serves until the connection has ended, is to be closed, or turns out to speak HTTP/2.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
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
    if end == End::Http2 {
        return Left::Http2(io);
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
    /// Idle for too long, or a head was too slow.
    TimedOut,
    Cancelled,
}

/// One poll of it is, in this order:
/// 1. hyper, so that bytes that have arrived become a request before anything is decided;
/// 2. what the batch still holds goes to the socket;
/// 3. the server's order;
/// 4. the timer.
struct Driver<'a, S: AsyncRead + AsyncWrite + Unpin> {
    connection: http1::Connection<TokioIo<Io<S>>, Calls>,
    state: &'a State,
    /// When the driver first saw a part of the head that is being read.
    head_since: Option<Instant>,
    /// When the peer took the last bytes, if that was later than the end of the exchange.
    flushed_at: Option<Instant>,
    /// hyper was told to close; it does so after what it has.
    closing: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<'_, S> {
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
        match watch.poll_order(cx) {
            Order::Serve => {}
            Order::Drain if self.closing || !self.state.idle() => {}
            // Its deadline closes it.
            Order::Drain if self.state.requests() == 0 => {}
            Order::Drain => {
                if self.poll_close(cx).is_ready() {
                    return Poll::Ready(End::Done);
                }
            }
            Order::Cancel => return Poll::Ready(End::Cancelled),
        }
        if !self.poll_deadline(cx, clock) {
            return Poll::Pending;
        }
        if self.closing {
            // hyper had its chance.
            return Poll::Ready(End::Cancelled);
        }
        // Before the first request hyper would keep half a head to itself and wait for the rest.
        if self.state.requests() > 0 && self.poll_close(cx).is_pending() {
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
        Pin::new(&mut self.connection).poll(cx).map(|result| {
            if let Err(error) = result {
                tracing::debug!(
                    peer = %self.state.peer,
                    error = crate::exit::chain(&error),
                    "an HTTP/1.1 connection ended with an error"
                );
            }
        })
    }

    /// Tells hyper to close. Ready: it agrees that nothing is going on.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.closing = true;
        Pin::new(&mut self.connection).graceful_shutdown();
        self.poll_hyper(cx)
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
            let since = *self.head_since.get_or_insert_with(Instant::now);
            return clock.passed(since + limits.header_read_timeout, cx);
        }
        let drains = self.state.server.signal().order() > Order::Serve;
        let (urgent, limit) = if drains && self.state.requests() == 0 {
            (true, GRACE)
        } else {
            (false, limits.keep_alive_timeout)
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
