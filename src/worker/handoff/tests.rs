//! Two or more servers in one process, linked as the arbiter links workers.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::either::Either;

use super::*;
use crate::ipc::parcel::{Answer, Incoming, Link, Outcome, Parcel};
use crate::worker::testing::{Fixture, get, limits, response, rest};

const SOON: Duration = Duration::from_secs(20);

impl Fixture {
    /// The client's end of a new connection over a socket.
    fn dial(&self) -> UnixStream {
        let (client, socket) = UnixStream::pair().unwrap();
        self.serve(Either::Right(socket));
        client
    }

    fn calls(&self) -> usize {
        self.script.calls.load(Relaxed)
    }

    fn open(&self) -> u64 {
        self.server.meter.seat().connections.load(Relaxed)
    }

    fn hand_off(&self) {
        self.server.signal().raise(Order::HandOff);
    }

    async fn drained(&self) {
        timeout(SOON, self.server.tasks.over())
            .await
            .expect("nothing is left");
    }

    fn give_over(&self, link: OwnedFd, count: Option<u32>) {
        let worker = self.server.handoff.heirs().len() as u64 + 2;
        Handoff::add_heir(&self.server, worker, 0, count, link).unwrap();
    }

    /// Everything of the first goes to the second when it hands off.
    fn link_to(&self, heir: &Fixture, count: Option<u32>) {
        let (a, b) = Link::pair().unwrap();
        Handoff::receive(&heir.server, 1, b).unwrap();
        self.give_over(a, count);
    }
}

/// Lets every task run until it waits for something else than its turn.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Writes up to the cut, lets the first server hand on, writes the rest, and gives the bodies of the responses.
async fn cut_at(cut: usize, bytes: &str, count: usize) -> Vec<String> {
    let (old, new) = (Fixture::new(), Fixture::new());
    old.link_to(&new, None);
    let mut client = old.dial();
    client.write_all(&bytes.as_bytes()[..cut]).await.unwrap();
    if cut.is_multiple_of(2) {
        settle().await;
    }
    old.hand_off();
    if cut.is_multiple_of(3) {
        settle().await;
    }
    client.write_all(&bytes.as_bytes()[cut..]).await.unwrap();
    let mut bodies = Vec::new();
    for _ in 0..count {
        let (head, body) = timeout(SOON, response(&mut client)).await.unwrap();
        assert!(!head.contains("connection: close"), "{cut}: {head}");
        bodies.push(body);
    }
    old.drained().await;
    assert_eq!(old.calls() + new.calls(), count);
    // It is still open, and the new one's.
    client.write_all(get("/after").as_bytes()).await.unwrap();
    assert_eq!(response(&mut client).await.1, "/after");
    assert_eq!((old.open(), new.open()), (0, 1));
    assert_eq!(old.server.meter.seat().given.load(Relaxed), 1);
    assert_eq!(new.server.meter.seat().received.load(Relaxed), 1);
    bodies
}

#[tokio::test]
async fn pipelined_requests_are_answered_once_wherever_they_are_cut() {
    let chunked = "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let four = get("/1") + &post("/echo", "hello") + chunked + &get("/middling");
    for cut in 0..=four.len() {
        let bodies = cut_at(cut, &four, 4).await;
        assert_eq!(bodies[..3], ["/1", "hello", "abcde"], "cut at {cut}");
        assert_eq!(bodies[3].len(), 6_000, "cut at {cut}");
    }
    let sixteen: String = (0..16).map(|n| get(&format!("/{n}"))).collect();
    let expected: Vec<String> = (0..16).map(|n| format!("/{n}")).collect();
    for cut in 0..=sixteen.len() {
        assert_eq!(cut_at(cut, &sixteen, 16).await, expected, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_head_moves_on_after_each_of_its_bytes() {
    for requests_before in [0, 1] {
        let mut server = Fixture::new();
        let mut client = server.dial();
        if requests_before > 0 {
            client.write_all(get("/before").as_bytes()).await.unwrap();
            assert_eq!(response(&mut client).await.1, "/before");
        }
        for byte in get("/slowly").bytes() {
            client.write_all(&[byte]).await.unwrap();
            settle().await;
            let next = Fixture::new();
            server.link_to(&next, None);
            server.hand_off();
            server.drained().await;
            server = next;
        }
        let (head, body) = timeout(SOON, response(&mut client)).await.unwrap();
        assert_eq!(body, "/slowly");
        assert!(!head.contains("connection: close"), "{head}");
    }
}

#[tokio::test]
async fn a_half_preface_is_still_http2_elsewhere() {
    let (old, new) = (Fixture::new(), Fixture::new());
    old.link_to(&new, None);
    let mut client = old.dial();
    client.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    settle().await;
    old.hand_off();
    old.drained().await;
    client
        .write_all(b"\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    // The server's settings: a frame of type 4 on stream 0.
    let mut frame = [0; 9];
    timeout(SOON, client.read_exact(&mut frame))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((frame[3], &frame[5..]), (4, &[0; 4][..]));
}

#[tokio::test]
async fn many_unread_requests_go_along() {
    let (old, new) = (Fixture::new(), Fixture::new());
    old.link_to(&new, None);
    let mut client = old.dial();
    let behind: String = (0..3_000).map(|n| get(&format!("/{n}"))).collect();
    assert!(behind.len() > 64 * 1024);
    client
        .write_all((get("/wait") + &behind).as_bytes())
        .await
        .unwrap();
    old.script.begun.notified().await;
    old.hand_off();
    settle().await;
    old.script.go.notify_one();
    assert_eq!(response(&mut client).await.1, "waited");
    for n in 0..3_000 {
        assert_eq!(response(&mut client).await.1, format!("/{n}"));
    }
    old.drained().await;
    assert_eq!(old.calls() + new.calls(), 3_001);
    assert!(
        new.calls() > 2_900,
        "{} were answered by the new one",
        new.calls()
    );
}

#[tokio::test]
async fn a_response_on_its_way_is_finished_first_and_idle_connections_do_not_wait_for_it() {
    let (old, new) = (Fixture::new(), Fixture::new());
    old.link_to(&new, None);
    let (mut waiting, mut streaming, mut idle) = (old.dial(), old.dial(), old.dial());
    waiting.write_all(get("/wait").as_bytes()).await.unwrap();
    old.script.begun.notified().await;
    streaming
        .write_all(get("/stream").as_bytes())
        .await
        .unwrap();
    response(&mut streaming).await;
    old.hand_off();
    idle.write_all(get("/idle").as_bytes()).await.unwrap();
    assert_eq!(response(&mut idle).await.1, "/idle");
    assert_eq!(new.calls(), 1);
    assert_eq!((old.open(), new.open()), (2, 1));
    old.script.go.notify_one();
    old.script.go.notify_one();
    settle().await;
    old.script.go.notify_one();
    assert_eq!(response(&mut waiting).await.1, "waited");
    let mut body = [0; 21];
    streaming.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n");
    old.drained().await;
    for mut client in [waiting, streaming] {
        client.write_all(get("/next").as_bytes()).await.unwrap();
        assert_eq!(response(&mut client).await.1, "/next");
    }
    assert_eq!(new.calls(), 3);
}

/// Requests that are planted in a body which nobody reads: answered, they would be somebody else's.
///
/// The handler answers while the worker already hands on, and when the bytes up to the cut have come.
async fn plant(path: &str, cut: usize, pause: bool) {
    let (old, new) = (Fixture::new(), Fixture::new());
    old.link_to(&new, None);
    let mut client = old.dial();
    let (head, rest) = planted(path);
    let (early, late) = rest.split_at(cut);
    client.write_all((head + early).as_bytes()).await.unwrap();
    old.script.begun.notified().await;
    old.hand_off();
    settle().await;
    old.script.go.notify_one();
    if pause {
        settle().await;
    }
    old.script.drop.notify_one();
    // The server may have closed already, and what it does not read makes it a reset.
    let _ = client.write_all(late.as_bytes()).await;
    let mut answers = Vec::new();
    let patience = Duration::from_millis(if pause { 30 } else { 5 });
    let _ = timeout(patience, client.read_to_end(&mut answers)).await;
    let answers = String::from_utf8_lossy(&answers);
    assert!(!answers.contains("planted"), "cut at {cut}: {answers}");
    assert!(old.calls() + new.calls() <= 2, "cut at {cut}");
    drop(client);
    old.drained().await;
}

/// A head, and the body with what follows it.
fn planted(path: &str) -> (String, String) {
    let body = get("/planted").repeat(3);
    let head = post(path, &body).replace(&body, "");
    (head, body + &get("/next"))
}

#[tokio::test]
async fn a_body_that_nobody_reads_never_becomes_a_request() {
    for path in ["/wait", "/wait-and-keep"] {
        for cut in 0..=planted(path).1.len() {
            plant(path, cut, cut.is_multiple_of(8)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nor_on_a_runtime_of_several_threads() {
    for path in ["/wait", "/wait-and-keep"] {
        for cut in 0..=planted(path).1.len() {
            plant(path, cut, cut.is_multiple_of(8)).await;
        }
    }
}

#[tokio::test]
async fn a_small_body_that_nobody_reads_does_not_hold_the_connection() {
    let (old, new) = (Fixture::new(), Fixture::new());
    old.link_to(&new, None);
    let mut client = old.dial();
    client
        .write_all(post("/wait", "small").as_bytes())
        .await
        .unwrap();
    old.script.begun.notified().await;
    old.hand_off();
    old.script.go.notify_one();
    response(&mut client).await;
    old.drained().await;
    client.write_all(get("/next").as_bytes()).await.unwrap();
    assert_eq!(response(&mut client).await.1, "/next");
    assert_eq!(new.calls(), 1);
}

#[tokio::test]
async fn a_body_that_somebody_keeps_holds_it_until_it_is_dropped() {
    let (old, new) = (Fixture::new(), Fixture::new());
    old.link_to(&new, None);
    let mut client = old.dial();
    client
        .write_all(post("/wait-and-keep", "small").as_bytes())
        .await
        .unwrap();
    old.script.begun.notified().await;
    old.hand_off();
    old.script.go.notify_one();
    response(&mut client).await;
    settle().await;
    assert_eq!((old.open(), new.open()), (1, 0));
    old.script.drop.notify_one();
    old.drained().await;
    client.write_all(get("/next").as_bytes()).await.unwrap();
    assert_eq!(response(&mut client).await.1, "/next");
    assert_eq!(new.calls(), 1);
}

#[tokio::test]
async fn a_response_that_its_client_reads_slowly_is_sent_whole_and_then_it_moves() {
    let (old, new) = (Fixture::new(), Fixture::new());
    old.link_to(&new, None);
    let mut client = old.dial();
    client.write_all(get("/big").as_bytes()).await.unwrap();
    while old.server.meter.seat().requests.load(Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    // hyper has let go of the body, and the socket is full.
    old.hand_off();
    settle().await;
    assert_eq!((old.open(), new.open()), (1, 0));
    assert_eq!(response(&mut client).await.1.len(), 3_000_000);
    old.drained().await;
    client.write_all(get("/next").as_bytes()).await.unwrap();
    let (head, body) = response(&mut client).await;
    assert_eq!(body, "/next");
    assert!(!head.contains("connection: close"));
    assert_eq!(new.calls(), 1);
}

/// Announced with the next response, and then closed.
async fn is_served_on(old: &Fixture, client: &mut UnixStream) {
    settle().await;
    assert_eq!(old.open(), 1, "an idle connection is not closed");
    client.write_all(get("/on").as_bytes()).await.unwrap();
    let (head, body) = timeout(SOON, response(client)).await.unwrap();
    assert_eq!(body, "/on");
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(rest(client).await, "");
    old.drained().await;
}

#[tokio::test]
async fn what_every_heir_refuses_is_served_on_and_announces_its_close() {
    let (old, one, other) = (Fixture::new(), Fixture::new(), Fixture::new());
    let mut client = old.dial();
    for heir in [&one, &other] {
        heir.hand_off();
        old.link_to(heir, None);
    }
    client.write_all(b"GET /").await.unwrap();
    settle().await;
    old.hand_off();
    while old.server.handoff.tally().taken_back == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!old.server.handoff.has_heirs(), "who leaves is no heir");
    client
        .write_all(b"on HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let (head, body) = timeout(SOON, response(&mut client)).await.unwrap();
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(body, "/on");
    old.drained().await;
    assert_eq!(
        old.server.handoff.tally(),
        Tally {
            given: 0,
            taken_back: 1
        }
    );
}

#[tokio::test]
async fn an_heir_that_dies_with_parcels_unread_or_unanswered_gets_none_of_them() {
    for read in [false, true] {
        let old = Fixture::new();
        let (mut client, mut other) = (old.dial(), old.dial());
        let (a, b) = Link::pair().unwrap();
        old.give_over(a, None);
        let heir = Link::over(b);
        old.hand_off();
        while old.server.handoff.heirs()[0].on_their_way() < 2 {
            tokio::task::yield_now().await;
        }
        let mut taken = None;
        while read && !matches!(taken, Some(Incoming::Parcel(..))) {
            settle().await;
            taken = Some(heir.receive().unwrap());
        }
        settle().await;
        assert_eq!(old.open(), 2);
        // What a killed process has open is closed.
        drop((heir, taken));
        while old.server.handoff.tally().taken_back < 2 {
            tokio::task::yield_now().await;
        }
        other.write_all(get("/other").as_bytes()).await.unwrap();
        assert_eq!(response(&mut other).await.1, "/other");
        while old.open() > 1 {
            tokio::task::yield_now().await;
        }
        is_served_on(&old, &mut client).await;
    }
}

#[tokio::test]
async fn a_new_heir_gets_what_was_taken_back() {
    let (old, leaving, new) = (Fixture::new(), Fixture::new(), Fixture::new());
    let mut client = old.dial();
    leaving.hand_off();
    old.link_to(&leaving, None);
    old.hand_off();
    while old.server.handoff.tally().taken_back == 0 {
        tokio::task::yield_now().await;
    }
    old.link_to(&new, None);
    old.drained().await;
    client.write_all(get("/new").as_bytes()).await.unwrap();
    assert_eq!(response(&mut client).await.1, "/new");
    assert_eq!(new.calls(), 1);
}

#[tokio::test]
async fn a_receiver_serves_what_it_could_not_confirm() {
    let new = Fixture::new();
    let (a, b) = Link::pair().unwrap();
    let (mut client, socket) = UnixStream::pair().unwrap();
    let parcel = Parcel {
        id: 1,
        listener: "web".to_owned(),
        peer: None,
        http1: true,
        requests: 5,
        unread: "GET /listener HTT".into(),
    };
    let sender = Link::over(a);
    sender.send(&parcel, socket.as_fd()).unwrap();
    // The sender dies; its half of everything is closed.
    drop((sender, socket));
    Handoff::receive(&new.server, 1, b).unwrap();
    client.write_all(b"P/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(timeout(SOON, response(&mut client)).await.unwrap().1, "web");
}

#[tokio::test]
async fn the_answer_comes_before_the_first_read() {
    let new = Fixture::new();
    let (a, b) = Link::pair().unwrap();
    Handoff::receive(&new.server, 1, b).unwrap();
    let sender = Link::over(a);
    let (mut client, socket) = UnixStream::pair().unwrap();
    client.write_all(get("/x").as_bytes()).await.unwrap();
    let parcel = Parcel {
        id: 9,
        listener: "web".to_owned(),
        peer: None,
        http1: true,
        requests: 0,
        unread: "".into(),
    };
    let socket = socket.into_std().unwrap();
    sender.send(&parcel, socket.as_fd()).unwrap();
    let answer = loop {
        assert_eq!(new.calls(), 0);
        match sender.outcome().unwrap() {
            Outcome::Answer(answer) => break answer,
            _ => tokio::task::yield_now().await,
        }
    };
    assert_eq!(answer, Answer::Taken { id: 9 });
    assert_eq!(response(&mut client).await.1, "/x");
}

#[tokio::test]
async fn a_rebalance_gives_so_many_idle_connections_and_no_more() {
    let (full, new) = (Fixture::new(), Fixture::new());
    let mut clients: Vec<UnixStream> = (0..20).map(|_| full.dial()).collect();
    for client in &mut clients[..10] {
        client.write_all(get("/x").as_bytes()).await.unwrap();
        response(client).await;
    }
    clients[0].write_all(get("/wait").as_bytes()).await.unwrap();
    full.script.begun.notified().await;
    full.link_to(&new, Some(8));
    while new.open() < 8 || full.open() > 12 {
        tokio::task::yield_now().await;
    }
    settle().await;
    assert_eq!((full.open(), new.open()), (12, 8));
    assert_eq!(full.server.signal().order(), Order::Serve);
    assert!(full.server.handoff.heirs().is_empty(), "the link is closed");
    full.script.go.notify_one();
    assert_eq!(response(&mut clients[0]).await.1, "waited");
    for client in &mut clients {
        client.write_all(get("/y").as_bytes()).await.unwrap();
        let (head, body) = response(client).await;
        assert_eq!(body, "/y");
        assert!(!head.contains("connection: close"));
    }
    // The worker serves, and can leave later.
    full.link_to(&new, None);
    full.hand_off();
    full.drained().await;
    assert_eq!(new.open(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_rebalance_takes_busy_connections_after_their_response_and_ends_by_itself() {
    let (full, new) = (Fixture::new(), Fixture::new());
    let mut client = full.dial();
    client.write_all(get("/wait").as_bytes()).await.unwrap();
    full.script.begun.notified().await;
    full.link_to(&new, Some(5));
    settle().await;
    assert_eq!(full.server.signal().order(), Order::Rebalance);
    full.script.go.notify_one();
    response(&mut client).await;
    while new.open() == 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(REBALANCE).await;
    settle().await;
    assert_eq!(full.server.signal().order(), Order::Serve);
    let mut late = full.dial();
    late.write_all(get("/late").as_bytes()).await.unwrap();
    response(&mut late).await;
    assert_eq!((full.open(), new.open()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rebalances_on_several_threads_leave_nothing_waiting() {
    let (full, new) = (Fixture::new(), Fixture::new());
    let mut clients: Vec<UnixStream> = (0..40).map(|_| full.dial()).collect();
    for round in 0..40 {
        let (from, to) = if round % 2 == 0 {
            (&full, &new)
        } else {
            (&new, &full)
        };
        from.link_to(to, Some(10));
        for client in &mut clients {
            client.write_all(get("/x").as_bytes()).await.unwrap();
            let (_, body) = timeout(SOON, response(client)).await.expect("an answer");
            assert_eq!(body, "/x");
        }
    }
    for server in [&full, &new] {
        server.server.signal().raise(Order::Drain);
        server.drained().await;
    }
}

#[tokio::test]
async fn a_full_worker_takes_connections_all_the_same_and_owes_their_places() {
    let old = Fixture::new();
    let mut small = limits();
    small.max_connections = 1;
    let new = Fixture::with(small);
    let clients: Vec<UnixStream> = (0..3).map(|_| old.dial()).collect();
    old.link_to(&new, None);
    old.hand_off();
    old.drained().await;
    assert_eq!(new.open(), 3);
    assert!(new.server.room.is_full());
    let mut clients = clients.into_iter();
    for left in [2, 1, 0] {
        drop(clients.next());
        while new.open() > left {
            tokio::task::yield_now().await;
        }
        assert_eq!(new.server.room.is_full(), left > 0);
    }
}

#[tokio::test]
async fn connections_go_to_the_heir_that_has_the_fewest() {
    let old = Fixture::new();
    let (a, b) = (Fixture::new(), Fixture::new());
    let board = old.server.meter.board();
    board.seats[10].connections.store(3, Relaxed);
    board.seats[11].connections.store(10, Relaxed);
    for (seat, heir) in [(10, &a), (11, &b)] {
        let (ours, theirs) = Link::pair().unwrap();
        Handoff::receive(&heir.server, 1, theirs).unwrap();
        Handoff::add_heir(&old.server, seat, u32::try_from(seat).unwrap(), None, ours).unwrap();
    }
    // Nobody updates the seats here: what is on its way is all that changes.
    let _clients: Vec<UnixStream> = (0..9).map(|_| old.dial()).collect();
    settle().await;
    old.hand_off();
    old.drained().await;
    assert_eq!((a.open(), b.open()), (8, 1));
}
