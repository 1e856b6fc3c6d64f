//! Requests that ask to leave HTTP/1.1 (RFC 9110, section 7.8), and CONNECT (9.3.6).
//!
//! What authors wait for is hyper's [`OnUpgrade`], which only hyper can make and fulfil. A connection that does
//! both, `with_upgrades`, can no longer be taken out of hyper whole after a refused upgrade, and what it gives away
//! nobody can end from outside. So the client's connection is a plain one, and the author's [`OnUpgrade`] comes from
//! a second one, which hyper has with [`Stub`] alone: there it is asked for an upgrade, and agrees to it when the
//! client's connection is done with HTTP. Only requests that ask for an upgrade pay for that.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use http_body_util::Empty;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::io::Io;
use super::tunnel::{Outlet, Tunnel, Wire};

/// The least that hyper accepts.
const BUFFER: usize = 8 * 1024;
const ASKS: &[u8] = b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: stub\r\n\r\n";

/// What a request asked for, until its response says what comes of it. Dropped, it tells the author that the
/// connection stays with HTTP.
pub(super) struct Upgrade {
    tunnel: Tunnel,
    agree: oneshot::Sender<()>,
    stub: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    connect: bool,
    websocket: bool,
}

impl Upgrade {
    /// Takes hyper's [`OnUpgrade`] out of the request and puts another one there. None, and none there: it did not
    /// ask, or has a body, whose rest would look like the new protocol's first bytes to an author who does not read
    /// it.
    pub(super) fn offer<B: HttpBody>(request: &mut Request<B>) -> Option<Box<Self>> {
        request.extensions_mut().remove::<OnUpgrade>()?;
        if !request.body().is_end_stream() {
            return None;
        }
        let (tunnel, outlet) = Tunnel::new();
        let (agree, agreed) = oneshot::channel();
        let (give, mut given) = oneshot::channel();
        let ends = Mutex::new(Some((give, agreed)));
        let service = service_fn(move |request| {
            let ends = ends.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                if let Some((give, agreed)) = ends {
                    let _ = give.send(hyper::upgrade::on::<Request<_>>(request));
                    let _ = agreed.await;
                }
                Ok::<_, Infallible>(agreement())
            }
        });
        let mut stub: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(
            http1::Builder::new()
                .header_read_timeout(None)
                .max_buf_size(BUFFER)
                .serve_connection(Stub::new(outlet), service)
                .with_upgrades(),
        );
        // It reads the request, and waits for the word to agree.
        let waiting = stub.as_mut().poll(&mut nobody()).is_pending();
        let on_upgrade = given.try_recv().ok().filter(|_| waiting)?;
        request.extensions_mut().insert(on_upgrade);
        Some(Box::new(Self {
            tunnel,
            agree,
            stub,
            connect: request.method() == Method::CONNECT,
            websocket: false,
        }))
    }

    /// Whether this response lets the connection leave HTTP.
    pub(super) fn is_accepted<B>(&mut self, response: &Response<B>) -> bool {
        let protocol = response.headers().get(UPGRADE);
        self.websocket =
            protocol.is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let status = response.status();
        status == StatusCode::SWITCHING_PROTOCOLS || self.connect && status.is_success()
    }

    /// Gives the connection to the author. The response must be written.
    pub(super) fn accept(mut self, io: Io<Wire>) -> Tunnel {
        self.tunnel.begin(io, self.websocket);
        let _ = self.agree.send(());
        // It is ready by that, or else it is dropped and the author hears that there is no upgrade.
        let _ = self.stub.as_mut().poll(&mut nobody());
        self.tunnel
    }
}

fn agreement() -> Response<Empty<&'static [u8]>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("stub"));
    response
}

/// For futures that are polled only when there is something to do.
fn nobody() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// What hyper's second connection runs over: it asks for an upgrade, swallows the agreement, and is the author's end
/// of the tunnel from then on.
struct Stub {
    stage: Stage,
    outlet: TokioIo<Outlet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Asks,
    Waits,
    /// hyper flushes its response once.
    Hears,
    Open,
}

impl Stub {
    fn new(outlet: Outlet) -> Self {
        Self {
            stage: Stage::Asks,
            outlet: TokioIo::new(outlet),
        }
    }

    fn outlet(&mut self) -> Pin<&mut TokioIo<Outlet>> {
        Pin::new(&mut self.outlet)
    }
}

impl Read for Stub {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.stage {
            Stage::Asks => {
                // hyper's first buffer has room for it.
                buffer.put_slice(ASKS);
                self.stage = Stage::Waits;
                Poll::Ready(Ok(()))
            }
            Stage::Waits | Stage::Hears => Poll::Pending,
            Stage::Open => self.outlet().poll_read(cx, buffer),
        }
    }
}

impl Write for Stub {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.stage == Stage::Open {
            return self.outlet().poll_write(cx, bytes);
        }
        self.stage = Stage::Hears;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.stage == Stage::Open {
            return self.outlet().poll_write_vectored(cx, slices);
        }
        self.stage = Stage::Hears;
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.outlet.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stage {
            Stage::Open => return self.outlet().poll_flush(cx),
            Stage::Hears => self.stage = Stage::Open,
            Stage::Asks | Stage::Waits => {}
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stage {
            Stage::Open => self.outlet().poll_shutdown(cx),
            _ => Poll::Ready(Ok(())),
        }
    }
}
