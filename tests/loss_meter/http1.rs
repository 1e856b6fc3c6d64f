//! What a server of HTTP/1.1 can do wrong.

use std::net::{Shutdown, SocketAddr};
use std::sync::mpsc::{Sender, channel};

use socket2::{Domain, Socket, Type};

use crate::meter::tally::{Counts, Loss};
use crate::meter::{Kind, Load};
use crate::script::first;
use crate::{ANNOUNCED, DEADLINE, Ends, GIVEN_UP, UNANNOUNCED, assert_lost, one, one_until};

/// A client that keeps its connection, and whose requests are small.
const PLAIN: Kind = Kind::Pipeline(1);

#[test]
fn closed_before_the_answer() {
    let counts = one(PLAIN, first(|peer| peer.asked().map(drop)));
    assert_lost(&counts, &[(Loss::Closed, 1)], UNANNOUNCED);
    assert_eq!((counts.opened, counts.reconnects, counts.lived), (2, 1, 0));
}

#[test]
fn reset_before_the_answer() {
    let counts = one(
        PLAIN,
        first(|peer| {
            peer.asked()?;
            peer.reset()
        }),
    );
    assert_lost(&counts, &[(Loss::Reset, 1)], UNANNOUNCED);
}

#[test]
fn closed_within_the_head() {
    let counts = one(
        PLAIN,
        first(|peer| {
            peer.asked()?;
            peer.send(b"HTTP/1.1 200 O")
        }),
    );
    assert_lost(&counts, &[(Loss::Cut, 1)], UNANNOUNCED);
}

#[test]
fn closed_within_the_body() {
    let counts = one(
        PLAIN,
        first(|peer| {
            let mut right = peer.asked()?.right("");
            right.pop();
            peer.send(&right)
        }),
    );
    assert_lost(&counts, &[(Loss::Cut, 1)], UNANNOUNCED);
}

#[test]
fn closed_within_a_chunked_body() {
    let counts = one(
        PLAIN,
        first(|peer| {
            let asked = peer.asked()?;
            let head = format!(
                "HTTP/1.1 200 OK\r\nx-id: {}\r\ntransfer-encoding: chunked\r\n",
                asked.id
            );
            // All of the text, but not the last chunk.
            peer.send(format!("{head}\r\n{:x}\r\n{}\r\n", asked.id.len(), asked.id).as_bytes())
        }),
    );
    assert_lost(&counts, &[(Loss::Cut, 1)], UNANNOUNCED);
}

/// What a server does that says when it was late: one that gets no processor for a while does nothing of what is meant.
/// Then once more, and not for ever: a client that does not look before it writes makes it late each time.
fn in_time(run: impl Fn(Sender<()>) -> Counts) -> Counts {
    for _ in 0..20 {
        let (late, is_late) = channel();
        let counts = run(late);
        // The deed has ended, or ends with its connection.
        if is_late.recv().is_err() {
            return counts;
        }
    }
    panic!("the client never saw what came before it wrote");
}

#[test]
fn closed_while_idle() {
    let counts = in_time(|late| {
        one_until(
            Kind::Thoughtful,
            first(move |peer| {
                let asked = peer.asked()?;
                peer.answer(&asked)?;
                peer.stream().get_ref().shutdown(Shutdown::Write)?;
                // One more, before the end came?
                peer.asked()?;
                let _ = late.send(());
                Ok(())
            }),
            |counts| counts.answered >= 2,
        )
    });
    assert_lost(&counts, &[], UNANNOUNCED);
    assert_eq!((counts.reconnects, counts.lived), (1, 0));
}

#[test]
fn closed_as_announced() {
    let counts = one(
        PLAIN,
        first(|peer| {
            let asked = peer.asked()?;
            peer.send(&asked.right("Connection: keep-alive, Close\r\n"))
        }),
    );
    assert_lost(&counts, &[], ANNOUNCED);
    assert_eq!((counts.reconnects, counts.lived), (1, 0));
}

#[test]
fn a_request_behind_an_announced_close() {
    let counts = one(
        Kind::Pipeline(4),
        first(|peer| {
            let asked = peer.asked()?;
            for _ in 1..4 {
                peer.asked()?;
            }
            peer.send(&asked.right("connection: close\r\n"))
        }),
    );
    assert_lost(&counts, &[(Loss::Behind, 3)], ANNOUNCED);
}

#[test]
fn a_pipeline_that_is_closed_in_the_middle() {
    let counts = one(
        Kind::Pipeline(4),
        first(|peer| {
            let asked = peer.asked()?;
            let second = peer.asked()?;
            peer.asked()?;
            peer.asked()?;
            peer.answer(&asked)?;
            peer.send(&second.right("")[..20])
        }),
    );
    assert_lost(&counts, &[(Loss::Cut, 1), (Loss::Closed, 2)], UNANNOUNCED);
}

#[test]
fn half_a_head_is_a_request() {
    let counts = one(Kind::HalfHead, first(|peer| peer.some()));
    assert!(counts.lost >= 1, "{counts:?}");
    assert_eq!((counts.unannounced, counts.announced), (1, 0));
}

#[test]
fn half_an_upload_is_a_request() {
    let counts = one(
        Kind::SlowUpload,
        first(|peer| {
            peer.some()?;
            peer.reset()
        }),
    );
    assert_lost(&counts, &[(Loss::Reset, 1)], UNANNOUNCED);
}

#[test]
fn the_answer_to_another_request() {
    let counts = one(
        PLAIN,
        first(|peer| {
            let mut asked = peer.asked()?;
            asked.id.push('7');
            peer.answer(&asked)?;
            peer.serve()
        }),
    );
    assert_eq!((counts.wrong, counts.lost), (1, 0));
    assert_eq!(
        (counts.opened, counts.lived),
        (1, 1),
        "the connection is good"
    );
}

#[test]
fn two_answers_that_are_swapped() {
    let counts = one(
        Kind::Pipeline(4),
        first(|peer| {
            let (one, other) = (peer.asked()?, peer.asked()?);
            peer.answer(&other)?;
            peer.answer(&one)?;
            peer.serve()
        }),
    );
    assert_eq!((counts.wrong, counts.lost), (2, 0));
}

#[test]
fn an_answer_with_another_body() {
    let counts = one(
        PLAIN,
        first(|peer| {
            let asked = peer.asked()?;
            peer.send(&asked.with("", b"hello"))?;
            peer.serve()
        }),
    );
    assert_eq!((counts.wrong, counts.lost), (1, 0));
}

#[test]
fn an_error() {
    let counts = one(
        PLAIN,
        first(|peer| {
            peer.asked()?;
            peer.send(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")?;
            peer.serve()
        }),
    );
    assert_eq!((counts.wrong, counts.lost, counts.lived), (1, 0, 1));
}

#[test]
fn an_answer_before_the_end_of_the_request() {
    let counts = in_time(|late| {
        one(
            Kind::SlowUpload,
            first(move |peer| {
                peer.some()?;
                peer.send(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")?;
                // All of it, before the answer came?
                peer.asked()?;
                let _ = late.send(());
                Ok(())
            }),
        )
    });
    assert_eq!((counts.wrong, counts.given_up, counts.lost), (1, 1, 0));
}

#[test]
fn an_answer_that_nobody_asked_for() {
    let counts = one_until(
        Kind::Thoughtful,
        first(|peer| {
            // In one piece, so that both come before the next request.
            let answer = peer.asked()?.right("");
            peer.send(&[answer.as_slice(), &answer].concat())?;
            peer.until_closed()
        }),
        |counts| counts.answered >= 2,
    );
    assert_eq!((counts.unasked, counts.given_up, counts.lost), (1, 1, 0));
}

#[test]
fn what_is_no_http() {
    let counts = one(
        PLAIN,
        first(|peer| {
            peer.asked()?;
            peer.send(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")?;
            peer.until_closed()
        }),
    );
    assert_lost(&counts, &[(Loss::Garbled, 1)], GIVEN_UP);
}

#[test]
fn silence() {
    let counts = one(
        PLAIN,
        first(|peer| {
            peer.asked()?;
            peer.until_closed()
        }),
    );
    assert_lost(&counts, &[(Loss::Silent, 1)], GIVEN_UP);
}

#[test]
fn interim_answers_are_none() {
    let counts = one_until(
        PLAIN,
        first(|peer| {
            let asked = peer.asked()?;
            peer.send(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n")?;
            peer.answer(&asked)?;
            peer.serve()
        }),
        |counts| counts.answered >= 2,
    );
    assert_lost(&counts, &[], Ends::default());
}

#[test]
fn short_connections() {
    let fine = |counts: &Counts| counts.answered >= 10;
    let counts = one_until(Kind::Short, crate::script::good(), fine);
    assert_lost(&counts, &[], Ends::default());
    assert_eq!((counts.opened, counts.reconnects), (counts.sent, 0));

    let counts = one(Kind::Short, first(|peer| peer.asked().map(drop)));
    assert_lost(&counts, &[(Loss::Closed, 1)], UNANNOUNCED);
}

#[test]
fn refused() {
    // Nobody listens there, and nobody else can have it.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let load = Load::new(address).clients(PLAIN, 2).begin();
    assert!(load.wait(DEADLINE, |counts| counts.refused >= 4));
    let report = load.stop();
    let counts = &report.total.counts;
    assert_eq!((counts.sent, counts.opened, counts.lost), (0, 0, 0));
    assert!(report.nothing_lost().is_err());
}

#[test]
fn refused_by_a_unix_socket_that_is_not_there() {
    let address: crate::meter::address::Address = "unix:/nowhere/socket".parse().unwrap();
    let load = Load::new(address).clients(PLAIN, 1).begin();
    assert!(load.wait(DEADLINE, |counts| counts.refused >= 1));
    load.stop();
}
