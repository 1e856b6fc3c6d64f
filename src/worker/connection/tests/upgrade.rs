use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep, timeout};

use crate::worker::signal::Order;
use crate::worker::testing::{Fixture, KEEP_ALIVE, get, response};

const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

fn ask(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: {path}\r\n\r\n")
}

impl Fixture {
    /// A client whose connection is about to be the author's.
    async fn switch(&self, path: &str, buffer: usize) -> DuplexStream {
        let mut client = self.connect_with_buffer(buffer);
        client.write_all(ask(path).as_bytes()).await.unwrap();
        let (head, _) = response(&mut client).await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains("connection: upgrade"), "{head}");
        assert!(!head.contains("connection: close"), "{head}");
        client
    }

    fn connections(&self) -> u64 {
        self.server.meter.seat().connections.load(Relaxed)
    }

    async fn cancel(&self) {
        self.server.signal().raise(Order::Cancel);
        timeout(Duration::from_secs(5), self.server.tasks.over())
            .await
            .expect("no task is left");
        assert_eq!(self.connections(), 0);
    }
}

async fn bytes(client: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn what_came_with_the_request_and_what_comes_later_reaches_the_author_and_back() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let early = [get("/before"), ask("/tunnel"), "early".to_owned()].concat();
    client.write_all(early.as_bytes()).await.unwrap();
    assert_eq!(response(&mut client).await.1, "/before");
    assert!(response(&mut client).await.0.starts_with("http/1.1 101"));
    let mut author = fixture.script.upgraded().await;
    let mut read = [0; 5];
    author.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"early");

    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let (mut reader, mut writer) = tokio::io::split(author);
    tokio::spawn(async move {
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let (mut from, mut to) = tokio::io::split(client);
    let sending = sent.clone();
    tokio::spawn(async move {
        to.write_all(&sending).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    from.read_to_end(&mut back).await.unwrap();
    assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
}

#[tokio::test]
async fn a_preface_of_http2_behind_the_request_is_not_one() {
    let fixture = Fixture::new();
    let mut client = fixture.switch("/tunnel", 1 << 16).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    client.write_all(preface).await.unwrap();
    let mut read = [0; 24];
    let mut author = fixture.script.upgraded().await;
    author.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, preface);
}

#[tokio::test]
async fn a_refused_upgrade_leaves_everything_as_it_was() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    for _ in 0..3 {
        let both = [ask("/refused"), get("/after")].concat();
        client.write_all(both.as_bytes()).await.unwrap();
        assert_eq!(response(&mut client).await.1, "/refused");
        assert_eq!(response(&mut client).await.1, "/after");
        let on_upgrade = fixture.script.on_upgrade().expect("it was offered");
        assert!(on_upgrade.await.is_err());
    }
    client
        .write_all(ask("/websocket").as_bytes())
        .await
        .unwrap();
    assert!(response(&mut client).await.0.starts_with("http/1.1 101"));
    fixture.script.upgraded().await;
}

#[tokio::test]
async fn a_request_with_a_body_is_not_offered_one() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let request = "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: tunnel\r\n\
                   content-length: 3\r\n\r\nabc";
    client.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(response(&mut client).await.1, "abc");
    assert!(fixture.script.on_upgrade().is_none());
    client.write_all(get("/after").as_bytes()).await.unwrap();
    assert_eq!(response(&mut client).await.1, "/after");
}

#[tokio::test]
async fn connect_becomes_a_tunnel() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let request = "CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\n\r\nhello";
    client.write_all(request.as_bytes()).await.unwrap();
    let (head, _) = response(&mut client).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let mut author = fixture.script.upgraded().await;
    let mut read = [0; 5];
    author.read_exact(&mut read).await.unwrap();
    author.write_all(&read).await.unwrap();
    drop(author);
    assert_eq!(bytes(&mut client).await, b"hello");
}

#[tokio::test]
async fn the_connection_counts_until_the_author_drops_it() {
    let fixture = Fixture::new();
    let mut client = fixture.switch("/websocket", 1 << 16).await;
    let author = fixture.script.upgraded().await;
    assert_eq!(fixture.connections(), 1);
    assert_eq!(fixture.server.meter.seat().in_flight.load(Relaxed), 0);
    drop(author);
    assert_eq!(bytes(&mut client).await, b"");
    fixture.server.tasks.over().await;
    assert_eq!(fixture.connections(), 0);
}

#[tokio::test]
async fn an_author_who_does_not_wait_for_it_closes_it() {
    let fixture = Fixture::new();
    let mut client = fixture.switch("/websocket", 1 << 16).await;
    drop(fixture.script.on_upgrade());
    assert_eq!(bytes(&mut client).await, b"");
    fixture.server.tasks.over().await;
}

#[tokio::test(start_paused = true)]
async fn no_timeout_of_http_ends_it() {
    let fixture = Fixture::new();
    let mut client = fixture.switch("/websocket", 1 << 16).await;
    let mut author = fixture.script.upgraded().await;
    client.write_all(b"half").await.unwrap();
    sleep(KEEP_ALIVE * 10).await;
    author.write_all(b"still there").await.unwrap();
    let mut read = [0; 11];
    client.read_exact(&mut read).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_author() {
    for order in [Order::HandOff, Order::Drain] {
        let fixture = Fixture::new();
        let mut client = fixture.switch("/websocket", 1 << 16).await;
        let mut author = fixture.script.upgraded().await;
        fixture.server.signal().raise(order);
        let over = fixture.server.tasks.over();
        assert!(timeout(KEEP_ALIVE * 10, over).await.is_err());
        author.write_all(b"bye").await.unwrap();
        drop(author);
        assert_eq!(bytes(&mut client).await, b"bye");
        fixture.server.tasks.over().await;
    }
}

#[tokio::test]
async fn an_upgrade_in_a_drain_keeps_its_own_fields() {
    let fixture = Fixture::new();
    fixture.server.signal().raise(Order::Drain);
    fixture.switch("/websocket", 1 << 16).await;
    fixture.script.upgraded().await;
}

#[tokio::test(start_paused = true)]
async fn cancel_ends_a_websocket_with_1001_and_its_author_hears_of_it() {
    let fixture = Fixture::new();
    let mut client = fixture.switch("/websocket", 1 << 16).await;
    let mut author = fixture.script.upgraded().await;
    author.write_all(&[0x81, 2, b'h', b'i']).await.unwrap();
    let reading = tokio::spawn(async move {
        let read = author.read_u8().await;
        let written = author.write_all(b"more").await;
        (read, written)
    });
    tokio::task::yield_now().await;
    fixture.server.signal().raise(Order::Cancel);
    assert_eq!(
        bytes(&mut client).await,
        [&[0x81, 2, b'h', b'i'], &GOING_AWAY[..]].concat()
    );
    drop(client);
    let (read, written) = reading.await.unwrap();
    assert!(read.is_err() && written.is_err());
    fixture.cancel().await;
}

#[tokio::test(start_paused = true)]
async fn cancel_waits_for_the_end_of_the_authors_frame() {
    let fixture = Fixture::new();
    let mut client = fixture.switch("/websocket", 1 << 16).await;
    let mut author = fixture.script.upgraded().await;
    let frame = [0x82, 126, 0, 200];
    author.write_all(&frame).await.unwrap();
    fixture.server.signal().raise(Order::Cancel);
    tokio::task::yield_now().await;
    let author = tokio::spawn(async move {
        let rest = [0x55; 150];
        author.write_all(&rest).await.unwrap();
        tokio::task::yield_now().await;
        // It ends the frame, and begins another.
        let slices = [[0x55; 50].as_slice(), &[0x81, 1, b'x']].concat();
        author.write_all(&slices).await
    });
    let read = bytes(&mut client).await;
    drop(client);
    assert_eq!(&read[..4], &frame);
    assert_eq!(&read[4..204], &[0x55; 200]);
    assert_eq!(&read[204..], &GOING_AWAY);
    assert!(author.await.unwrap().is_err());
    fixture.cancel().await;
}

#[tokio::test(start_paused = true)]
async fn cancel_waits_for_a_slow_client_to_take_the_frame() {
    let fixture = Fixture::new();
    let mut client = fixture.switch("/websocket", 512).await;
    let mut author = fixture.script.upgraded().await;
    let frame = [vec![0x82, 126, 0x75, 0x30], vec![7; 30_000]].concat();
    let sent = frame.clone();
    let author = tokio::spawn(async move {
        author.write_all(&sent).await.unwrap();
        author.flush().await
    });
    tokio::task::yield_now().await;
    fixture.server.signal().raise(Order::Cancel);
    tokio::task::yield_now().await;
    let read = bytes(&mut client).await;
    drop(client);
    assert!(read[..frame.len()] == frame);
    assert_eq!(&read[frame.len()..], &GOING_AWAY);
    let _ = author.await.unwrap();
    fixture.cancel().await;
}

#[tokio::test(start_paused = true)]
async fn cancel_gives_up_on_a_frame_that_does_not_end() {
    let fixture = Fixture::new();
    let mut client = fixture.switch("/websocket", 1 << 16).await;
    let mut author = fixture.script.upgraded().await;
    author.write_all(&[0x81, 5, b'h']).await.unwrap();
    let begun = Instant::now();
    fixture.cancel().await;
    assert!(begun.elapsed() <= Duration::from_millis(600));
    assert_eq!(bytes(&mut client).await, [0x81, 5, b'h']);
    assert!(author.write_all(b"e").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn cancel_is_bounded_whatever_client_and_author_do() {
    let fixture = Fixture::new();
    // The client reads nothing, and the author does not even fetch it.
    let _full = fixture.switch("/websocket", 128).await;
    let mut author = fixture.script.upgraded().await;
    let frame = [vec![0x82, 126, 0x75, 0x30], vec![7; 30_000]].concat();
    let stuck = tokio::spawn(async move { author.write_all(&frame).await });
    let _unfetched = fixture.switch("/websocket", 1 << 16).await;
    let begun = Instant::now();
    fixture.cancel().await;
    assert!(begun.elapsed() <= Duration::from_millis(600));
    assert!(stuck.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_author_who_has_closed_says_it_once() {
    let fixture = Fixture::new();
    let mut client = fixture.switch("/websocket", 1 << 16).await;
    let mut author = fixture.script.upgraded().await;
    author.write_all(&GOING_AWAY).await.unwrap();
    fixture.server.signal().raise(Order::Cancel);
    assert_eq!(bytes(&mut client).await, GOING_AWAY);
    drop(client);
    fixture.cancel().await;
}

#[tokio::test(start_paused = true)]
async fn cancel_says_nothing_in_another_protocol() {
    let fixture = Fixture::new();
    let mut client = fixture.switch("/tunnel", 1 << 16).await;
    let mut author = fixture.script.upgraded().await;
    author.write_all(&[0x81]).await.unwrap();
    fixture.server.signal().raise(Order::Cancel);
    assert_eq!(bytes(&mut client).await, [0x81]);
    drop(client);
    fixture.cancel().await;
    assert!(author.read_u8().await.is_err());
}

/// After a refused upgrade, hyper ends without a flush.
#[tokio::test]
async fn the_last_response_after_a_refused_upgrade_is_written_even_to_a_slow_reader() {
    const BATCH: usize = 32 * 1024;
    const BAD: &str = "this is no request\r\n\r\n";
    let path = |length: usize| format!("/{}", "p".repeat(length - 1));
    for refused in [false, true] {
        let fixture = Fixture::new();
        let mut client = fixture.connect_with_buffer(16 * 1024);
        if refused {
            client.write_all(ask("/refused").as_bytes()).await.unwrap();
            response(&mut client).await;
        }
        client.write_all(get("/middling").as_bytes()).await.unwrap();
        let (head, body) = response(&mut client).await;
        let size = head.len() + body.len();
        let left = BATCH - 5 * size - 3 * head.len();
        // More than the pipe takes, and with no room for another response in the batch.
        let requests = [
            get("/middling").repeat(5),
            get(&path(left / 2)),
            get(&path(left - left / 2 - 20)),
            BAD.to_owned(),
        ]
        .concat();
        client.write_all(requests.as_bytes()).await.unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        for _ in 0..7 {
            let (head, _) = response(&mut client).await;
            assert!(head.starts_with("http/1.1 200"), "{head}");
        }
        let (head, _) = response(&mut client).await;
        assert!(head.starts_with("http/1.1 400"), "{head}");
    }
}
