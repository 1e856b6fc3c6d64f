//! Streams of events at the end of their worker.

use nix::sys::signal::Signal;

use crate::support::http::request;
use crate::support::http2;
use crate::support::service::{Service, Setup};

fn start() -> Service {
    Setup::new("workers = 1")
        .args(&["--graceful-timeout=300ms"])
        .serve()
}

#[test]
fn they_end_with_their_last_chunk_and_other_bodies_are_cut_off() {
    for threads in ["1", "3"] {
        // A test that gets no processor for half a second reads its flood too late.
        let is_whole = (0..3).any(|_| every_stream_is_whole(threads));
        assert!(is_whole, "the stream that never waits has no end");
    }
}

/// False: the one that never waits was cut off. It has no room for its last chunk unless it is read.
fn every_stream_is_whole(threads: &str) -> bool {
    let service = Setup::new("workers = 1")
        .args(&["--graceful-timeout=300ms", "--threads", threads])
        .serve();
    let streams: Vec<_> = (0..8)
        .map(|number| {
            let mut client = service.client();
            client.send(&format!("/events?ms={number}")).unwrap();
            client
        })
        .collect();
    let mut body = service.client();
    body.send("/slow-body?ms=20&chunks=100000").unwrap();
    service.wait_for_sum("in_flight", 9);
    service.signal(Signal::SIGTERM);
    let mut is_whole = true;
    for (number, mut client) in streams.into_iter().enumerate() {
        let response = match client.answer() {
            Err(_) if number == 0 => {
                is_whole = false;
                continue;
            }
            answer => answer.expect("a body with an end"),
        };
        assert_eq!(response.header("content-type"), Some("text/event-stream"));
        let (whole, rest) = response.body.rsplit_once("\n\n").unwrap();
        assert!(whole.starts_with("data: ") && rest.is_empty());
        client.expect_end();
    }
    assert!(body.answer().is_err());
    drop(body);
    assert_eq!(service.exit(), 0);
    is_whole
}

#[test]
fn the_app_can_end_them_before() {
    let service = Setup::new("workers = 1").serve();
    let mut client = service.client();
    client.send("/events?drain=true").unwrap();
    service.wait_for_sum("in_flight", 1);
    let mut next = service.client();
    next.send_bytes(request("/").repeat(2)).unwrap();
    next.answer().unwrap();
    assert!(service.reload().status.success());
    assert!(client.answer().unwrap().body.ends_with("\n\n"));
    // And then its connection moves on as any other.
    let answer = client.get("/").unwrap();
    assert!(!answer.announces_close());
    service.event("worker-exited");
    assert_eq!(client.get("/").unwrap().number(), service.workers()[0]);
}

#[test]
fn over_http2_as_well() {
    let service = start();
    let address = service.address();
    http2::run(async {
        let mut client = http2::Client::connect(address).await;
        let events: Vec<_> = (0..5)
            .map(|number| tokio::spawn(client.get(&format!("/events?ms={number}"))))
            .collect();
        let body = tokio::spawn(client.try_get("/slow-body?ms=20&chunks=100000"));
        service.wait_for_sum("in_flight", 6);
        service.signal(Signal::SIGTERM);
        for stream in events {
            let response = stream.await.expect("a stream with an end");
            assert!(response.body.ends_with(b"\n\n"));
        }
        assert!(body.await.unwrap().is_err());
    });
    assert_eq!(service.exit(), 0);
}
