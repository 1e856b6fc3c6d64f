//! The loss meter itself: each way to lose something happens once, and is counted once, as what it is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../../benches/loss/meter/mod.rs"]
mod meter;

mod http1;
mod http2;
mod script;
mod streams;
mod whole;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use meter::tally::{Counts, Loss};
use meter::{Kind, Load};

const DEADLINE: Duration = Duration::from_secs(30);
/// A busy machine may keep the server from its answer for a while.
const PATIENCE: Duration = Duration::from_secs(5);

/// One client, until the server has done its deed and the client was served again, on this connection or the next.
fn one(kind: Kind, address: SocketAddr) -> Counts {
    one_until(kind, address, |counts| {
        counts.answered >= 4 && bad(counts) > 0
    })
}

fn one_until(kind: Kind, address: SocketAddr, fits: impl Fn(&Counts) -> bool) -> Counts {
    let load = Load::new(address)
        .patience(PATIENCE)
        .clients(kind, 1)
        .begin();
    let fitted = load.wait(DEADLINE, fits);
    let report = load.stop();
    assert!(fitted, "{report}");
    report.consistent().expect("counts that fit together");
    let bad = bad(&report.total.counts) - report.total.counts.announced;
    assert_eq!(
        report.nothing_lost().is_err(),
        bad > report.total.counts.retryable
    );
    report.total.counts
}

fn bad(counts: &Counts) -> u64 {
    counts.wrong
        + counts.lost
        + counts.retryable
        + counts.unasked
        + counts.refused
        + counts.announced
        + counts.unannounced
        + counts.given_up
}

/// Nothing but this went wrong: requests by [`Loss`], and connections.
#[track_caller]
fn assert_lost(counts: &Counts, lost: &[(Loss, u64)], ends: Ends) {
    assert_eq!(counts.lost_by, BTreeMap::from_iter(lost.iter().copied()));
    let seen = Ends {
        announced: counts.announced,
        unannounced: counts.unannounced,
        given_up: counts.given_up,
    };
    assert_eq!(seen, ends);
    let rest = (
        counts.wrong,
        counts.unasked,
        counts.refused,
        counts.retryable,
    );
    assert_eq!(rest, (0, 0, 0, 0), "wrong, unasked, refused, retryable");
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ends {
    announced: u64,
    unannounced: u64,
    given_up: u64,
}

const UNANNOUNCED: Ends = Ends {
    announced: 0,
    unannounced: 1,
    given_up: 0,
};
const ANNOUNCED: Ends = Ends {
    announced: 1,
    unannounced: 0,
    given_up: 0,
};
const GIVEN_UP: Ends = Ends {
    announced: 0,
    unannounced: 0,
    given_up: 1,
};
