//! The limits on HTTP, and what a hostile or careless client gets.

use std::thread;

use nix::sys::signal::Signal;

use crate::support::http::{get, last_request, request};
use crate::support::http2;
use crate::support::service::{Setup, signal_to};

#[test]
fn a_head_that_does_not_come_in_time_gets_408() {
    let service = Setup::new("workers = 1")
        .args(&["--header-read-timeout=300ms"])
        .serve();
    // From its first byte on, so that a client may be slow to begin.
    let mut slow = service.client();
    slow.send_bytes("GET / HTTP/1.1\r\nho").unwrap();
    let response = slow.answer().unwrap();
    assert_eq!(response.status, 408);
    assert!(response.announces_close());
    slow.expect_end();
    // The second request of a connection is no exception.
    let mut slow = service.client();
    slow.get("/").unwrap();
    slow.send_bytes("GET / HT").unwrap();
    assert_eq!(slow.answer().unwrap().status, 408);
    slow.expect_end();
}

#[test]
fn a_head_that_is_too_large_gets_431() {
    let service = Setup::new("workers = 1")
        .args(&["--max-head-size=16KiB"])
        .serve();
    let mut client = service.client();
    let padding = "x".repeat(12 * 1024);
    client
        .send_bytes(format!(
            "GET / HTTP/1.1\r\nhost: test\r\nx-a: {padding}\r\n\r\n"
        ))
        .unwrap();
    assert_eq!(client.answer().unwrap().status, 200, "within the limit");
    client
        .send_bytes(format!(
            "GET / HTTP/1.1\r\nhost: test\r\nx-a: {padding}\r\nx-b: {padding}\r\n\r\n"
        ))
        .unwrap();
    assert_eq!(client.answer().unwrap().status, 431);
    client.expect_end();
}

#[test]
fn too_many_headers_get_431() {
    let service = Setup::new("workers = 1")
        .args(&["--max-headers=10"])
        .serve();
    let with = |count: usize| {
        let headers: String = (0..count)
            .map(|number| format!("x-{number}: y\r\n"))
            .collect();
        let mut client = service.client();
        client
            .send_bytes(format!("GET / HTTP/1.1\r\n{headers}\r\n"))
            .unwrap();
        client.answer().unwrap().status
    };
    assert_eq!(with(10), 200);
    assert_eq!(with(11), 431);
}

#[test]
fn an_idle_connection_is_closed_in_the_end() {
    let service = Setup::new("workers = 1")
        .args(&["--keep-alive-timeout=300ms"])
        .serve();
    // Everything is there when the connections are accepted: whatever this client's pace is, it is not idle before.
    let worker = service.workers()[0];
    signal_to(worker, Signal::SIGSTOP);
    let mut used = service.client();
    let mut unused = service.client();
    used.send_bytes([request("/sleep?ms=700"), request("/")].concat())
        .unwrap();
    signal_to(worker, Signal::SIGCONT);
    // A response that takes longer than the timeout is not idleness.
    assert_eq!(used.answer().unwrap().status, 200);
    assert_eq!(used.answer().unwrap().status, 200);
    used.expect_end();
    unused.expect_end();
    // Nor is it idle from the last byte on that came from its client: there is time for another request.
    let service = Setup::new("workers = 1")
        .args(&["--keep-alive-timeout=3s"])
        .serve();
    let mut client = service.client();
    assert_eq!(client.get("/sleep?ms=3500").unwrap().status, 200);
    assert_eq!(client.get("/").unwrap().status, 200);
}

#[test]
fn connections_beyond_the_limit_wait_in_the_backlog() {
    let service = Setup::new("workers = 1")
        .args(&["--max-connections=2"])
        .serve();
    let mut first = service.client();
    let mut second = service.client();
    first.get("/").unwrap();
    second.get("/").unwrap();
    let mut third = service.client();
    third.send("/").unwrap();
    // The worker is alive and answers those that it has; the third is not even accepted.
    for _ in 0..20 {
        first.get("/").unwrap();
        second.get("/").unwrap();
    }
    assert_eq!(service.each("connections"), [2]);
    assert_eq!(service.each("accepted"), [2]);
    drop(first);
    assert_eq!(third.answer().unwrap().status, 200);
    assert_eq!(service.each("accepted"), [3]);
}

#[test]
fn a_panic_is_a_500_with_a_request_id_and_the_worker_lives_on() {
    let service = Setup::new("workers = 1").serve();
    let mut client = service.client();
    let pid = client.get("/").unwrap().number();
    let response = client.get("/panic").unwrap();
    assert_eq!(response.status, 500);
    let id = response
        .header("x-request-id")
        .expect("a request id")
        .to_owned();
    let record = service.message("the handler of a request panicked");
    assert_eq!(record["request_id"], *id, "{record}");
    assert_eq!(record["path"], "/panic");
    assert_eq!(record["level"], "error");
    // On the same connection, and on another.
    assert_eq!(client.get("/").unwrap().number(), pid);
    assert_eq!(get(service.address(), "/").number(), pid);
    assert_eq!(service.each("panics"), [1]);
}

#[test]
fn requests_that_are_planted_in_an_unread_body_are_never_answered() {
    let service = Setup::new("workers = 1").serve();
    let planted = request("/planted").repeat(20);
    // Small enough to be there with the head, and too large for any buffer; with a length, and chunked.
    for size in [planted.len(), 300 * 1024] {
        let body = planted.repeat(size.div_ceil(planted.len()));
        let length = format!(
            "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let chunked = "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
        for (head, body) in [
            (length.as_str(), body.clone()),
            (chunked, format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())),
        ] {
            // All at once, and the body after the answer.
            for late in [false, true] {
                let mut client = service.client();
                let mut answers = Vec::new();
                if late {
                    client.send_bytes(head).unwrap();
                    answers.push(client.answer().unwrap());
                    let _ = client.send_bytes(&body);
                } else {
                    let _ = client.send_bytes(format!("{head}{body}"));
                }
                let _ = client.send_bytes(last_request("/"));
                while let Ok(answer) = client.answer() {
                    answers.push(answer);
                }
                assert!((1..=2).contains(&answers.len()), "{answers:?}");
                for answer in &answers {
                    assert_eq!(answer.status, 200, "/planted would be a 404: {answers:?}");
                }
            }
        }
    }
    let asked = service.sum("requests");
    assert!(
        asked <= 16,
        "eight bodies, one request behind each: {asked}"
    );
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let service = Setup::new("workers = 1").serve();
    let mut client = service.client();
    for _ in 0..20 {
        let batch: String = (0..16)
            .map(|number| {
                let body = format!("number {number}");
                format!(
                    "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )
            })
            .collect();
        client.send_bytes(batch).unwrap();
        for number in 0..16 {
            assert_eq!(client.answer().unwrap().body, format!("number {number}"));
        }
    }
    // A slow one in the middle holds back those behind it, and nothing is lost or reordered.
    let batch = [
        request("/"),
        request("/sleep?ms=300"),
        last_request("/environment"),
    ]
    .concat();
    client.send_bytes(batch).unwrap();
    let pid = client.answer().unwrap().number();
    assert_eq!(client.answer().unwrap().number(), pid);
    assert!(client.answer().unwrap().body.contains("PATH="));
    client.expect_end();
    // Half a head behind whole requests does not keep their responses.
    let mut client = service.client();
    client
        .send_bytes(format!("{}{}GET / HT", request("/"), request("/")))
        .unwrap();
    for _ in 0..2 {
        assert_eq!(client.answer().unwrap().number(), pid);
    }
}

#[test]
fn http2_with_prior_knowledge() {
    let service = Setup::new("workers = 1").serve();
    let (address, pid) = (service.address(), service.workers()[0]);
    http2::run(async {
        let mut client = http2::Client::connect(address).await;
        let answers: Vec<_> = (0..50).map(|_| tokio::spawn(client.get("/"))).collect();
        for answer in answers {
            let answer = answer.await.unwrap();
            assert_eq!(answer.status, 200);
            assert_eq!(answer.body, format!("{pid}\n"));
        }
        assert_eq!(client.get("/panic").await.status, 500);
        assert_eq!(
            client.get("/").await.status,
            200,
            "the other streams live on"
        );
    });
    assert_eq!(service.each("accepted"), [1]);
    assert_eq!(service.each("requests"), [52]);
}

#[test]
fn more_streams_than_allowed_wait_their_turn() {
    let service = Setup::new("workers = 1").args(&["--max-streams=4"]).serve();
    let address = service.address();
    http2::run(async {
        let mut client = http2::Client::connect(address).await;
        assert_eq!(client.get("/").await.status, 200);
        let answers: Vec<_> = (0..12)
            .map(|_| tokio::spawn(client.get("/sleep?ms=100")))
            .collect();
        for answer in answers {
            assert_eq!(answer.await.unwrap().status, 200);
        }
    });
    let most = service.each("requests")[0];
    assert_eq!(most, 13);
}

#[test]
fn the_worker_lives_through_clients_that_go_away() {
    let service = Setup::new("workers = 1").serve();
    let address = service.address();
    let pid = get(address, "/").number();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..25 {
                    let mut client = service.client();
                    let path = ["/sleep?ms=50", "/slow-body?ms=10&chunks=20", "/"][round % 3];
                    client.send(path).unwrap();
                }
            });
        }
    });
    service.wait_for_sum("connections", 0);
    service.wait_for_sum("in_flight", 0);
    assert_eq!(get(address, "/").number(), pid);
}
