use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use crate::worker::signal::Order;
use crate::worker::testing::{Fixture, get, response, rest};

impl Fixture {
    fn order(&self, order: Order) {
        self.server.signal().raise(order);
    }
}

#[tokio::test(start_paused = true)]
async fn idle_connections_close_at_once() {
    let fixture = Fixture::new();
    let mut used = fixture.connect();
    used.write_all(get("/x").as_bytes()).await.unwrap();
    response(&mut used).await;
    let mut fresh = fixture.connect();
    tokio::task::yield_now().await;

    let begun = Instant::now();
    fixture.order(Order::Drain);
    assert_eq!(rest(&mut used).await, "");
    assert!(
        begun.elapsed() < Duration::from_millis(5),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(rest(&mut fresh).await, "");
    fixture.server.tasks.over().await;
    assert!(
        begun.elapsed() < Duration::from_millis(100),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_just_accepted_may_still_send_its_request() {
    let fixture = Fixture::new();
    fixture.order(Order::Drain);
    let mut client = fixture.connect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.write_all(get("/late").as_bytes()).await.unwrap();
    let (head, body) = response(&mut client).await;
    assert_eq!(body, "/late");
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn a_response_in_flight_announces_the_close() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(get("/wait").as_bytes()).await.unwrap();
    fixture.script.begun.notified().await;
    fixture.order(Order::Drain);
    let over = fixture.server.tasks.over();
    assert!(
        timeout(Duration::from_millis(50), over).await.is_err(),
        "drained with a request in flight"
    );
    fixture.script.go.notify_one();
    let (head, body) = response(&mut client).await;
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(body, "waited");
    assert_eq!(rest(&mut client).await, "");
    fixture.server.tasks.over().await;
}

#[tokio::test]
async fn a_body_on_its_way_is_sent_whole() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(get("/stream").as_bytes()).await.unwrap();
    response(&mut client).await;
    fixture.order(Order::Drain);
    tokio::task::yield_now().await;
    fixture.script.go.notify_one();
    assert_eq!(rest(&mut client).await, "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n");
    fixture.server.tasks.over().await;
}

#[tokio::test]
async fn a_head_on_its_way_becomes_a_request_and_its_response_announces_the_close() {
    for before in [0, 1] {
        let fixture = Fixture::new();
        let mut client = fixture.connect();
        for _ in 0..before {
            client.write_all(get("/x").as_bytes()).await.unwrap();
            response(&mut client).await;
        }
        client.write_all(b"GET /ha").await.unwrap();
        tokio::task::yield_now().await;
        fixture.order(Order::Drain);
        tokio::task::yield_now().await;
        client
            .write_all(b"lf HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let (head, body) = response(&mut client).await;
        assert_eq!(body, "/half");
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(rest(&mut client).await, "");
        fixture.server.tasks.over().await;
    }
}

#[tokio::test]
async fn cancel_drops_handlers_and_leaves_no_task() {
    let fixture = Fixture::new();
    let mut waiting = fixture.connect();
    waiting.write_all(get("/wait").as_bytes()).await.unwrap();
    fixture.script.begun.notified().await;
    let mut streaming = fixture.connect();
    streaming
        .write_all(get("/stream").as_bytes())
        .await
        .unwrap();
    response(&mut streaming).await;
    let mut idle = fixture.connect();

    fixture.order(Order::Drain);
    tokio::task::yield_now().await;
    fixture.order(Order::Cancel);
    timeout(Duration::from_secs(5), fixture.server.tasks.over())
        .await
        .expect("no task is left");
    assert_eq!(fixture.script.cancelled.load(Relaxed), 1);
    assert_eq!(fixture.server.meter.seat().in_flight.load(Relaxed), 0);
    assert_eq!(fixture.server.meter.seat().connections.load(Relaxed), 0);
    assert_eq!(rest(&mut waiting).await, "");
    assert_eq!(rest(&mut streaming).await, "3\r\none\r\n");
    assert_eq!(rest(&mut idle).await, "");
}
