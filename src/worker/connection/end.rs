//! The last bytes of a connection.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::clock::Clock;
use super::io::Io;
use crate::worker::server::Shared;
use crate::worker::signal::{Order, Watch};

/// How long a closed connection is read and ignored, so that a reset does not overtake the last response.
const LINGER: Duration = Duration::from_secs(1);

/// Writes what is left and closes. Bytes that nobody will read would make the kernel send a reset, which
/// can destroy a response (say, 431) before the client has read it: so if there are any, the end of the
/// response is told, and they are read away first.
pub(super) async fn finish<S: AsyncRead + AsyncWrite + Unpin>(
    mut io: Io<S>,
    server: &Shared,
    clock: &mut Clock<'_>,
    watch: &mut Watch<'_, '_>,
) {
    if !write_out(&mut io, server, clock, watch).await {
        return;
    }
    // With nothing to read away, closing is all that is needed: it tells the end as well.
    let surplus = poll_fn(|cx| Poll::Ready(matches!(io.poll_discard(cx), Poll::Ready(Ok(true)))));
    if surplus.await {
        linger(io, server, clock, watch).await;
    }
}

/// Writes what is held. False: that failed, or took too long.
pub(super) async fn write_out<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut Io<S>,
    server: &Shared,
    clock: &mut Clock<'_>,
    watch: &mut Watch<'_, '_>,
) -> bool {
    if io.failed() {
        return false;
    }
    let mut patience = Patience::new(server.patience(), server);
    let written = poll_fn(|cx| match io.poll_release(cx) {
        Poll::Pending => patience.poll_over(cx, clock, watch).map(|()| false),
        Poll::Ready(result) => Poll::Ready(result.is_ok()),
    });
    written.await
}

/// Tells the peer that there is no more, and reads what it still sends, for a while.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(
    mut io: Io<S>,
    server: &Shared,
    clock: &mut Clock<'_>,
    watch: &mut Watch<'_, '_>,
) {
    let mut patience = Patience::new(LINGER, server);
    let mut told = false;
    poll_fn(|cx| {
        // First, or a client that never stops sending would never be looked at again.
        if patience.poll_over(cx, clock, watch).is_ready() {
            return Poll::Ready(());
        }
        if !told {
            if ready!(io.poll_end(cx)).is_err() {
                return Poll::Ready(());
            }
            told = true;
        }
        while let Ok(true) = ready!(io.poll_discard(cx)) {}
        Poll::Ready(())
    })
    .await;
}

/// How long a client may take for the last bytes.
struct Patience<'a> {
    limit: Duration,
    since: Option<Instant>,
    server: &'a Shared,
}

impl<'a> Patience<'a> {
    /// `limit` runs from the first poll.
    fn new(limit: Duration, server: &'a Shared) -> Self {
        Self {
            limit,
            since: None,
            server,
        }
    }

    /// Ready when there is no more time.
    fn poll_over(
        &mut self,
        cx: &mut Context<'_>,
        clock: &mut Clock<'_>,
        watch: &mut Watch<'_, '_>,
    ) -> Poll<()> {
        let mut deadline = *self.since.get_or_insert_with(Instant::now) + self.limit;
        if watch.poll_order(cx) == Order::Cancel {
            deadline = deadline.min(self.server.farewell());
        }
        if clock.passed(deadline, cx) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}
