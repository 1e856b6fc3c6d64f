//! A server without sockets, for tests: its service knows a few paths, its connections are pipes.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, DuplexStream};
use tokio::sync::Notify;

use super::connection;
use super::handoff::Socket;
use super::server::Shared;
use crate::app::service::Service;
use crate::body::Body;
use crate::config::Http;
use crate::exit::BoxError;
use crate::ipc::scoreboard::{Meter, create};
use crate::peer::Peer;

pub(super) const HEADER_READ: Duration = Duration::from_secs(5);
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(30);

pub(super) fn limits() -> Http {
    Http {
        header_read_timeout: HEADER_READ,
        keep_alive_timeout: KEEP_ALIVE,
        max_head_size: 16 * 1024,
        max_headers: 100,
        max_connections: 100,
        max_streams: 10,
    }
}

/// What the handlers of a test wait for and report.
#[derive(Default)]
pub(super) struct Script {
    /// `/wait` answers after this.
    pub(super) go: Notify,
    /// After this, `/wait-and-keep` drops the request that it has answered.
    pub(super) drop: Notify,
    /// `/wait` and `/stream` have begun.
    pub(super) begun: Notify,
    /// Handlers of `/wait` that were dropped before they answered.
    pub(super) cancelled: AtomicUsize,
    /// What a request that asked for an upgrade was given.
    on_upgrade: Mutex<Option<OnUpgrade>>,
    /// Requests that reached the service.
    pub(super) calls: AtomicUsize,
}

impl Script {
    pub(super) fn on_upgrade(&self) -> Option<OnUpgrade> {
        self.on_upgrade.lock().unwrap().take()
    }

    /// The connection that has left HTTP.
    pub(super) async fn upgraded(&self) -> TokioIo<Upgraded> {
        let on_upgrade = self.on_upgrade().expect("a request asked for it");
        TokioIo::new(on_upgrade.await.expect("an upgrade"))
    }
}

pub(super) struct Fixture {
    pub(super) server: Arc<Shared>,
    pub(super) script: Arc<Script>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with(limits())
    }

    pub(super) fn with(limits: Http) -> Self {
        let script = Arc::new(Script::default());
        let meter = Meter::new(create().unwrap(), 0);
        meter.seat().worker.store(7, Relaxed);
        let server = Arc::new(Shared::new(service(script.clone()), limits, meter, None));
        Self { server, script }
    }

    /// The client's end of a new connection.
    pub(super) fn connect(&self) -> DuplexStream {
        self.connect_with_buffer(1 << 20)
    }

    /// `buffer`: what the "kernel" takes in each direction.
    pub(super) fn connect_with_buffer(&self, buffer: usize) -> DuplexStream {
        let (client, socket) = tokio::io::duplex(buffer);
        self.serve(socket);
        client
    }

    pub(super) fn serve(&self, socket: impl Socket) {
        let peer = Peer::new(None, "test".into());
        self.server
            .tasks
            .spawn(connection::serve(socket, peer, self.server.clone(), None));
    }
}

pub(super) fn service(script: Arc<Script>) -> Service {
    Service::new(Handler(script)).with_peer(true)
}

#[derive(Clone)]
struct Handler(Arc<Script>);

impl tower_service::Service<Request<Body>> for Handler {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.calls.fetch_add(1, Relaxed);
        assert_ne!(
            request.uri().path(),
            "/panic-in-call",
            "before there is a future"
        );
        Box::pin(answer(self.0.clone(), request))
    }
}

async fn answer(
    script: Arc<Script>,
    mut request: Request<Body>,
) -> Result<Response<Body>, BoxError> {
    let path = request.uri().path().to_owned();
    if let Some(on_upgrade) = request.extensions_mut().remove::<OnUpgrade>() {
        *script.on_upgrade.lock().unwrap() = Some(on_upgrade);
    }
    let body = match path.as_str() {
        "/wait" => {
            let dropped = Dropped(&script);
            script.begun.notify_one();
            script.go.notified().await;
            std::mem::forget(dropped);
            Body::from("waited")
        }
        "/echo" => Body::from(request.into_body().collect().await?.to_bytes()),
        "/wait-and-keep" => {
            script.begun.notify_one();
            script.go.notified().await;
            // Somebody else has the request's body, for some time after the response.
            tokio::spawn(async move {
                script.drop.notified().await;
                drop(request);
            });
            Body::from("answered")
        }
        "/big" => Body::from(vec![b'x'; 3_000_000]),
        "/middling" => Body::from(vec![b'm'; 6_000]),
        "/listener" => {
            let peer = request.extensions().get::<Peer>().unwrap();
            Body::from(peer.listener().to_owned())
        }
        "/stream" => {
            script.begun.notify_one();
            Body::new(TwoParts::new(script.clone()))
        }
        "/websocket" | "/tunnel" => {
            let switch = Response::builder()
                .status(101)
                .header("connection", "upgrade")
                .header("upgrade", &path[1..]);
            return Ok(switch.body(Body::empty())?);
        }
        "/events" => {
            let body = Body::new(TwoParts::new(script.clone()));
            let kind = "Text/Event-Stream; charset=utf-8";
            return Ok(Response::builder()
                .header("content-type", kind)
                .body(body)?);
        }
        "/panic" => panic!("the handler is broken"),
        "/panic-in-body" => Body::new(PanickingBody),
        "/error" => Err("no database")?,
        path => Body::from(path.to_owned()),
    };
    Ok(Response::new(body))
}

struct Dropped<'a>(&'a Script);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        self.0.cancelled.fetch_add(1, Relaxed);
    }
}

/// "one", and after `go` "two" and the end.
struct TwoParts {
    sent: u8,
    go: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl TwoParts {
    fn new(script: Arc<Script>) -> Self {
        let go = Box::pin(async move { script.go.notified().await });
        Self { sent: 0, go }
    }
}

impl http_body::Body for TwoParts {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let part = match self.sent {
            0 => "one",
            1 => {
                ready!(self.go.as_mut().poll(cx));
                "two"
            }
            _ => return Poll::Ready(None),
        };
        self.sent += 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(part.as_bytes())))))
    }
}

struct PanickingBody;

impl http_body::Body for PanickingBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        panic!("the body is broken")
    }
}

/// Reads one response: its head and as many bytes of body as `content-length` says.
pub(super) async fn response(client: &mut (impl AsyncRead + Unpin)) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = client.read_u8().await.expect("the response's head");
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    client
        .read_exact(&mut body)
        .await
        .expect("the response's body");
    (head, String::from_utf8(body).unwrap())
}

/// Everything until the server closes.
pub(super) async fn rest(client: &mut (impl AsyncRead + Unpin)) -> String {
    let mut rest = Vec::new();
    client
        .read_to_end(&mut rest)
        .await
        .expect("the end of the connection");
    String::from_utf8_lossy(&rest).into_owned()
}

pub(super) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
}
