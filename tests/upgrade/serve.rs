//! Upgrades as they are served, and refused.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::http::request;
use crate::support::service::{Setup, signal_to};
use crate::support::websocket::{self, Message, connect, expect_upgrade, frame, rest, text};

#[test]
fn a_websocket_of_axum() {
    for threads in ["1", "4"] {
        let service = Setup::new("workers = 1")
            .args(&["--threads", threads])
            .serve();
        let mut socket = connect(service.address(), "/socket");
        socket.send("hello".into()).unwrap();
        assert_eq!(text(&mut socket), "hello");
        // Lengths on both sides of those that the protocol writes in another way.
        for length in [0, 125, 126, 0xffff, 0x1_0000, 5 << 20] {
            let sent: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[1]).collect();
            socket.send(Message::binary(sent.clone())).unwrap();
            let back = socket.read().unwrap().into_data();
            assert!(back == sent, "{} of {length} bytes", back.len());
        }
        socket.send(Message::Ping("there?".into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong("there?".into()));
        socket.close(None).unwrap();
        assert_eq!(rest(&mut socket).0, 1005);
        service.wait_for_sum("connections", 0);
    }
}

#[test]
fn many_at_once_and_in_both_directions() {
    let service = Setup::new("workers = 2\nthreads = 2").serve();
    let address = service.address();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = crate::support::http::Client::connect(address).unwrap();
                let head = "GET /tunnel HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
                client.send_bytes(head).unwrap();
                assert_eq!(client.answer().unwrap().status, 101);
                let sent: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
                let (mut writer, bytes) = (client.writer().unwrap(), sent.clone());
                let writing = std::thread::spawn(move || {
                    std::io::Write::write_all(&mut writer, &bytes).unwrap();
                    writer.shutdown(std::net::Shutdown::Write).unwrap();
                });
                assert!(client.rest().unwrap() == sent);
                writing.join().unwrap();
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    service.wait_for_sum("connections", 0);
}

#[test]
fn frames_that_come_with_the_request_reach_the_author() {
    let service = Setup::new("workers = 1").serve();
    let mut client = service.client();
    let early = [
        request("/").as_bytes(),
        websocket::request("/socket").as_bytes(),
        &frame(1, b"first"),
        &frame(2, &[7; 300]),
    ]
    .concat();
    client.send_bytes(early).unwrap();
    assert_eq!(client.answer().unwrap().status, 200);
    expect_upgrade(&mut client);
    assert_eq!(client.bytes(7).unwrap(), b"\x81\x05first");
    let second = client.bytes(304).unwrap();
    assert_eq!(&second[..4], [0x82, 126, 1, 44]);
    assert_eq!(&second[4..], [7; 300]);
}

#[test]
fn a_refused_upgrade_is_an_answer_like_any_other_and_its_connection_moves_on() {
    let service = Setup::new("workers = 2").serve();
    let (mut clients, mut of_leaving) = (Vec::new(), 0);
    while of_leaving < 3 {
        let mut client = service.client();
        // What Java's client sends first, another protocol, and a WebSocket without its key.
        let asked = [
            ("/", "h2c", 200),
            ("/tunnel", "nothing", 426),
            ("/socket", "websocket", 400),
        ];
        for (path, protocol, status) in asked {
            let head = format!(
                "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n"
            );
            client.send_bytes(head).unwrap();
            let response = client.answer().unwrap();
            assert_eq!(response.status, status, "{path}");
            assert!(!response.announces_close(), "{}", response.head);
        }
        of_leaving += u64::from(client.get("/").unwrap().number() == service.workers()[1]);
        clients.push(client);
    }
    service.signal(Signal::SIGTTOU);
    service.event("worker-exited");
    let stays = service.workers()[0];
    for client in &mut clients {
        let answer = client.get("/").unwrap();
        assert_eq!(answer.number(), stays);
        assert!(!answer.announces_close());
    }
    // A worker that was far behind for a while was given some before.
    assert!(service.sum("received") >= of_leaving);
    // And there it can be granted.
    websocket::upgrade(&mut clients[0], "/socket");
}

#[test]
fn they_count_as_connections() {
    let service = Setup::new("workers = 1")
        .args(&["--max-connections=2", "--keep-alive-timeout=300ms"])
        .serve();
    // Everything is there when they are accepted: whatever this client's pace is, they are not idle before.
    let worker = service.workers()[0];
    signal_to(worker, Signal::SIGSTOP);
    let mut sockets = [service.client(), service.client()];
    for client in &mut sockets {
        client.send_bytes(websocket::request("/socket")).unwrap();
    }
    signal_to(worker, Signal::SIGCONT);
    sockets.iter_mut().for_each(expect_upgrade);
    service.wait_for_sum("connections", 2);
    assert_eq!(service.sum("in_flight"), 0);
    let mut third = service.client();
    third.send("/").unwrap();
    // Longer than HTTP would keep them.
    std::thread::sleep(Duration::from_millis(700));
    assert!(!third.has_answer(), "beyond the limit");
    for client in &mut sockets {
        client.send_bytes(frame(1, b"still")).unwrap();
        assert_eq!(client.bytes(7).unwrap(), b"\x81\x05still");
    }
    assert_eq!(service.sum("connections"), 2);
    drop(sockets);
    assert_eq!(third.answer().unwrap().status, 200);
}
