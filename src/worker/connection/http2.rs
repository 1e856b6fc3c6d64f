//! Drives one HTTP/2 connection through hyper.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::clock::Clock;
use super::exchange::Calls;
use super::io::Io;
use super::state::State;
use crate::worker::signal::{Order, Watch};

/// After GOAWAY, how long a connection without streams waits for the peer to agree.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves until the connection is closed. Dropping the connection at a [`Order::Cancel`] resets its streams.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: Io<S>,
    state: &Arc<State>,
    clock: &mut Clock<'_>,
    watch: &mut Watch<'_, '_>,
) {
    let server = &state.server;
    state.idle_begins();
    let io = TokioIo::new(io.into_http2());
    let mut connection = pin!(server.http2.serve_connection(io, Calls::new(state.clone())));
    let mut goaway: Option<Instant> = None;
    poll_fn(|cx| {
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            if let Err(error) = result {
                tracing::debug!(
                    peer = %state.peer,
                    error = crate::exit::chain(&error),
                    "an HTTP/2 connection ended with an error"
                );
            }
            return Poll::Ready(());
        }
        let order = watch.poll_order(cx);
        if order == Order::Cancel {
            return Poll::Ready(());
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
            None => state.idle_since() + server.http.keep_alive_timeout,
        };
        if !clock.passed(deadline, cx) {
            return Poll::Pending;
        }
        if goaway.is_some() {
            return Poll::Ready(());
        }
        goaway = Some(Instant::now());
        connection.as_mut().graceful_shutdown();
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
