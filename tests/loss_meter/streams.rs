//! Server-sent events and WebSockets.

use std::io::{self, BufRead as _};

use crate::meter::Kind;
use crate::meter::frames::{ACCEPT, Frame, TEXT};
use crate::meter::tally::Loss;
use crate::script::{Asked, Peer, first};
use crate::{ANNOUNCED, GIVEN_UP, UNANNOUNCED, assert_lost, one, one_until};

#[test]
fn events_that_are_cut() {
    let counts = one_until(
        Kind::Sse,
        first(|peer| {
            let asked = stream(peer)?;
            peer.send(&event(&asked, 0))?;
            peer.send(&event(&asked, 1))
        }),
        |counts| counts.reconnects == 1,
    );
    assert_lost(&counts, &[(Loss::Cut, 1)], UNANNOUNCED);
    assert_eq!(counts.lived, 0);
}

#[test]
fn events_that_are_cut_within_one() {
    let counts = one_until(
        Kind::Sse,
        first(|peer| {
            let asked = stream(peer)?;
            peer.send(&event(&asked, 0))?;
            peer.send(&event(&asked, 1)[..12])?;
            peer.reset()
        }),
        |counts| counts.reconnects == 1,
    );
    assert_lost(&counts, &[(Loss::Cut, 1)], UNANNOUNCED);
}

#[test]
fn events_that_end() {
    let counts = one_until(
        Kind::Sse,
        first(|peer| {
            let asked = stream(peer)?;
            peer.send(&event(&asked, 0))?;
            peer.send(b"0\r\n\r\n")
        }),
        |counts| counts.reconnects == 1,
    );
    assert_lost(&counts, &[], ANNOUNCED);
    assert_eq!((counts.answered, counts.lived), (2, 0));
}

#[test]
fn an_event_that_is_missing() {
    let counts = one_until(
        Kind::Sse,
        first(|peer| {
            let asked = stream(peer)?;
            peer.send(&event(&asked, 0))?;
            peer.send(&event(&asked, 2))?;
            peer.until_closed()
        }),
        |counts| counts.reconnects == 1,
    );
    assert_eq!((counts.wrong, counts.given_up, counts.lost), (1, 1, 0));
}

#[test]
fn events_that_stop_without_a_word() {
    let counts = one_until(
        Kind::Sse,
        first(|peer| {
            let asked = stream(peer)?;
            peer.send(&event(&asked, 0))?;
            peer.until_closed()
        }),
        |counts| counts.reconnects == 1,
    );
    assert_lost(&counts, &[(Loss::Silent, 1)], GIVEN_UP);
}

#[test]
fn a_socket_that_goes_away() {
    let mut counts = one(
        Kind::WebSocket,
        first(|peer| {
            upgrade(peer)?;
            let message = message(peer)?;
            peer.send(&message.bytes(None))?;
            peer.send(&Frame::close(1001).bytes(None))?;
            peer.until_closed()
        }),
    );
    // The client may have sent its next one in the same moment.
    assert!(counts.retryable <= 1);
    counts.retryable = 0;
    assert_lost(&counts, &[], ANNOUNCED);
    assert_eq!((counts.reconnects, counts.lived), (1, 0));
}

#[test]
fn a_message_that_crosses_the_close() {
    let mut counts = one(
        Kind::WebSocket,
        first(|peer| {
            upgrade(peer)?;
            message(peer)?;
            peer.send(&Frame::close(1001).bytes(None))?;
            peer.until_closed()
        }),
    );
    assert_eq!(counts.retryable, 1);
    counts.retryable = 0;
    assert_lost(&counts, &[], ANNOUNCED);
}

#[test]
fn a_socket_that_is_cut() {
    let counts = one(
        Kind::WebSocket,
        first(|peer| {
            upgrade(peer)?;
            message(peer).map(drop)
        }),
    );
    assert_lost(&counts, &[(Loss::Closed, 1)], UNANNOUNCED);
}

#[test]
fn a_socket_that_is_closed_by_an_error() {
    let counts = one(
        Kind::WebSocket,
        first(|peer| {
            upgrade(peer)?;
            message(peer)?;
            peer.send(&Frame::close(1011).bytes(None))?;
            peer.until_closed()
        }),
    );
    assert_lost(&counts, &[(Loss::Closed, 1)], UNANNOUNCED);
}

#[test]
fn another_message() {
    let counts = one(
        Kind::WebSocket,
        first(|peer| {
            upgrade(peer)?;
            message(peer)?;
            peer.send(&Frame::new(TEXT, "hello").bytes(None))?;
            peer.until_closed()
        }),
    );
    assert_eq!(counts.wrong, 1);
}

#[test]
fn pings_are_answered() {
    let counts = one_until(
        Kind::WebSocket,
        first(|peer| {
            upgrade(peer)?;
            let asked = message(peer)?;
            peer.send(&Frame::new(9, "are you there?").bytes(None))?;
            let pong = message(peer)?;
            assert_eq!(pong, Frame::new(10, "are you there?"));
            peer.send(&asked.bytes(None))?;
            peer.send(&Frame::close(1000).bytes(None))?;
            peer.until_closed()
        }),
        |counts| counts.reconnects == 1,
    );
    assert_eq!((counts.lost, counts.wrong, counts.announced), (0, 0, 1));
}

#[test]
fn no_upgrade() {
    let counts = one(
        Kind::WebSocket,
        first(|peer| {
            let asked = peer.asked()?;
            peer.send(&asked.with("connection: close\r\n", b""))
        }),
    );
    assert_eq!((counts.wrong, counts.announced, counts.lost), (1, 1, 0));
}

/// Begins a stream of events.
fn stream(peer: &mut Peer) -> io::Result<Asked> {
    let asked = peer.asked()?;
    let head = format!(
        "HTTP/1.1 200 OK\r\nx-id: {}\r\ntransfer-encoding: chunked\r\n\r\n",
        asked.id
    );
    peer.send(head.as_bytes())?;
    Ok(asked)
}

/// As a chunk.
fn event(asked: &Asked, number: u32) -> Vec<u8> {
    let event = format!("data: {} {number}\n\n", asked.id);
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}

fn upgrade(peer: &mut Peer) -> io::Result<()> {
    peer.asked()?;
    let head =
        format!("HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n");
    peer.send(head.as_bytes())
}

/// The next one.
fn message(peer: &mut Peer) -> io::Result<Frame> {
    let mut bytes = Vec::new();
    loop {
        if let Some((frame, length)) = Frame::parse(&bytes).map_err(io::Error::other)? {
            assert_eq!(length, bytes.len(), "one at a time");
            return Ok(frame);
        }
        let more = peer.stream().fill_buf()?.to_vec();
        if more.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        peer.stream().consume(more.len());
        bytes.extend_from_slice(&more);
    }
}
