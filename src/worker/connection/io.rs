//! The socket as hyper sees it: keeps HTTP/2's preface from HTTP/1.1, and batches small writes.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::sniff::{Protocol, judge};
use super::state::State;
use super::tunnel::{Duplex, Wire};

/// A write from this size on goes to the socket without being copied.
const DIRECT: usize = 8 * 1024;
/// What the batch may hold before it goes to the socket.
const BATCH: usize = 32 * 1024;
/// A buffer up to this size is kept for the next batch; an idle connection costs no more.
const KEEP: usize = 4 * 1024;

/// A stream with a look at the first bytes before its read side and, for HTTP/1.1, a batch before its
/// write side.
///
/// hyper's HTTP/1.1 reads first, and usually gets what came without a copy. Bytes that may become the
/// preface of HTTP/2 are kept from it; once they are the preface, the state says so, and it never gets a
/// byte: whoever takes the wrapper out of hyper has all of them to replay.
///
/// Pipelined requests come in one segment, and their responses should leave in one. hyper writes and
/// flushes each by itself, so the batch decides when a flush is one:
/// 1. While hyper may still have unread requests in its own buffer, written bytes are held and a flush
///    does nothing. They are `held` in the state, and with that the connection is not idle.
/// 2. hyper reads from here only when it has used up what it had (or has only part of a head left). So a
///    read writes the batch first, and when a read found nothing, every flush is a real one.
/// 3. hyper can also end its poll without a read: a pipelined request's handler waits, or hyper yields.
///    Then the driver sets `release` and polls hyper again, whose flush is a real one then.
/// 4. While the worker hands its connections on, every flush is a real one, so that a connection can leave
///    between two pipelined requests.
/// 5. The batch is bounded. Beyond it, and for large writes, a write waits for the socket, in order.
///
/// Shutting down is left to whoever takes it out of hyper: [`poll_end`](Io::poll_end). hyper's own wish to do so is
/// answered without doing it, so that a connection can be taken out of hyper whole.
pub(super) struct Io<S> {
    socket: S,
    state: Arc<State>,
    /// The protocol is not known yet.
    sniffing: bool,
    /// What was read and not given to hyper.
    replay: BytesMut,
    batch: Vec<u8>,
    /// How much of the batch is in the socket.
    sent: usize,
    batching: bool,
    /// The last read found nothing, so hyper has seen every byte there is.
    drained: bool,
    /// Nothing more can be written or read.
    failed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Io<S> {
    pub(super) fn new(socket: S, state: Arc<State>) -> Self {
        Self {
            socket,
            state,
            sniffing: true,
            replay: BytesMut::new(),
            batch: Vec::new(),
            sent: 0,
            batching: true,
            drained: false,
            failed: false,
        }
    }

    /// For a connection that was served before: these bytes first.
    pub(super) fn resume(socket: S, state: Arc<State>, unread: Bytes, http1: bool) -> Self {
        state.head_begun.store(!unread.is_empty(), Relaxed);
        Self {
            sniffing: !http1,
            replay: unread.into(),
            ..Self::new(socket, state)
        }
    }

    /// The socket, what was read and not answered, and whether it is known to be HTTP/1.1. `read` is what hyper
    /// had read. Nothing must be held.
    pub(super) fn into_parts(self, read: Bytes) -> (S, Bytes, bool) {
        let unread = if self.replay.is_empty() {
            read
        } else {
            let mut unread = BytesMut::from(read);
            unread.extend_from_slice(&self.replay);
            unread.freeze()
        };
        (self.socket, unread, !self.sniffing)
    }

    /// After HTTP/1.1: what hyper has read comes first, and nothing is held or held back any more. The batch must be
    /// empty.
    pub(super) fn into_tunnel(self, read: Bytes) -> Io<Wire>
    where
        S: Duplex + 'static,
    {
        let state = self.state.clone();
        let (socket, unread, http1) = self.into_parts(read);
        let socket: Wire = Box::new(socket);
        Io {
            batching: false,
            ..Io::resume(socket, state, unread, http1)
        }
    }

    /// For HTTP/2, from the preface on. It batches by itself: writes, flushes and the shutdown go straight
    /// through.
    pub(super) fn into_http2(mut self) -> Self {
        self.sniffing = false;
        self.batching = false;
        self
    }

    /// What was read and is still kept from hyper.
    pub(super) fn unread(&self) -> &[u8] {
        &self.replay
    }

    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// Appends bytes of our own to what is to be written.
    pub(super) fn write_own(&mut self, bytes: &[u8]) {
        self.batch.extend_from_slice(bytes);
        self.state.held.store(true, Relaxed);
    }

    /// Shuts the write side down.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    /// Reads and forgets. `Ready(Ok(true))`: there was something; `Ready(Ok(false))`: the peer is done.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.state.eof.load(Relaxed) {
            return Poll::Ready(Ok(false));
        }
        // Small, since it is mostly for finding out that there is nothing.
        let mut scratch = [MaybeUninit::uninit(); 512];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        let count = buffer.filled().len();
        self.note_read(count);
        Poll::Ready(Ok(count > 0))
    }

    /// Writes the batch to the socket.
    pub(super) fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.batch.len() {
            let written =
                ready!(Pin::new(&mut self.socket).poll_write(cx, &self.batch[self.sent..]));
            let count = self.note_written(written)?;
            if count == 0 {
                self.failed = true;
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        self.sent = 0;
        self.batch.clear();
        if self.batch.capacity() > KEEP {
            self.batch = Vec::new();
        }
        self.state.held.store(false, Relaxed);
        self.state.release.store(false, Relaxed);
        Poll::Ready(Ok(()))
    }

    /// Makes room in the batch. False: whatever was held is in the socket, and this write goes there too.
    fn poll_room(&mut self, cx: &mut Context<'_>, size: usize) -> Poll<io::Result<bool>> {
        self.state.writing.store(true, Relaxed);
        if !self.batching {
            return Poll::Ready(Ok(false));
        }
        let small = size < DIRECT;
        if !self.batch.is_empty() && (!small || self.batch.len() + size > BATCH) {
            ready!(self.poll_release(cx))?;
        }
        Poll::Ready(Ok(small))
    }

    /// The first bytes, when it is clear that they are HTTP/1.1's.
    fn poll_sniff(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        // Until the socket has no more, or nobody would be woken by the rest of a preface.
        while !self.state.http2.load(Relaxed) {
            ready!(self.poll_socket(cx, buffer))?;
            let read = &buffer.filled()[before..];
            let end = read.is_empty();
            if self.replay.is_empty() && judge(read) == Some(Protocol::Http1) {
                self.sniffing = false;
                return Poll::Ready(Ok(()));
            }
            self.replay.extend_from_slice(read);
            buffer.set_filled(before);
            match judge(&self.replay) {
                Some(Protocol::Http2) => self.state.http2.store(true, Relaxed),
                None if !end => {}
                // Half a preface and then the end: HTTP/1.1 has the words for that.
                _ => {
                    self.sniffing = false;
                    self.replay(buffer);
                    return Poll::Ready(Ok(()));
                }
            }
        }
        Poll::Pending
    }

    fn poll_socket(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.socket).poll_read(cx, buffer) {
            Poll::Pending => {
                self.drained = true;
                Poll::Pending
            }
            Poll::Ready(Ok(())) => {
                self.note_read(buffer.filled().len() - before);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                self.failed = true;
                Poll::Ready(Err(error))
            }
        }
    }

    fn replay(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.replay.len().min(buffer.remaining());
        buffer.put_slice(&self.replay[..count]);
        self.replay.advance(count);
        if self.replay.is_empty() {
            self.replay = BytesMut::new();
        }
        self.drained = false;
    }

    fn note_read(&mut self, count: usize) {
        if count == 0 {
            self.drained = true;
            self.state.eof.store(true, Relaxed);
            return;
        }
        self.drained = false;
        if self.state.awaits_head() {
            self.state.head_begun.store(true, Relaxed);
        }
        self.state.server.meter.bytes(count as u64, 0);
    }

    fn note_written(&mut self, written: io::Result<usize>) -> io::Result<usize> {
        match &written {
            Ok(count) => self.state.server.meter.bytes(0, *count as u64),
            Err(_) => self.failed = true,
        }
        written
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if me.sniffing {
            return me.poll_sniff(cx, buffer);
        }
        if !me.replay.is_empty() {
            me.replay(buffer);
            return Poll::Ready(Ok(()));
        }
        if !me.batch.is_empty() {
            // A full socket does not stop the reading: a client may send all it has before it reads.
            // The batch is bounded, and hyper waits for it before it answers further.
            if let Poll::Ready(Err(error)) = me.poll_release(cx) {
                return Poll::Ready(Err(error));
            }
        }
        me.poll_socket(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = &mut *self;
        if ready!(me.poll_room(cx, bytes.len()))? {
            me.write_own(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut me.socket).poll_write(cx, bytes));
        Poll::Ready(me.note_written(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = &mut *self;
        let size = slices.iter().map(|slice| slice.len()).sum();
        if ready!(me.poll_room(cx, size))? {
            me.batch.reserve(size);
            for slice in slices {
                me.write_own(slice);
            }
            return Poll::Ready(Ok(size));
        }
        let written = ready!(Pin::new(&mut me.socket).poll_write_vectored(cx, slices));
        Poll::Ready(me.note_written(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        // hyper flushes only when its own buffer is empty.
        me.state.writing.store(false, Relaxed);
        if !me.batch.is_empty() {
            if !me.drained && !me.state.release.load(Relaxed) && !me.state.is_leaving() {
                return Poll::Ready(Ok(()));
            }
            ready!(me.poll_release(cx))?;
        }
        Pin::new(&mut me.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.batching {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
