use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use crate::worker::handoff::Socket;
use crate::worker::testing::{Fixture, get, response, rest};

/// Counts the writes that would be system calls.
struct Counting(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Relaxed);
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Relaxed);
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Socket for Counting {}

fn counted(fixture: &Fixture, buffer: usize) -> (DuplexStream, Arc<AtomicUsize>) {
    let (client, socket) = tokio::io::duplex(buffer);
    let writes = Arc::new(AtomicUsize::new(0));
    fixture.serve(Counting(socket, writes.clone()));
    (client, writes)
}

#[tokio::test]
async fn pipelined_responses_leave_together_and_in_order() {
    for (count, most) in [(1, 1), (16, 2), (100, 14)] {
        let fixture = Fixture::new();
        let (mut client, writes) = counted(&fixture, 1 << 20);
        let requests: String = (0..count).map(|n| get(&format!("/{n}"))).collect();
        client.write_all(requests.as_bytes()).await.unwrap();
        for n in 0..count {
            assert_eq!(response(&mut client).await.1, format!("/{n}"));
        }
        let writes = writes.load(Relaxed);
        assert!(
            writes <= most,
            "{writes} writes for {count} pipelined requests"
        );
    }
}

#[tokio::test]
async fn a_request_followed_by_half_a_head_gets_its_response() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    client
        .write_all((get("/whole") + "GET /ha").as_bytes())
        .await
        .unwrap();
    assert_eq!(response(&mut client).await.1, "/whole");
    client
        .write_all(b"lf HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(response(&mut client).await.1, "/half");
}

#[tokio::test]
async fn a_response_does_not_wait_for_the_handler_of_the_next_request() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    let pipelined = get("/quick") + &get("/wait") + &get("/last");
    client.write_all(pipelined.as_bytes()).await.unwrap();
    assert_eq!(response(&mut client).await.1, "/quick");
    fixture.script.go.notify_one();
    assert_eq!(response(&mut client).await.1, "waited");
    assert_eq!(response(&mut client).await.1, "/last");
}

#[tokio::test]
async fn parts_of_a_streamed_body_leave_at_once_even_with_a_request_behind() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    client
        .write_all((get("/stream") + &get("/next")).as_bytes())
        .await
        .unwrap();
    response(&mut client).await;
    let mut part = [0; 8];
    client.read_exact(&mut part).await.unwrap();
    assert_eq!(&part, b"3\r\none\r\n");
    fixture.script.go.notify_one();
    client.read_exact(&mut part).await.unwrap();
    assert_eq!(&part, b"3\r\ntwo\r\n");
    let mut end = [0; 5];
    client.read_exact(&mut end).await.unwrap();
    assert_eq!(response(&mut client).await.1, "/next");
}

#[tokio::test]
async fn a_slow_reader_gets_everything_and_holds_little() {
    let fixture = Fixture::new();
    let (mut client, _) = counted(&fixture, 512);
    let pipelined: String = ["/big", "/middling", "/small", "/middling", "/big"]
        .map(get)
        .concat();
    let writer = async {
        client.write_all(pipelined.as_bytes()).await.unwrap();
        for (length, first) in [
            (3_000_000, b'x'),
            (6_000, b'm'),
            (6, b'/'),
            (6_000, b'm'),
            (3_000_000, b'x'),
        ] {
            let (_, body) = response(&mut client).await;
            assert_eq!(body.len(), length);
            assert_eq!(body.as_bytes()[0], first);
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), writer)
        .await
        .expect("all responses");
}

#[tokio::test]
async fn a_client_that_never_reads_stops_the_handlers() {
    let fixture = Fixture::new();
    let mut client = fixture.connect_with_buffer(4096);
    let flood = get("/middling").repeat(500);
    let flooding = client.write_all(flood.as_bytes());
    let stuck = tokio::time::timeout(std::time::Duration::from_millis(300), flooding).await;
    assert!(stuck.is_err(), "the server took it all");
    let calls = fixture.script.calls.load(Relaxed);
    // The batch, hyper's buffer and the pipe: not 500 responses of 6 kB.
    assert!(
        calls < 64,
        "{calls} handlers ran for a client that reads nothing"
    );
}

#[tokio::test]
async fn the_last_batch_is_written_before_the_close() {
    let fixture = Fixture::new();
    let (mut client, writes) = counted(&fixture, 1 << 20);
    let last = "GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    client
        .write_all((get("/first") + last).as_bytes())
        .await
        .unwrap();
    assert_eq!(response(&mut client).await.1, "/first");
    assert_eq!(response(&mut client).await.1, "/last");
    assert_eq!(rest(&mut client).await, "");
    assert!(writes.load(Relaxed) <= 2);
}
