//! What the probe serves that does not end by itself. Without `drain` it pays no heed to a drain either.
//!
//! - `/socket`: a WebSocket of axum's that echoes messages, and answers `pid` with the worker's pid;
//!   `/socket?drain=true`: the same, and closes it with 1001 when the worker drains
//! - `/halves?ms=N`: a WebSocket that sends half a frame, and the other half so long after the drain has begun
//! - `/tunnel`: upgrades to `echo`, where each byte comes back; refuses what asks for something else
//! - `/events?ms=N`: an event with the worker's pid, so often; `/events?ms=N&drain=true`: until the worker drains

use std::future::pending;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper_util::rt::TokioIo;
use payload::Token;
use serde::Deserialize;
use tokio::io::{AsyncWriteExt as _, copy, split};
use tokio::time::sleep;

use crate::Chunks;

/// Of a message and of a frame.
const LARGEST: usize = 64 << 20;

/// What answers the key of RFC 6455 (1.3), which the tests' clients have.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[derive(Clone, Deserialize)]
#[serde(default)]
struct Manner {
    drain: bool,
    ms: u64,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            drain: false,
            ms: 20,
        }
    }
}

impl Manner {
    async fn ends(self, drain: Token) {
        if self.drain {
            drain.fired().await;
        } else {
            pending::<()>().await;
        }
    }
}

pub(crate) fn routes(drain: Token) -> Router {
    Router::new()
        .route("/socket", get(socket))
        .route("/halves", get(halves))
        .route("/tunnel", get(tunnel))
        .route("/events", get(events))
        .with_state(drain)
}

async fn socket(
    upgrade: WebSocketUpgrade,
    Query(manner): Query<Manner>,
    State(drain): State<Token>,
) -> Response {
    upgrade
        .max_message_size(LARGEST)
        .max_frame_size(LARGEST)
        .on_upgrade(async move |socket| {
            // A client that is gone needs nothing more.
            let _ = echo(socket, manner.ends(drain)).await;
        })
}

async fn echo(mut socket: WebSocket, ends: impl Future<Output = ()>) -> Result<(), axum::Error> {
    let mut ends = std::pin::pin!(ends);
    loop {
        let message = tokio::select! {
            message = socket.recv() => message,
            () = &mut ends => {
                let close = CloseFrame { code: 1001, reason: "the worker drains".into() };
                socket.send(Message::Close(Some(close))).await?;
                while socket.recv().await.is_some() {}
                return Ok(());
            }
        };
        match message.transpose()? {
            Some(Message::Text(text)) if text == "pid" => {
                let pid = std::process::id().to_string();
                socket.send(Message::Text(pid.into())).await?;
            }
            Some(message @ (Message::Text(_) | Message::Binary(_))) => {
                socket.send(message).await?;
            }
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

/// By hand, since nobody's WebSocket does it on purpose.
async fn halves(
    Query(manner): Query<Manner>,
    State(drain): State<Token>,
    request: Request,
) -> Response {
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = TokioIo::new(upgraded);
        let _ = socket.write_all(b"\x81\x08half").await;
        drain.fired().await;
        sleep(Duration::from_millis(manner.ms)).await;
        let _ = socket.write_all(b"half").await;
        pending::<()>().await;
    });
    let fields = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", ACCEPT),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, fields).into_response()
}

async fn tunnel(request: Request) -> Response {
    if request
        .headers()
        .get("upgrade")
        .is_none_or(|it| it != "echo")
    {
        return StatusCode::UPGRADE_REQUIRED.into_response();
    }
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let (mut reader, mut writer) = split(TokioIo::new(upgraded));
            if copy(&mut reader, &mut writer).await.is_ok() {
                let _ = writer.shutdown().await;
            }
        }
    });
    let fields = [("connection", "upgrade"), ("upgrade", "echo")];
    (StatusCode::SWITCHING_PROTOCOLS, fields).into_response()
}

async fn events(Query(manner): Query<Manner>, State(drain): State<Token>) -> Response {
    let pause = Duration::from_millis(manner.ms);
    let (mut writer, reader) = tokio::io::duplex(64);
    tokio::spawn(async move {
        let mut ends = std::pin::pin!(manner.ends(drain));
        let event = format!("data: {}\n\n", std::process::id());
        while writer.write_all(event.as_bytes()).await.is_ok() {
            tokio::select! {
                () = sleep(pause) => {}
                () = &mut ends => break,
            }
        }
    });
    let kind = [("content-type", "text/event-stream")];
    (kind, Body::new(Chunks(reader))).into_response()
}
