//! What a server of HTTP/2 can do wrong.

use std::io::{self, Read as _};

use crate::meter::Kind;
use crate::meter::tally::Loss;
use crate::script::{Peer, first};
use crate::{ANNOUNCED, UNANNOUNCED, assert_lost, one};

const PLAIN: Kind = Kind::Http2(1);
const REFUSED_STREAM: u32 = 7;
const INTERNAL_ERROR: u32 = 2;

#[test]
fn a_stream_that_the_goaway_leaves_out() {
    let mut counts = one(
        PLAIN,
        first(|peer| {
            begin(peer)?;
            peer.send(&goaway(0, 0))?;
            peer.until_closed()
        }),
    );
    assert_eq!(counts.retryable, 1);
    counts.retryable = 0;
    assert_lost(&counts, &[], ANNOUNCED);
    assert_eq!((counts.reconnects, counts.lived), (1, 0));
}

#[test]
fn a_stream_that_the_goaway_does_not_leave_out() {
    let counts = one(
        PLAIN,
        first(|peer| {
            begin(peer)?;
            peer.send(&goaway(1, 0))
        }),
    );
    assert_lost(&counts, &[(Loss::Closed, 1)], UNANNOUNCED);
}

#[test]
fn closed_without_a_goaway() {
    let counts = one(PLAIN, first(begin));
    assert_lost(&counts, &[(Loss::Closed, 1)], UNANNOUNCED);
}

#[test]
fn reset_without_a_goaway() {
    let counts = one(
        PLAIN,
        first(|peer| {
            begin(peer)?;
            peer.reset()
        }),
    );
    assert_lost(&counts, &[(Loss::Closed, 1)], UNANNOUNCED);
}

#[test]
fn closed_before_the_preface() {
    let counts = one(PLAIN, first(|peer| peer.some()));
    assert_eq!((counts.unannounced, counts.announced), (1, 0));
    assert_eq!(counts.reconnects, 1);
}

#[test]
fn a_goaway_with_an_error() {
    let counts = one(
        PLAIN,
        first(|peer| {
            begin(peer)?;
            peer.send(&goaway(1, INTERNAL_ERROR))
        }),
    );
    assert_lost(&counts, &[(Loss::Closed, 1)], UNANNOUNCED);
}

#[test]
fn an_answer_that_is_cut() {
    let counts = one(
        PLAIN,
        first(|peer| {
            begin(peer)?;
            // HEADERS with END_HEADERS; of HPACK's static table: ":status: 200".
            peer.send(&frame(1, 4, 1, &[0x88]))?;
            is_read(peer)
        }),
    );
    assert_lost(&counts, &[(Loss::Cut, 1)], UNANNOUNCED);
}

#[test]
fn a_stream_that_is_reset() {
    let counts = one(
        PLAIN,
        first(|peer| {
            begin(peer)?;
            peer.send(&reset(INTERNAL_ERROR))?;
            peer.send(&goaway(1, 0))?;
            peer.until_closed()
        }),
    );
    assert_eq!(counts.lost_by.get(&Loss::StreamReset), Some(&1));
    assert_eq!(
        (counts.lost, counts.announced, counts.unannounced),
        (1, 1, 0)
    );
}

#[test]
fn a_stream_that_is_refused() {
    let counts = one(
        PLAIN,
        first(|peer| {
            begin(peer)?;
            peer.send(&reset(REFUSED_STREAM))?;
            peer.send(&goaway(1, 0))?;
            peer.until_closed()
        }),
    );
    assert!(counts.retryable >= 1);
    assert_eq!(
        (counts.lost, counts.announced, counts.unannounced),
        (0, 1, 0)
    );
}

/// Exchanges settings and waits for the first stream's head.
fn begin(peer: &mut Peer) -> io::Result<()> {
    let mut preface = [0; 24];
    peer.stream().read_exact(&mut preface)?;
    peer.send(&frame(4, 0, 0, &[]))?;
    loop {
        match kind(peer)? {
            (4, 0) => peer.send(&frame(4, 1, 0, &[]))?,
            (1, _) => return Ok(()),
            _ => (),
        }
    }
}

/// Waits until the client has read what was sent, by a PING: a close that leaves something unread is an RST, which
/// takes from the client what it has not read yet.
fn is_read(peer: &mut Peer) -> io::Result<()> {
    peer.send(&frame(6, 0, 0, b"are read"))?;
    while kind(peer)? != (6, 1) {}
    Ok(())
}

/// The next frame's kind and flags.
fn kind(peer: &mut Peer) -> io::Result<(u8, u8)> {
    let mut head = [0; 9];
    peer.stream().read_exact(&mut head)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    peer.stream().read_exact(&mut payload)?;
    Ok((head[3], head[4]))
}

fn goaway(last_stream: u32, code: u32) -> Vec<u8> {
    let payload = [last_stream.to_be_bytes(), code.to_be_bytes()].concat();
    frame(7, 0, 0, &payload)
}

/// Of the first stream.
fn reset(code: u32) -> Vec<u8> {
    frame(3, 0, 1, &code.to_be_bytes())
}

/// RFC 9113, 4.1
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}
