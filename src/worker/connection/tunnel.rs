//! A connection that has left HTTP, such as a WebSocket: the author's code has it, and the server can end it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Frames, GOING_AWAY};
use super::io::Io;

/// Any socket.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// The author's end does not know what it runs over.
pub(super) type Wire = Box<dyn Duplex>;

/// The server's side of it. The socket is between the two sides, and whoever holds the lock uses it: what the
/// author reads and writes goes to it directly, and the server takes it away
/// 1. when the author has dropped his end: then it is to be closed;
/// 2. when it must [end](Tunnel::poll_end): a WebSocket between two of the author's frames, anything else at once.
pub(super) struct Tunnel(Arc<Mutex<Inner>>);

/// The author's end. When the server has ended the connection, reads and writes fail.
pub(super) struct Outlet(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// `None` before it begins, and after the server took it.
    io: Option<Io<Wire>>,
    /// What the author has written, if it is a WebSocket.
    frames: Option<Frames>,
    /// The author has said that he writes no more.
    shut: bool,
    dropped: bool,
    /// The author may only complete the frame that he has begun.
    ending: bool,
    /// The author's tasks that wait for the socket. It knows only the last task that asked it, and that is the
    /// server's when it ends the connection.
    reader: Option<Waker>,
    writer: Option<Waker>,
    server: Option<Waker>,
}

impl Tunnel {
    pub(super) fn new() -> (Self, Outlet) {
        let inner = Arc::<Mutex<Inner>>::default();
        (Self(inner.clone()), Outlet(inner))
    }

    /// From now on the author can use the socket.
    pub(super) fn begin(&self, io: Io<Wire>, websocket: bool) {
        let mut inner = lock(&self.0);
        inner.io = Some(io);
        inner.frames = websocket.then(Frames::default);
    }

    /// The socket, when the author has dropped his end.
    pub(super) fn poll_dropped(&self, cx: &mut Context<'_>) -> Poll<Option<Io<Wire>>> {
        let mut inner = lock(&self.0);
        if inner.dropped {
            return Poll::Ready(inner.io.take());
        }
        keep(&mut inner.server, cx);
        Poll::Pending
    }

    /// Takes the socket from the author. A WebSocket's comes between two of his frames, with a close frame to be
    /// written if he has sent none.
    pub(super) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<Option<Io<Wire>>> {
        let mut inner = lock(&self.0);
        inner.ending = true;
        let whole = inner.frames.as_ref().map(Frames::are_whole);
        if whole == Some(false) && !inner.dropped {
            keep(&mut inner.server, cx);
            return Poll::Pending;
        }
        let closed = inner.shut || inner.frames.as_ref().is_none_or(Frames::are_closed);
        let mut io = inner.io.take();
        if let Some(io) = io.as_mut().filter(|_| whole == Some(true) && !closed) {
            io.write_own(GOING_AWAY);
        }
        inner.wake_author();
        Poll::Ready(io)
    }
}

/// The author's frame cannot be completed in time, or nobody wants the connection any more.
impl Drop for Tunnel {
    fn drop(&mut self) {
        let mut inner = lock(&self.0);
        inner.ending = true;
        let io = inner.io.take();
        inner.wake_author();
        drop(inner);
        drop(io);
    }
}

impl Inner {
    fn wake_author(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    /// How many bytes the author may write now.
    fn room(&self) -> io::Result<usize> {
        match &self.frames {
            _ if !self.ending => Ok(usize::MAX),
            Some(frames) if !frames.are_whole() => Ok(frames.rest()),
            _ => Err(ended()),
        }
    }

    /// The author has written these.
    fn passed(&mut self, bytes: &[u8]) {
        if let Some(frames) = &mut self.frames {
            frames.pass(bytes);
            if self.ending && frames.are_whole() {
                wake(&mut self.server);
            }
        }
    }

    fn poll_io<T>(
        &mut self,
        act: impl FnOnce(Pin<&mut Io<Wire>>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut self.io {
            Some(io) => act(Pin::new(io)),
            None => Poll::Ready(Err(ended())),
        }
    }

    fn poll_writer<T>(
        &mut self,
        cx: &mut Context<'_>,
        act: impl FnOnce(Pin<&mut Io<Wire>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let polled = self.poll_io(|io| act(io, cx));
        if polled.is_pending() {
            keep(&mut self.writer, cx);
        }
        polled
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..self.room()?.min(bytes.len())];
        let written = self.poll_writer(cx, |io, cx| io.poll_write(cx, bytes));
        if let Poll::Ready(Ok(count)) = written {
            self.passed(&bytes[..count]);
        }
        written
    }
}

impl AsyncRead for Outlet {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        let read = inner.poll_io(|io| io.poll_read(cx, buffer));
        if read.is_pending() {
            keep(&mut inner.reader, cx);
        }
        read
    }
}

impl AsyncWrite for Outlet {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = lock(&self.0);
        if inner.ending {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return inner.poll_write(cx, first.map_or(&[], |slice| slice));
        }
        let written = inner.poll_writer(cx, |io, cx| io.poll_write_vectored(cx, slices));
        if let Poll::Ready(Ok(mut count)) = written {
            for slice in slices {
                let part = count.min(slice.len());
                inner.passed(&slice[..part]);
                count -= part;
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        let inner = lock(&self.0);
        inner.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_writer(cx, |io, cx| io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        if inner.ending {
            return Poll::Ready(Err(ended()));
        }
        inner.shut = true;
        inner.poll_writer(cx, |io, cx| io.poll_shutdown(cx))
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let mut inner = lock(&self.0);
        inner.dropped = true;
        // Unless it is the error of an end that made him do it.
        inner.shut |= !inner.ending;
        wake(&mut inner.server);
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn ended() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the server goes away and has ended this connection",
    )
}
