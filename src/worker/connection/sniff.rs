//! Which protocol a client speaks, from its first bytes.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::clock::Clock;
use super::io::Io;
use crate::config::Http;
use crate::worker::signal::{Order, Watch};

/// What a client that speaks HTTP/2 by prior knowledge sends first. RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Room for a usual request head, so that sniffing costs no extra read.
const ROOM: usize = 4 * 1024;
/// A connection that was accepted just before the drain may have its first request on the way.
const GRACE: Duration = Duration::from_millis(50);

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sniffed {
    Http1,
    Http2,
    /// Too little came in time, or nothing.
    TimedOut,
    /// The peer is gone, or it is time to go.
    Closed,
}

/// Reads until the protocol is known. What was read stays in `io`, for whoever reads next.
pub(super) async fn sniff<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut Io<S>,
    limits: &Http,
    clock: &mut Clock<'_>,
    watch: &mut Watch<'_, '_>,
) -> Sniffed {
    let (mut opened, mut head_since) = (None, None);
    poll_fn(|cx: &mut Context<'_>| {
        loop {
            match judge(io.unread()) {
                Some(protocol) => return Poll::Ready(protocol),
                None => match io.poll_fill(cx, ROOM) {
                    // Half a preface and then the end: HTTP/1.1 has the words for that.
                    Poll::Ready(Ok(0)) if !io.unread().is_empty() => {
                        return Poll::Ready(Sniffed::Http1);
                    }
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Sniffed::Closed),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                },
            }
        }
        let silent = io.unread().is_empty();
        let order = watch.poll_order(cx);
        if order == Order::Cancel {
            return Poll::Ready(Sniffed::Closed);
        }
        let (since, limit) = match (silent, order) {
            (true, Order::Serve) => (&mut opened, limits.keep_alive_timeout),
            (true, _) => (&mut opened, GRACE),
            (false, _) => (&mut head_since, limits.header_read_timeout),
        };
        let deadline = *since.get_or_insert_with(Instant::now) + limit;
        match clock.passed(deadline, cx) {
            true => Poll::Ready(Sniffed::TimedOut),
            false => Poll::Pending,
        }
    })
    .await
}

/// `None` while the bytes could still become the preface.
fn judge(bytes: &[u8]) -> Option<Sniffed> {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] != PREFACE[..common] {
        Some(Sniffed::Http1)
    } else if common == PREFACE.len() {
        Some(Sniffed::Http2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_preface_is_http2() {
        assert_eq!(judge(b""), None);
        assert_eq!(judge(b"P"), None);
        assert_eq!(judge(b"PR"), None);
        assert_eq!(judge(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"), None);
        assert_eq!(
            judge(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"),
            Some(Sniffed::Http2)
        );
        assert_eq!(judge(b"G"), Some(Sniffed::Http1));
        assert_eq!(judge(b"PUT / HTTP/1.1\r\n"), Some(Sniffed::Http1));
        assert_eq!(judge(b"PRI * HTTP/1.1\r\n\r\n"), Some(Sniffed::Http1));
    }
}
