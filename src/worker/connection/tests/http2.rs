use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::config::Http;
use crate::worker::signal::Order;
use crate::worker::testing::{Fixture, KEEP_ALIVE, limits};

struct Client {
    sender: SendRequest<Empty<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

async fn connect(stream: DuplexStream) -> Client {
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    Client {
        sender,
        connection: tokio::spawn(connection),
    }
}

impl Client {
    fn get(
        &mut self,
        path: &str,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        let request = Request::get(format!("http://x{path}"))
            .body(Empty::new())
            .unwrap();
        self.sender.send_request(request)
    }
}

async fn text(response: Response<Incoming>) -> String {
    assert_eq!(response.version(), Version::HTTP_2);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn with_a_keep_alive_timeout_of_zero_a_client_may_still_ask() {
    let fixture = Fixture::with(Http {
        keep_alive_timeout: Duration::ZERO,
        ..limits()
    });
    let mut client = connect(fixture.connect()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(text(client.get("/one").await.unwrap()).await, "/one");
    let over = Instant::now();
    client.connection.await.unwrap().unwrap();
    assert!(over.elapsed() < KEEP_ALIVE, "{:?}", over.elapsed());
}

#[tokio::test]
async fn prior_knowledge_is_recognised_even_in_pieces() {
    let fixture = Fixture::new();
    let (near, far) = tokio::io::duplex(1 << 16);
    // Between client and server, one byte at a time for the first fifty.
    let mut server = fixture.connect();
    let mut far = far;
    tokio::spawn(async move {
        for _ in 0..50 {
            let byte = far.read_u8().await.unwrap();
            server.write_u8(byte).await.unwrap();
            tokio::task::yield_now().await;
        }
        let _ = tokio::io::copy_bidirectional(&mut far, &mut server).await;
    });
    let mut client = connect(near).await;
    let answers = tokio::join!(client.get("/one"), client.get("/two"));
    assert_eq!(text(answers.0.unwrap()).await, "/one");
    assert_eq!(text(answers.1.unwrap()).await, "/two");
}

#[tokio::test]
async fn drain_lets_streams_finish_and_takes_no_more() {
    let fixture = Fixture::new();
    let mut client = connect(fixture.connect()).await;
    let waiting = client.get("/wait");
    let waiting = tokio::spawn(waiting);
    fixture.script.begun.notified().await;
    fixture.server.signal().raise(Order::Drain);
    // The GOAWAY ends the client's connection for new requests.
    let refused = async {
        while client.get("/more").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), refused)
        .await
        .expect("GOAWAY");
    fixture.script.go.notify_one();
    assert_eq!(text(waiting.await.unwrap().unwrap()).await, "waited");
    timeout(Duration::from_secs(5), fixture.server.tasks.over())
        .await
        .expect("drained");
    client.connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn drain_of_an_idle_connection_is_quick() {
    let fixture = Fixture::new();
    let mut client = connect(fixture.connect()).await;
    text(client.get("/x").await.unwrap()).await;
    let begun = Instant::now();
    fixture.server.signal().raise(Order::Drain);
    fixture.server.tasks.over().await;
    assert!(
        begun.elapsed() < Duration::from_millis(100),
        "{:?}",
        begun.elapsed()
    );
    client.connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn cancel_drops_handlers_and_bodies() {
    let fixture = Fixture::new();
    let mut client = connect(fixture.connect()).await;
    let waiting = tokio::spawn(client.get("/wait"));
    fixture.script.begun.notified().await;
    let streaming = client.get("/stream").await.unwrap();
    fixture.server.signal().raise(Order::Cancel);
    timeout(Duration::from_secs(5), fixture.server.tasks.over())
        .await
        .expect("no task is left");
    assert_eq!(fixture.script.cancelled.load(Relaxed), 1);
    assert_eq!(fixture.server.meter.seat().in_flight.load(Relaxed), 0);
    assert!(waiting.await.unwrap().is_err());
    assert!(streaming.into_body().collect().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_at_the_keep_alive_timeout() {
    let fixture = Fixture::new();
    let mut client = connect(fixture.connect()).await;
    text(client.get("/x").await.unwrap()).await;
    let idle = Instant::now();
    client.connection.await.unwrap().unwrap();
    let waited = idle.elapsed();
    assert!(
        waited >= KEEP_ALIVE && waited < KEEP_ALIVE + Duration::from_secs(2),
        "{waited:?}"
    );
    fixture.server.tasks.over().await;
}

#[tokio::test]
async fn a_panic_is_a_500_and_a_broken_body_resets_its_stream_only() {
    let fixture = Fixture::new();
    let mut client = connect(fixture.connect()).await;
    assert_eq!(client.get("/panic").await.unwrap().status(), 500);
    // The reset may overtake the head.
    if let Ok(broken) = client.get("/panic-in-body").await {
        assert!(broken.into_body().collect().await.is_err());
    }
    assert_eq!(text(client.get("/next").await.unwrap()).await, "/next");
    assert_eq!(fixture.server.meter.seat().panics.load(Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_ends_streams_of_events_and_resets_the_others() {
    for _ in 0..50 {
        let fixture = Fixture::new();
        let mut client = connect(fixture.connect()).await;
        let mut events = Vec::new();
        for _ in 0..5 {
            events.push(client.get("/events").await.unwrap());
        }
        let streaming = client.get("/stream").await.unwrap();
        // It must end by itself.
        fixture.server.allow_farewell(Duration::from_secs(600));
        fixture.server.signal().raise(Order::Cancel);
        let ended = async {
            for response in events {
                assert_eq!(text(response).await, "one");
            }
            assert!(streaming.into_body().collect().await.is_err());
            fixture.server.tasks.over().await;
        };
        timeout(Duration::from_secs(20), ended)
            .await
            .expect("no task is left");
    }
}
