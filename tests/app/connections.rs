//! Connections to an app in a test.

#![expect(
    clippy::panic,
    reason = "a helper fails its test, and a handler what it is asked for"
)]

use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::routing::get;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use payload::testing::{TestApp, peer};
use payload::{App, AppBuilder, Body, Peer, Token};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::{self, protocol::frame::coding::CloseCode};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::{SECOND, pair, soon};

type Client = WebSocketStream<DuplexStream>;

async fn start(builder: AppBuilder, routes: Router) -> TestApp {
    soon(TestApp::start(builder.build(routes))).await.unwrap()
}

async fn open(app: &TestApp, path: &str) -> Client {
    let url = format!("ws://test{path}");
    let opened = soon(client_async(url, app.connect())).await;
    opened.expect("a WebSocket").0
}

/// Answers until it is told to drain, and says goodbye then.
async fn polite(mut socket: WebSocket, drain: Token) {
    loop {
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    let answer = Message::Text(format!("{text}, {text}").into());
                    socket.send(answer).await.unwrap();
                }
                _ => return,
            },
            () = drain.fired() => {
                let close = CloseFrame { code: 1001, reason: "bye".into() };
                let _ = socket.send(Message::Close(Some(close))).await;
                return;
            }
        }
    }
}

/// Says nothing, and hears nothing of a drain.
async fn deaf(mut socket: WebSocket) {
    while let Some(Ok(_)) = socket.recv().await {}
}

fn sockets(drain: Token) -> Router {
    let polite =
        async move |upgrade: WebSocketUpgrade| upgrade.on_upgrade(|socket| polite(socket, drain));
    Router::new().route("/polite", get(polite)).route(
        "/deaf",
        get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(deaf)),
    )
}

async fn load(context: payload::Context) -> payload::Result<App> {
    Ok(pair(App::builder(), "a").build(sockets(context.drain_token())))
}

async fn serve() -> TestApp {
    soon(TestApp::load(payload::NoSettings {}, load))
        .await
        .unwrap()
}

async fn close_of(client: &mut Client) -> (CloseCode, String) {
    match soon(client.next()).await {
        Some(Ok(tungstenite::Message::Close(Some(close)))) => {
            (close.code, close.reason.to_string())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_websocket_is_answered_and_told_of_the_drain_which_the_stop_waits_for() {
    let mut app = serve().await;
    let mut client = open(&app, "/polite").await;
    client.send("ho".into()).await.unwrap();
    assert_eq!(soon(client.next()).await.unwrap().unwrap(), "ho, ho".into());
    app.drain();
    assert_eq!(
        close_of(&mut client).await,
        (CloseCode::Away, "bye".to_owned())
    );
    drop(client);
    assert!(soon(app.stop()).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_end_is_cut_off_before_the_teardown() {
    let limit = 10 * SECOND;
    for within_the_drain in [true, false] {
        let mut app = serve().await;
        let mut client = open(&app, "/deaf").await;
        let (trace, begun) = (app.trace(), Instant::now());
        let stop = if within_the_drain {
            app.drain_within(limit);
            tokio::spawn(app.stop())
        } else {
            tokio::spawn(app.stop_within(2 * limit))
        };
        // From the server, since the app says nothing.
        assert_eq!(
            close_of(&mut client).await,
            (CloseCode::Away, String::new())
        );
        assert_eq!(begun.elapsed(), limit);
        assert!(!trace.contains("app stopping"), "{:?}", trace.lines());
        assert!(soon(stop).await.unwrap().is_empty());
        assert!(trace.contains("teardown 'a' done"));
        assert!(
            begun.elapsed() < limit + 2 * SECOND,
            "{:?}",
            begun.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_dropped_takes_its_connections_along() {
    let app = serve().await;
    let mut client = open(&app, "/deaf").await;
    drop(app);
    assert_eq!(
        close_of(&mut client).await,
        (CloseCode::Away, String::new())
    );
}

/// By hyper's own client, and nothing of WebSockets.
#[tokio::test(start_paused = true)]
async fn any_protocol_can_be_changed_to() {
    let upgrade = async |request: Request<axum::body::Body>| {
        let upgraded = hyper::upgrade::on(request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            let mut word = [0; 4];
            io.read_exact(&mut word).await.unwrap();
            word.reverse();
            io.write_all(&word).await.unwrap();
            io.shutdown().await.unwrap();
        });
        (
            StatusCode::SWITCHING_PROTOCOLS,
            [(CONNECTION, "upgrade"), (UPGRADE, "backwards")],
        )
    };
    let app = start(App::builder(), Router::new().route("/", get(upgrade))).await;
    let (mut sender, connection) = http1::handshake(TokioIo::new(app.connect())).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get("/")
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "backwards")
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let upgraded = soon(hyper::upgrade::on(response)).await.unwrap();
    let mut io = TokioIo::new(upgraded);
    io.write_all(b"name").await.unwrap();
    let mut answer = String::new();
    soon(io.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "eman");
    assert!(soon(app.stop()).await.is_empty());
}

async fn ask(client: &mut DuplexStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
}

/// Until the connection ends.
async fn rest(mut client: DuplexStream) -> String {
    let mut rest = String::new();
    soon(client.read_to_string(&mut rest)).await.unwrap();
    rest
}

#[tokio::test(start_paused = true)]
async fn it_is_served_and_ended_as_by_a_worker() {
    let routes = Router::new()
        .route("/", get(async || "here"))
        .route("/soon", get(async || sleep(SECOND).await))
        .route("/slow", get(async || sleep(600 * SECOND).await))
        .route("/panic", get(async || -> () { panic!("asked to panic") }));
    let mut app = start(App::builder(), routes).await;

    let mut idle = app.connect();
    ask(&mut idle, "/").await;
    let mut head = [0; 15];
    soon(idle.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");

    let mut broken = app.connect();
    ask(&mut broken, "/panic").await;
    let mut head = [0; 12];
    soon(broken.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 500");
    drop(broken);

    let (mut short, mut long) = (app.connect(), app.connect());
    ask(&mut short, "/soon").await;
    ask(&mut long, "/slow").await;
    sleep(Duration::from_millis(1)).await;
    app.drain_within(5 * SECOND);
    assert!(rest(idle).await.ends_with("here"));
    assert!(rest(short).await.contains("connection: close"));
    let begun = Instant::now();
    assert!(soon(app.stop()).await.is_empty());
    assert_eq!(rest(long).await, "");
    assert!(begun.elapsed() >= 4 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_app_that_wants_to_know_who_asks_hears_it() {
    let who = async |Extension(peer): Extension<Peer>| {
        format!("{:?} over {}", peer.address(), peer.listener())
    };
    let app = start(
        App::builder().with_peer(),
        Router::new().route("/", get(who)),
    )
    .await;
    let address = ([192, 0, 2, 1], 443).into();
    for (stream, answer) in [
        (app.connect(), "None over test"),
        (
            app.connect_as(peer(Some(address), "public")),
            "Some(192.0.2.1:443) over public",
        ),
    ] {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let response = soon(sender.send_request(Request::new(Body::empty())))
            .await
            .unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, answer);
    }
}
