//! WebSockets that are still there at the deadline of a drain.

use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tungstenite::error::ProtocolError;

use crate::support::DEADLINE;
use crate::support::service::{Service, Setup};
use crate::support::websocket::{
    Error, Message, WebSocket, connect, frame, rest, upgrade, worker_of,
};

const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

fn start(configuration: &str) -> Service {
    Setup::new(configuration)
        .args(&["--graceful-timeout=300ms"])
        .serve()
}

#[test]
fn an_idle_one_gets_1001_and_its_client_can_answer() {
    let service = start("workers = 2");
    let mut sockets: Vec<_> = (0..10)
        .map(|_| connect(service.address(), "/socket"))
        .collect();
    for socket in &mut sockets {
        worker_of(socket);
    }
    let mut bytes = service.client();
    upgrade(&mut bytes, "/socket");
    service.signal(Signal::SIGTERM);
    for socket in &mut sockets {
        let (code, messages) = rest(socket);
        assert_eq!((code, messages.len()), (1001, 0));
    }
    assert_eq!(bytes.rest().unwrap(), GOING_AWAY);
    drop(bytes);
    assert_eq!(service.exit(), 0);
}

#[test]
fn busy_ones_get_it_between_two_frames() {
    for threads in ["1", "3"] {
        let service = Setup::new("workers = 1")
            .args(&["--graceful-timeout=300ms", "--threads", threads])
            .serve();
        let address = service.address();
        let (begin, begun) = channel();
        let clients: Vec<_> = (0..8)
            .map(|number: u8| {
                let begin = begin.clone();
                thread::spawn(move || {
                    let mut socket = connect(address, "/socket");
                    let message = vec![number; 1000 + 20_000 * usize::from(number)];
                    talk(&mut socket, &message, &begin)
                })
            })
            .collect();
        for _ in 0..clients.len() {
            begun.recv_timeout(DEADLINE).expect("an echo for each");
        }
        let told = Instant::now();
        service.signal(Signal::SIGTERM);
        let ends = clients.into_iter().map(|client| client.join().unwrap());
        let late: Vec<_> = ends.filter_map(Result::err).collect();
        // From the deadline on a client has half a second. One that gets no processor for so long is cut off.
        assert!(late.len() <= 2, "{late:?}");
        for (what, at) in late {
            let took = at - told;
            assert!(took >= Duration::from_millis(800), "{what} after {took:?}");
        }
        assert_eq!(service.exit(), 0);
    }
}

/// Echo after echo, until the close with 1001, which must be whole, or until it is cut off: how, and when.
fn talk(
    socket: &mut WebSocket<TcpStream>,
    message: &[u8],
    begin: &Sender<()>,
) -> Result<(), (Error, Instant)> {
    let mut begin = Some(begin);
    loop {
        let sent = socket.send(Message::binary(message.to_vec()));
        match sent.and_then(|()| socket.read()) {
            Ok(Message::Binary(echo)) => assert!(echo == message),
            Ok(Message::Close(frame)) => {
                assert_eq!(u16::from(frame.unwrap().code), 1001);
                // No byte of another frame behind it.
                return match socket.read() {
                    Err(Error::ConnectionClosed) => Ok(()),
                    // Its last message came after the half second: the answer to the close finds nobody.
                    Err(error @ Error::Io(_)) => Err((error, Instant::now())),
                    other => panic!("{other:?}"),
                };
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                let is_cut = matches!(
                    error,
                    Error::Io(_) | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
                );
                assert!(is_cut, "{error:?}");
                return Err((error, Instant::now()));
            }
        }
        if let Some(begin) = begin.take() {
            begin.send(()).expect("a test that waits for it");
        }
    }
}

#[test]
fn a_frame_that_is_on_its_way_is_completed_first() {
    let service = start("workers = 1");
    let mut client = service.client();
    // The second half comes after the deadline.
    upgrade(&mut client, "/halves?ms=500");
    assert_eq!(client.bytes(6).unwrap(), b"\x81\x08half");
    service.signal(Signal::SIGTERM);
    service.message("requests did not end within timeouts.graceful and are cancelled");
    assert_eq!(client.rest().unwrap(), [b"half", &GOING_AWAY[..]].concat());
    drop(client);
    assert_eq!(service.exit(), 0);
}

#[test]
fn no_close_is_said_within_a_frame() {
    let service = start("workers = 1");
    // Too late to be completed, and larger than what the kernel holds for a client that does not read.
    let mut late = service.client();
    upgrade(&mut late, "/halves?ms=60000");
    let mut large = service.client();
    upgrade(&mut large, "/socket");
    let payload = vec![0x55; 12 << 20];
    large.send_bytes(frame(2, &payload)).unwrap();
    assert_eq!(large.bytes(2).unwrap(), [0x82, 127]);
    service.signal(Signal::SIGTERM);
    service.message("requests did not end within timeouts.graceful and are cancelled");
    // A busy machine may not get it all in time, and a close only behind the whole frame.
    let read = large.rest().unwrap();
    let (length, rest) = read.split_at(8);
    assert_eq!(length, (payload.len() as u64).to_be_bytes());
    let (part, close) = rest.split_at(rest.len().min(payload.len()));
    assert!(part.iter().all(|byte| *byte == 0x55));
    assert!(close.is_empty() || close == GOING_AWAY, "{close:?}");
    assert_eq!(late.rest().unwrap(), b"\x81\x08half");
    drop((large, late));
    assert_eq!(service.exit(), 0);
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let service = start("workers = 1");
    let mut client = service.client();
    upgrade(&mut client, "/socket");
    client.send_bytes(frame(2, &vec![7; 12 << 20])).unwrap();
    assert_eq!(client.bytes(2).unwrap(), [0x82, 127]);
    let mut silent = service.client();
    upgrade(&mut silent, "/socket");
    let begun = Instant::now();
    assert_eq!(service.stop(), 0);
    // Without a bound of the worker's own, the arbiter would kill it after 12 s.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    // It never looks like a message.
    assert!(client.rest().map_or(true, |rest| rest.len() < 12 << 20));
    service.never("worker-killed");
}

#[test]
fn another_protocol_is_just_ended() {
    let service = start("workers = 1");
    let mut client = service.client();
    let head =
        "GET /tunnel HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello";
    client.send_bytes(head).unwrap();
    assert_eq!(client.answer().unwrap().status, 101);
    assert_eq!(client.bytes(5).unwrap(), b"hello");
    service.signal(Signal::SIGTERM);
    assert_eq!(client.rest().unwrap(), b"");
    drop(client);
    assert_eq!(service.exit(), 0);
}
