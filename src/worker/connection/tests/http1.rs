use std::sync::atomic::Ordering::Relaxed;

use tokio::io::AsyncWriteExt;

use crate::worker::testing::{Fixture, get, response, rest};

#[tokio::test]
async fn one_connection_serves_one_request_after_the_other() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    for path in ["/one", "/two", "/three"] {
        client.write_all(get(path).as_bytes()).await.unwrap();
        let (head, body) = response(&mut client).await;
        assert!(head.starts_with("http/1.1 200 ok"), "{head}");
        assert_eq!(body, path);
    }
    let seat = fixture.server.meter.seat();
    assert_eq!(seat.connections.load(Relaxed), 1);
    drop(client);
    fixture.server.tasks.over().await;
    assert_eq!(seat.accepted.load(Relaxed), 1);
    assert_eq!(seat.connections.load(Relaxed), 0);
    assert_eq!(seat.requests.load(Relaxed), 3);
    assert_eq!(seat.in_flight.load(Relaxed), 0);
    assert_eq!(
        seat.bytes_in.load(Relaxed),
        (get("/one").len() * 2 + get("/three").len()) as u64
    );
    assert!(seat.bytes_out.load(Relaxed) > 3 * 17);
}

#[tokio::test]
async fn a_request_in_pieces_is_one_request() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    for piece in ["P", "R", "OPFIND /x HTTP/1.1\r\nho", "st: x\r\n\r", "\n"] {
        client.write_all(piece.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(response(&mut client).await.1, "/x");
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_preface_leaves_nothing_behind() {
    for piece in ["", "PRI * HT", "PUT"] {
        let fixture = Fixture::new();
        let mut client = fixture.connect();
        client.write_all(piece.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut client).await, "");
        fixture.server.tasks.over().await;
        assert_eq!(fixture.server.meter.seat().requests.load(Relaxed), 0);
    }
}

#[tokio::test]
async fn a_body_reaches_the_handler_and_the_connection_goes_on() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let post = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhe";
    client.write_all(post.as_bytes()).await.unwrap();
    tokio::task::yield_now().await;
    client.write_all(b"llo").await.unwrap();
    assert_eq!(response(&mut client).await.1, "hello");
    client.write_all(get("/next").as_bytes()).await.unwrap();
    assert_eq!(response(&mut client).await.1, "/next");
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let head =
        "POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    assert!(
        response(&mut client)
            .await
            .0
            .starts_with("http/1.1 100 continue")
    );
    client.write_all(b"ok").await.unwrap();
    assert_eq!(response(&mut client).await.1, "ok");
}

#[tokio::test]
async fn the_peer_is_an_extension_of_the_request() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(get("/listener").as_bytes()).await.unwrap();
    assert_eq!(response(&mut client).await.1, "test");
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_refused_with_431_and_the_client_can_read_that() {
    let fixture = Fixture::new();
    // Small pipes: the server must read on, or the client would never come to its response.
    let client = fixture.connect_with_buffer(1024);
    let head = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "y".repeat(64 * 1024)
    );
    let (mut reader, mut writer) = tokio::io::split(client);
    let (_, (head, _)) = tokio::join!(writer.write_all(head.as_bytes()), response(&mut reader));
    assert!(head.starts_with("http/1.1 431"), "{head}");
    assert_eq!(rest(&mut reader).await, "");
    assert_eq!(fixture.script.calls.load(Relaxed), 0);
}

#[tokio::test]
async fn too_many_headers_are_refused_with_431() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let head = format!(
        "GET / HTTP/1.1\r\nhost: x\r\n{}\r\n",
        "x: y\r\n".repeat(150)
    );
    client.write_all(head.as_bytes()).await.unwrap();
    assert!(response(&mut client).await.0.starts_with("http/1.1 431"));
}

#[tokio::test]
async fn requests_planted_in_a_body_that_nobody_read_are_never_answered() {
    for length in [60, 600, 100_000] {
        let fixture = Fixture::new();
        let mut client = fixture.connect();
        let mut body = get("/planted").repeat(length / get("/planted").len() + 1);
        body.truncate(length);
        let post = format!("POST /first HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        // The body comes after the answer, in pieces that look like requests.
        client.write_all(post.as_bytes()).await.unwrap();
        assert_eq!(response(&mut client).await.1, "/first");
        let _ = client.write_all(body.as_bytes()).await;
        let _ = client.write_all(get("/after").as_bytes()).await;
        let _ = client.shutdown().await;
        let answers = rest(&mut client).await;
        assert!(!answers.contains("/planted"), "{answers}");
        fixture.server.tasks.over().await;
    }
    // All at once.
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let body = get("/planted");
    let length = body.len();
    let post = format!("POST /first HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}");
    client
        .write_all((post + &get("/after")).as_bytes())
        .await
        .unwrap();
    assert_eq!(response(&mut client).await.1, "/first");
    assert_eq!(response(&mut client).await.1, "/after");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_handler() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(get("/wait").as_bytes()).await.unwrap();
    fixture.script.begun.notified().await;
    drop(client);
    fixture.server.tasks.over().await;
    assert_eq!(fixture.script.cancelled.load(Relaxed), 1);
    assert_eq!(fixture.server.meter.seat().in_flight.load(Relaxed), 0);
}
