//! All kinds of clients against a server that does nothing wrong, and what the report says.

use std::os::unix::net::UnixListener;
use std::sync::mpsc::channel;

use crate::DEADLINE;
use crate::meter::address::Address;
use crate::meter::{Kind, Load, app};
use crate::script::{first, good, serve};

#[test]
fn a_good_server_loses_nothing() {
    let mut load = Load::new(good());
    for (kind, _) in Kind::MIX {
        load = load.clients(kind, 2);
    }
    let load = load.seed(18).start();
    let window = load.window();
    assert!(load.wait(DEADLINE, |counts| counts.answered >= 500));
    drop(window);
    let report = load.stop();
    report.assert_nothing_closed(&[]);
    assert_eq!((report.seed, report.windows), (18, 1));
    let counts = &report.total.counts;
    assert_eq!(counts.clients, 2 * Kind::MIX.len() as u64);
    assert_eq!(counts.keeping, counts.clients - 2);
    assert_eq!(counts.lived, counts.keeping);
    assert_eq!(
        (counts.announced, counts.reconnects, counts.retryable),
        (0, 0, 0)
    );
    assert!(report.total.inside.count > 0);
    for kind in &report.kinds {
        assert!(kind.counts.answered >= 2, "{}", kind.kind);
        assert!(kind.inside.count + kind.outside.count > 0, "{}", kind.kind);
    }
    let table = report.to_string();
    assert!(
        table.contains("half-head") && table.contains("p99"),
        "{table}"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["total"]["lost"], 0);
}

#[test]
fn a_failure_says_who_what_and_when() {
    let (open, opened) = channel();
    let address = first(move |peer| {
        peer.asked()?;
        opened.recv().map_err(std::io::Error::other)
    });
    let load = Load::new(address).keep_alive(1).begin();
    let window = load.window();
    open.send(()).unwrap();
    assert!(load.wait(DEADLINE, |counts| counts.reconnects == 1));
    drop(window);
    let report = load.stop();
    let why = report.nothing_lost().expect_err("one was lost");
    for part in [
        "1 lost",
        "keep-alive client 1, connection 1",
        "/loss/",
        "closed before the answer",
        "into window 1",
    ] {
        assert!(why.contains(part), "{part:?} in {why}");
    }
}

#[test]
fn what_happens_outside_of_a_window_is_not_in_it() {
    let load = Load::new(good()).clients(Kind::Pipeline(1), 1).start();
    drop(load.window());
    let inside = load.report().total.inside.count;
    let answered = load.report().total.counts.answered;
    assert!(load.wait(DEADLINE, |counts| counts.answered >= answered + 5));
    let report = load.stop();
    assert!(report.total.inside.count <= inside + 1);
    assert!(report.total.outside.count >= 4);
}

#[test]
fn over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    serve(async {
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        axum::serve(listener, app::router(None)).await.unwrap();
    });
    let load = Load::new(Address::Unix(path))
        .keep_alive(2)
        .short(2)
        .http2(2, 1)
        .start();
    assert!(load.wait(DEADLINE, |counts| counts.answered >= 50));
    load.stop().assert_nothing_closed(&[]);
}

#[test]
fn slow_answers_count_as_slow() {
    // A seed with which no answer takes 2 s.
    let load = Load::new(good()).seed(4).slow_answers(1).start();
    let report = load.stop();
    assert!(report.total.outside.p50 >= 200.0);
    assert!(report.total.outside.p50 <= report.total.outside.max);
}
