use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::worker::signal::Order;
use crate::worker::testing::{Fixture, get, response, rest};

async fn over(fixture: &Fixture) {
    timeout(Duration::from_secs(5), fixture.server.tasks.over())
        .await
        .expect("no task is left");
}

#[tokio::test(start_paused = true)]
async fn cancel_ends_a_stream_of_events_as_it_should_end() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(get("/events").as_bytes()).await.unwrap();
    response(&mut client).await;
    fixture.server.signal().raise(Order::Cancel);
    assert_eq!(rest(&mut client).await, "3\r\none\r\n0\r\n\r\n");
    over(&fixture).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_behind_it_does_not_hold_the_end_back() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let both = [get("/events"), get("/wait")].concat();
    client.write_all(both.as_bytes()).await.unwrap();
    response(&mut client).await;
    fixture.server.signal().raise(Order::Cancel);
    assert_eq!(rest(&mut client).await, "3\r\none\r\n0\r\n\r\n");
    drop(client);
    over(&fixture).await;
}

#[tokio::test(start_paused = true)]
async fn the_author_may_end_it_before() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(get("/events").as_bytes()).await.unwrap();
    response(&mut client).await;
    fixture.script.go.notify_one();
    let mut stream = [0; 21];
    client.read_exact(&mut stream).await.unwrap();
    assert_eq!(&stream, b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n");
    // And then it is a connection like any other.
    client.write_all(get("/wait").as_bytes()).await.unwrap();
    fixture.script.begun.notified().await;
    fixture.server.allow_farewell(Duration::from_secs(600));
    fixture.server.signal().raise(Order::Cancel);
    assert_eq!(rest(&mut client).await, "");
    over(&fixture).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_not_waited_for_long() {
    let fixture = Fixture::new();
    let mut client = fixture.connect_with_buffer(40);
    client.write_all(get("/events").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let begun = Instant::now();
    fixture.server.signal().raise(Order::Cancel);
    over(&fixture).await;
    assert!(begun.elapsed() <= Duration::from_millis(600));
    assert!(!rest(&mut client).await.ends_with("0\r\n\r\n"));
}
