//! Drives one HTTP/2 connection through hyper.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::clock::Clock;
use super::exchange::Calls;
use super::io::Io;
use super::state::State;
use crate::worker::signal::{Order, Watch};

/// After GOAWAY, how long a connection without streams waits for the peer to agree.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves until the connection is over. Dropping the connection at a [`Order::Cancel`] resets its streams; those of
/// events have a little time to end before.
///
/// What comes back is to be read to its end: a peer that has not seen the GOAWAY yet may still be sending, and a
/// reset would destroy what it has not read. `None`: it was cancelled, or the peer is gone.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: Io<S>,
    state: &Arc<State>,
    clock: &mut Clock<'_>,
    watch: &mut Watch<'_, '_>,
) -> Option<Io<S>> {
    let (lent, back) = Lent::new(io.into_http2());
    let ended = drive(lent, state, clock, watch).await;
    // hyper has dropped it by now.
    back.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
        .filter(|io| ended && !io.failed())
}

/// True: it ended by itself.
async fn drive<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    lent: Lent<S>,
    state: &Arc<State>,
    clock: &mut Clock<'_>,
    watch: &mut Watch<'_, '_>,
) -> bool {
    let server = &state.server;
    state.idle_begins();
    let io = TokioIo::new(lent);
    let mut connection = pin!(server.http2.serve_connection(io, Calls::new(state.clone())));
    let mut goaway: Option<Instant> = None;
    poll_fn(|cx| {
        // Asked before hyper: what was over by then is in what it writes now.
        let has_events = state.has_events();
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            if let Err(error) = result {
                tracing::debug!(
                    peer = %state.peer,
                    error = crate::exit::chain(&error),
                    "an HTTP/2 connection ended with an error"
                );
            }
            return Poll::Ready(true);
        }
        let order = watch.poll_order(cx);
        if order == Order::Cancel {
            if !state.says_goodbye() || clock.passed(server.farewell(), cx) {
                return Poll::Ready(false);
            }
            if has_events {
                state.wake_after_events(cx);
            }
            return if has_events || state.unflushed() {
                Poll::Pending
            } else {
                Poll::Ready(true)
            };
        }
        if order >= Order::HandOff && goaway.is_none() {
            goaway = Some(Instant::now());
            connection.as_mut().graceful_shutdown();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if state.busy() {
            clock.rest();
            return Poll::Pending;
        }
        if goaway.is_none() && !clock.wants_deadline() {
            return Poll::Pending;
        }
        let deadline = match goaway {
            Some(sent) => sent.max(state.idle_since()) + FAREWELL,
            None => state.idle_since() + state.idle_limit(),
        };
        if !clock.passed(deadline, cx) {
            return Poll::Pending;
        }
        if goaway.is_some() {
            return Poll::Ready(true);
        }
        goaway = Some(Instant::now());
        connection.as_mut().graceful_shutdown();
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Where the socket comes back to.
type Back<S> = Arc<Mutex<Option<Io<S>>>>;

/// The socket while hyper has it: hyper's HTTP/2 never gives it back, so it comes back by being dropped.
struct Lent<S> {
    io: Option<Io<S>>,
    back: Back<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lent<S> {
    fn new(io: Io<S>) -> (Self, Back<S>) {
        let back = Back::default();
        let lent = Self {
            io: Some(io),
            back: back.clone(),
        };
        (lent, back)
    }

    /// It is there for as long as this is.
    fn io(self: Pin<&mut Self>) -> io::Result<Pin<&mut Io<S>>> {
        let io = self.get_mut().io.as_mut();
        io.map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S> Drop for Lent<S> {
    fn drop(&mut self) {
        *self.back.lock().unwrap_or_else(PoisonError::into_inner) = self.io.take();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Lent<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io()?.poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_shutdown(cx)
    }
}
