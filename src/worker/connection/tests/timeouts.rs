use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

use crate::config::Http;
use crate::worker::testing::{Fixture, HEADER_READ, KEEP_ALIVE, get, limits, response, rest};

/// How long it took, in whole seconds of the paused clock.
fn seconds(since: Instant) -> u64 {
    since.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_sends_nothing_is_closed_silently_at_the_keep_alive_timeout() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let begun = Instant::now();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(seconds(begun), KEEP_ALIVE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_silently_at_the_keep_alive_timeout() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    for _ in 0..3 {
        sleep(KEEP_ALIVE - Duration::from_secs(1)).await;
        client.write_all(get("/x").as_bytes()).await.unwrap();
        response(&mut client).await;
    }
    let idle = Instant::now();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(seconds(idle), KEEP_ALIVE.as_secs());
}

/// That nothing is kept open does not mean that nobody may ask.
#[tokio::test(start_paused = true)]
async fn with_a_keep_alive_timeout_of_zero_each_connection_has_one_request_and_the_time_for_it() {
    let fixture = Fixture::with(Http {
        keep_alive_timeout: Duration::ZERO,
        ..limits()
    });
    let mut client = fixture.connect_with_buffer(1024);
    sleep(HEADER_READ - Duration::from_secs(1)).await;
    client.write_all(get("/big").as_bytes()).await.unwrap();
    // And to read the answer.
    sleep(HEADER_READ - Duration::from_secs(1)).await;
    let (head, body) = response(&mut client).await;
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(body.len(), 3_000_000);
    let over = Instant::now();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(over.elapsed(), Duration::ZERO);

    let mut silent = fixture.connect();
    let begun = Instant::now();
    assert_eq!(rest(&mut silent).await, "");
    assert_eq!(seconds(begun), HEADER_READ.as_secs());
}

#[tokio::test(start_paused = true)]
async fn half_a_head_gets_408_at_the_header_timeout() {
    for before in ["", "/one"] {
        for piece in ["P", "GET / HT"] {
            let fixture = Fixture::new();
            let mut client = fixture.connect();
            if !before.is_empty() {
                client.write_all(get(before).as_bytes()).await.unwrap();
                response(&mut client).await;
                sleep(Duration::from_secs(10)).await;
            }
            let begun = Instant::now();
            client.write_all(piece.as_bytes()).await.unwrap();
            // A byte now and then does not move the deadline.
            sleep(Duration::from_secs(2)).await;
            client.write_all(b"R").await.unwrap();
            let (head, _) = response(&mut client).await;
            assert!(head.starts_with("http/1.1 408"), "{head}");
            assert!(head.contains("connection: close"), "{head}");
            assert_eq!(seconds(begun), HEADER_READ.as_secs());
            assert_eq!(rest(&mut client).await, "");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_head_has_the_whole_time_for_itself() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let (begin, end) = ("GET /x HT", "TP/1.1\r\nhost: x\r\n\r\n");
    for _ in 0..4 {
        client.write_all(begin.as_bytes()).await.unwrap();
        sleep(HEADER_READ * 2 / 3).await;
        client.write_all(end.as_bytes()).await.unwrap();
        let (head, _) = response(&mut client).await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_head_that_came_with_the_request_before_gets_408_too() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    client
        .write_all((get("/one") + "GET /ha").as_bytes())
        .await
        .unwrap();
    response(&mut client).await;
    assert!(response(&mut client).await.0.starts_with("http/1.1 408"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_and_a_slow_body_have_no_limit_here() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(get("/wait").as_bytes()).await.unwrap();
    sleep(KEEP_ALIVE * 3).await;
    fixture.script.go.notify_one();
    assert_eq!(response(&mut client).await.1, "waited");

    let post = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n";
    client.write_all(post.as_bytes()).await.unwrap();
    sleep(KEEP_ALIVE * 3).await;
    client.write_all(b"ok").await.unwrap();
    assert_eq!(response(&mut client).await.1, "ok");

    let idle = Instant::now();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(seconds(idle), KEEP_ALIVE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_idle() {
    let fixture = Fixture::new();
    let mut client = fixture.connect_with_buffer(1024);
    client.write_all(get("/big").as_bytes()).await.unwrap();
    sleep(KEEP_ALIVE * 3).await;
    let (_, body) = response(&mut client).await;
    assert_eq!(body.len(), 3_000_000);
    let idle = Instant::now();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(seconds(idle), KEEP_ALIVE.as_secs());
}
