//! The routes that the clients ask, as an axum router. Every path begins with `/loss/`, so that it can be merged into
//! another app.
//!
//! - `/loss/id`: the request's `x-id`; `/loss/sleep?ms=N`: the same, later
//! - `/loss/echo`: the request's body, when it is whole
//! - `/loss/upload`: the id, how many bytes have come, their checksum
//! - `/loss/big?bytes=N`: lines of the id, in chunks
//! - `/loss/sse`: an event each 50 ms; ends well when the worker drains
//! - `/loss/ws`: echoes messages; close 1001 when the worker drains
//!
//! Each answer has the request's `x-id`.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use http_body::Frame as BodyFrame;
use http_body_util::BodyExt as _;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::events::PERIOD;
use super::frames::{ACCEPT, CLOSE, Frame, KEY, PING, PONG};
use super::request::{CHECKSUM, checksum, lines};

/// Bytes of a large answer that are sent at a time.
const PIECE: usize = 8 * 1024;

/// Resolves when the server drains. None: it never does.
#[derive(Clone)]
struct Drain(Option<payload::Token>);

/// `drain`: of the worker that serves; none: streams and sockets end only when their clients end them.
pub(crate) fn router(drain: Option<payload::Token>) -> Router {
    Router::new()
        .route("/loss/id", get(id))
        .route("/loss/sleep", get(later))
        .route("/loss/echo", any(async |body: Bytes| body))
        .route("/loss/upload", any(upload))
        .route("/loss/big", get(big))
        .route("/loss/sse", get(events))
        .route("/loss/ws", get(socket))
        .layer(from_fn(with_id))
        .with_state(Drain(drain))
}

impl Drain {
    async fn begun(self) {
        match self.0 {
            Some(token) => token.fired().await,
            None => std::future::pending().await,
        }
    }
}

#[derive(Deserialize)]
struct Amount {
    #[serde(default)]
    ms: u64,
    #[serde(default)]
    bytes: usize,
}

async fn with_id(request: Request, next: Next) -> Response {
    let id = request.headers().get("x-id").cloned();
    let mut response = next.run(request).await;
    if let Some(id) = id {
        response.headers_mut().insert("x-id", id);
    }
    response
}

async fn id(headers: HeaderMap) -> String {
    let id = headers.get("x-id").and_then(|id| id.to_str().ok());
    id.unwrap_or_default().to_owned()
}

async fn later(Query(amount): Query<Amount>, headers: HeaderMap) -> String {
    sleep(Duration::from_millis(amount.ms)).await;
    id(headers).await
}

async fn upload(headers: HeaderMap, mut body: Body) -> Result<String, (StatusCode, String)> {
    let (mut length, mut sum) = (0, CHECKSUM);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        if let Some(data) = frame.data_ref() {
            length += data.len();
            sum = checksum(sum, data);
        }
    }
    Ok(format!("{} {length} {sum:016x}", id(headers).await))
}

async fn big(Query(amount): Query<Amount>, headers: HeaderMap) -> Body {
    let text = Bytes::from(lines(&id(headers).await, amount.bytes));
    let (sender, body) = stream();
    tokio::spawn(async move {
        for start in (0..text.len()).step_by(PIECE) {
            let piece = text.slice(start..text.len().min(start + PIECE));
            if sender.send(piece).await.is_err() {
                break;
            }
        }
    });
    body
}

async fn events(State(drain): State<Drain>, headers: HeaderMap) -> Response {
    let id = id(headers).await;
    let (sender, body) = stream();
    tokio::spawn(async move {
        let mut drained = std::pin::pin!(drain.begun());
        for number in 0_u64.. {
            let event = format!("data: {id} {number}\n\n");
            if sender.send(event.into()).await.is_err() {
                break;
            }
            tokio::select! {
                () = &mut drained => break,
                () = sleep(PERIOD) => (),
            }
        }
    });
    ([("content-type", "text/event-stream")], body).into_response()
}

async fn socket(State(drain): State<Drain>, mut request: Request) -> Response {
    let key = request.headers().get("sec-websocket-key");
    let known = key.is_some_and(|key| key == KEY);
    let Some(upgrade) = request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .filter(|_| known)
    else {
        return (StatusCode::BAD_REQUEST, "no WebSocket of this meter").into_response();
    };
    tokio::spawn(async move {
        if let Ok(stream) = upgrade.await {
            // A client that is gone needs no answer.
            let _ = echo(stream, drain).await;
        }
    });
    let fields = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", ACCEPT),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, fields).into_response()
}

async fn echo(stream: Upgraded, drain: Drain) -> std::io::Result<()> {
    let mut stream = TokioIo::new(stream);
    let mut inbox = bytes::BytesMut::new();
    let mut drained = std::pin::pin!(drain.begun());
    let mut closing = false;
    loop {
        while let Some((frame, length)) = Frame::parse(&inbox).map_err(std::io::Error::other)? {
            let _ = inbox.split_to(length);
            let answer = match frame.opcode {
                CLOSE if closing => return stream.shutdown().await,
                CLOSE => Frame::close(frame.code()),
                PING => Frame::new(PONG, frame.payload),
                PONG => continue,
                _ if closing => continue,
                opcode => Frame::new(opcode, frame.payload),
            };
            stream.write_all(&answer.bytes(None)).await?;
            if answer.opcode == CLOSE {
                return stream.shutdown().await;
            }
        }
        tokio::select! {
            () = &mut drained, if !closing => {
                closing = true;
                stream.write_all(&Frame::close(1001).bytes(None)).await?;
            }
            read = stream.read_buf(&mut inbox) => {
                if read? == 0 {
                    return Ok(());
                }
            }
        }
    }
}

/// A body that ends when the sender is dropped.
fn stream() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel(4);
    (sender, Body::new(Pieces(receiver)))
}

struct Pieces(mpsc::Receiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Self::Error>>> {
        let piece = self.0.poll_recv(cx);
        piece.map(|piece| piece.map(|piece| Ok(BodyFrame::data(piece))))
    }
}
