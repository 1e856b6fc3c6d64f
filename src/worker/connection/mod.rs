//! One connection, from the accept to the close.
//!
//! ```text
//! socket ─ Io (replay, batch) ─ hyper ─ Calls ─ the author's service
//!            └──────── State ─────┴───────┘
//!                        │
//!                     driver: polls hyper, then the batch, then the order, then the clock
//! ```

mod clock;
mod exchange;
mod http1;
mod http2;
mod incoming;
mod io;
mod sniff;
mod state;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use self::clock::Clock;
use self::io::Io;
use self::sniff::Sniffed;
use self::state::State;
use super::server::Shared;
use super::signal::{Order, Watch};
use crate::peer::Peer;

/// How long a closed connection is read and ignored, so that a reset does not overtake the last response.
const LINGER: Duration = Duration::from_secs(1);

/// Serves one connection to its end. Dropping the future closes the socket and cancels its handlers.
pub(super) async fn serve<S>(socket: S, peer: Peer, server: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _open = Open::new(&server);
    let state = Arc::new(State::new(server.clone(), peer));
    let sleep = pin!(tokio::time::sleep_until(server.started));
    let mut clock = Clock::new(sleep);
    let changed = pin!(server.signal().changed());
    let mut watch = Watch::new(server.signal(), changed);

    let mut io = Io::new(socket, state.clone());
    let io = match sniff::sniff(&mut io, &server.http, &mut clock, &mut watch).await {
        Sniffed::Http1 => http1::serve(io, &state, &mut clock, &mut watch).await,
        Sniffed::Http2 => {
            Box::pin(http2::serve(io, &state, &mut clock, &mut watch)).await;
            None
        }
        Sniffed::TimedOut => {
            if !io.unread().is_empty() {
                io.write_own(http1::REQUEST_TIMEOUT);
            }
            Some(io)
        }
        Sniffed::Closed => None,
    };
    if let Some(io) = io {
        finish(io, &state, &mut clock, &mut watch).await;
    }
}

/// Writes what is left and closes. Bytes that nobody will read would make the kernel send a reset, which
/// can destroy a response (say, 431) before the client has read it: so what is there is read away first.
async fn finish<S: AsyncRead + AsyncWrite + Unpin>(
    mut io: Io<S>,
    state: &State,
    clock: &mut Clock<'_>,
    watch: &mut Watch<'_, '_>,
) {
    let begun = Instant::now();
    let mut shut = None;
    let mut lingers = false;
    poll_fn(|cx| {
        if watch.poll_order(cx) == Order::Cancel {
            return Poll::Ready(());
        }
        let deadline = match shut {
            Some(shut) => shut + LINGER,
            None => begun + state.server.http.keep_alive_timeout,
        };
        if clock.passed(deadline, cx) {
            return Poll::Ready(());
        }
        if shut.is_none() {
            if ready!(io.poll_finish(cx)).is_err() {
                return Poll::Ready(());
            }
            shut = Some(Instant::now());
        }
        loop {
            match io.poll_discard(cx) {
                Poll::Ready(Ok(true)) => lingers = true,
                Poll::Pending if lingers => {
                    let over = shut.is_some_and(|shut| clock.passed(shut + LINGER, cx));
                    return if over { Poll::Ready(()) } else { Poll::Pending };
                }
                _ => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// Counts the connection for as long as its task lives.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(server: &'a Shared) -> Self {
        server.meter.connection_opened();
        Self(server)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.meter.connection_closed();
    }
}
