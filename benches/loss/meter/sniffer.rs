//! What an HTTP/2 connection's frames say of its end, read as they pass: which streams were really sent, and which
//! ones the server's GOAWAY leaves out (RFC 9113, 4.1 and 6.8).

use std::collections::HashSet;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::address::Stream;

const PREFACE: usize = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;

/// What has passed so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The highest stream of which a byte was written.
    pub(super) sent: u32,
    /// Streams of whose answers a part has come.
    pub(super) begun: HashSet<u32>,
    pub(super) goaway: Option<GoAway>,
    /// The end of what the server sends: its error, or an end of file.
    pub(super) end: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct GoAway {
    pub(super) last_stream: u32,
    pub(super) code: u32,
}

impl Seen {
    /// No new stream may begin.
    pub(super) fn over(&self) -> bool {
        self.goaway.is_some() || self.end.is_some()
    }
}

/// Passes everything on.
pub(super) struct Sniffer {
    stream: Stream,
    seen: watch::Sender<Seen>,
    incoming: Frames,
    outgoing: Frames,
}

impl Sniffer {
    pub(super) fn new(stream: Stream) -> (Self, watch::Receiver<Seen>) {
        let (seen, watching) = watch::channel(Seen::default());
        let sniffer = Self {
            stream,
            seen,
            incoming: Frames::default(),
            outgoing: Frames {
                skip: PREFACE,
                ..Frames::default()
            },
        };
        (sniffer, watching)
    }

    fn note_end(&self, end: String) {
        self.seen.send_modify(|seen| {
            seen.end.get_or_insert(end);
        });
    }
}

impl AsyncRead for Sniffer {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if let Err(error) = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer)) {
            this.note_end(error.to_string());
            return Poll::Ready(Err(error));
        }
        let new = &buffer.filled()[before..];
        if new.is_empty() {
            this.note_end("end of file".to_owned());
        }
        let Self { incoming, seen, .. } = this;
        incoming.pass(new, |frame| {
            if let Some(goaway) = frame.goaway() {
                seen.send_modify(|seen| seen.goaway = Some(goaway));
            } else if frame.kind == HEADERS {
                // Nobody waits for that, nor for the streams that are sent.
                seen.send_if_modified(|seen| {
                    seen.begun.insert(frame.stream);
                    false
                });
            }
        });
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sniffer {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match ready!(Pin::new(&mut this.stream).poll_write(cx, bytes)) {
            Ok(written) => written,
            Err(error) => {
                this.note_end(error.to_string());
                return Poll::Ready(Err(error));
            }
        };
        let Self { outgoing, seen, .. } = this;
        outgoing.pass(&bytes[..written], |frame| {
            if frame.kind == HEADERS {
                seen.send_if_modified(|seen| {
                    seen.sent = seen.sent.max(frame.stream);
                    false
                });
            }
        });
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Takes a stream of bytes apart into frames. Keeps of each its header and the first eight bytes behind it.
#[derive(Default)]
struct Frames {
    start: Vec<u8>,
    /// Bytes to come that say nothing.
    skip: usize,
}

struct Frame<'a> {
    kind: u8,
    stream: u32,
    start: &'a [u8],
}

const FRAME_HEAD: usize = 9;
/// Last stream and error code of a GOAWAY.
const KEPT: usize = 8;

impl Frames {
    fn pass(&mut self, mut bytes: &[u8], mut found: impl FnMut(Frame<'_>)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = self.wanted();
            let taken = (wanted - self.start.len()).min(bytes.len());
            self.start.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.start.len() < self.wanted() {
                if bytes.is_empty() {
                    return;
                }
                continue;
            }
            if self.start.len() < FRAME_HEAD {
                return;
            }
            found(Frame {
                kind: self.start[3],
                stream: number(&self.start[5..9]) & 0x7fff_ffff,
                start: &self.start[FRAME_HEAD..],
            });
            self.skip = self.length() - (self.start.len() - FRAME_HEAD);
            self.start.clear();
            if bytes.is_empty() {
                return;
            }
        }
    }

    /// How much of this frame is kept.
    fn wanted(&self) -> usize {
        if self.start.len() < FRAME_HEAD {
            FRAME_HEAD
        } else {
            FRAME_HEAD + self.length().min(KEPT)
        }
    }

    fn length(&self) -> usize {
        let length = u32::from_be_bytes([0, self.start[0], self.start[1], self.start[2]]);
        length as usize
    }
}

impl Frame<'_> {
    fn goaway(&self) -> Option<GoAway> {
        (self.kind == GOAWAY && self.start.len() == KEPT).then(|| GoAway {
            last_stream: number(&self.start[..4]) & 0x7fff_ffff,
            code: number(&self.start[4..]),
        })
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |number, byte| (number << 8) | u32::from(*byte))
}
