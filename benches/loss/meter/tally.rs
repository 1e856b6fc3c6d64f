//! What happened, counted and for the first failures kept.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::histogram::Histogram;
use super::window::{Windows, Within};

/// Failures that are told one by one; the rest are only counted.
const TOLD: usize = 200;

/// Why a request got no complete answer although a part of it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Loss {
    /// The connection ended in an orderly way before the first byte of the answer.
    Closed,
    /// The connection was reset before the first byte of the answer.
    Reset,
    /// The connection ended, in whichever way, within the answer.
    Cut,
    /// No byte came for longer than the clients' patience.
    Silent,
    /// It was sent before the client knew that an earlier answer would announce the close.
    Behind,
    /// It came after something on the same connection that could not be read.
    Garbled,
    /// The HTTP/2 stream was reset.
    StreamReset,
}

/// What the clients of one kind have seen.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Counts {
    pub(crate) clients: u64,
    /// Requests of which at least one byte was sent. Each is in exactly one of the next four.
    pub(crate) sent: u64,
    /// Got their complete and right answer.
    pub(crate) answered: u64,
    /// Got a complete answer that is not theirs, or not the right one.
    pub(crate) wrong: u64,
    /// Got no complete answer.
    pub(crate) lost: u64,
    pub(crate) lost_by: BTreeMap<Loss, u64>,
    /// Got no answer, and by the protocol's own word were not processed: HTTP/2 streams above the last one of a
    /// GOAWAY or refused ones, WebSocket messages that crossed the server's close frame.
    pub(crate) retryable: u64,
    /// Bytes came on an idle connection.
    pub(crate) unasked: u64,
    /// Connections that were established.
    pub(crate) opened: u64,
    /// ... of these, in place of another that the client would have kept.
    pub(crate) reconnects: u64,
    /// Attempts to connect that failed.
    pub(crate) refused: u64,
    /// Connections that the server closed after it had said so.
    pub(crate) announced: u64,
    /// Connections that the server closed without a word, or in the middle of something.
    pub(crate) unannounced: u64,
    /// Connections that the client gave up: silence, or bytes that make no sense.
    pub(crate) given_up: u64,
    /// Clients whose first connection was open at the end, and answered a last request.
    pub(crate) lived: u64,
    /// Clients that keep their connection: how many could have lived.
    pub(crate) keeping: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.clients, other.clients),
            (&mut self.sent, other.sent),
            (&mut self.answered, other.answered),
            (&mut self.wrong, other.wrong),
            (&mut self.lost, other.lost),
            (&mut self.retryable, other.retryable),
            (&mut self.unasked, other.unasked),
            (&mut self.opened, other.opened),
            (&mut self.reconnects, other.reconnects),
            (&mut self.refused, other.refused),
            (&mut self.announced, other.announced),
            (&mut self.unannounced, other.unannounced),
            (&mut self.given_up, other.given_up),
            (&mut self.lived, other.lived),
            (&mut self.keeping, other.keeping),
        ] {
            *mine += theirs;
        }
        for (loss, count) in &other.lost_by {
            *self.lost_by.entry(*loss).or_default() += count;
        }
    }
}

/// One thing that went wrong.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) client: String,
    /// The client's first connection is 1; 0: it has none yet.
    pub(crate) connection: u64,
    pub(crate) request: Option<String>,
    pub(crate) what: String,
    /// Since the load began, in seconds.
    pub(crate) at: f64,
    pub(crate) within: Option<Within>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, connection {}", self.client, self.connection)?;
        if let Some(request) = &self.request {
            write!(f, ", {request}")?;
        }
        write!(f, ": {}; {:.3} s after the start, ", self.what, self.at)?;
        match self.within {
            Some(within) => write!(f, "{:.1} ms into window {}", within.after_ms, within.window),
            None => f.write_str("outside of every window"),
        }
    }
}

/// The clients of one kind, as counted so far.
#[derive(Clone, Default)]
pub(crate) struct Group {
    pub(crate) kind: String,
    pub(crate) counts: Counts,
    pub(crate) inside: Histogram,
    pub(crate) outside: Histogram,
}

/// What all clients count into.
pub(crate) struct Tally {
    pub(crate) started: Instant,
    pub(crate) windows: Windows,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    groups: Vec<Group>,
    failures: Vec<Failure>,
    untold: u64,
    /// What the meter itself could not do, such as to get another local port.
    unable: Option<String>,
    /// Clients that have had their first right answer.
    ready: u64,
}

/// What a [`Tally`] held at one moment.
pub(crate) struct Snapshot {
    pub(crate) groups: Vec<Group>,
    pub(crate) failures: Vec<Failure>,
    pub(crate) untold: u64,
    pub(crate) unable: Option<String>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            windows: Windows::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The group's number.
    pub(super) fn group(&self, kind: String, clients: u64, keeping: bool) -> usize {
        let mut state = self.state();
        state.groups.push(Group {
            kind,
            counts: Counts {
                clients,
                keeping: if keeping { clients } else { 0 },
                ..Counts::default()
            },
            ..Group::default()
        });
        state.groups.len() - 1
    }

    pub(super) fn count(&self, group: usize, count: impl FnOnce(&mut Counts)) {
        let mut state = self.state();
        if let Some(group) = state.groups.get_mut(group) {
            count(&mut group.counts);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// `from`: the request's first byte. The answer is complete now.
    pub(super) fn latency(&self, group: usize, from: Instant, latency: Duration) {
        let inside = self.windows.within(from, Instant::now()).is_some();
        if let Some(group) = self.state().groups.get_mut(group) {
            let histogram = if inside {
                &mut group.inside
            } else {
                &mut group.outside
            };
            histogram.record(latency);
        }
    }

    pub(super) fn ready(&self) {
        self.state().ready += 1;
        self.changed.notify_all();
    }

    pub(super) fn unable(&self, what: String) {
        self.state().unable.get_or_insert(what);
    }

    /// Keeps what went wrong just now. `from`: when it could have begun.
    pub(super) fn failed(
        &self,
        client: String,
        connection: u64,
        request: Option<String>,
        what: String,
        from: Instant,
    ) {
        let now = Instant::now();
        let mut state = self.state();
        if state.failures.len() >= TOLD {
            state.untold += 1;
            return;
        }
        state.failures.push(Failure {
            client,
            connection,
            request,
            what,
            at: now.duration_since(self.started).as_secs_f64(),
            within: self.windows.within(from, now),
        });
    }

    /// Waits until so many clients have had their first right answer; false: not within `limit`.
    pub(crate) fn wait_ready(&self, clients: u64, limit: Duration) -> bool {
        self.wait(limit, |state| state.ready >= clients)
    }

    /// Waits until the sum of all groups is as it should be; false: not within `limit`.
    pub(crate) fn wait_counts(&self, limit: Duration, fits: impl Fn(&Counts) -> bool) -> bool {
        self.wait(limit, |state| {
            let mut total = Counts::default();
            for group in &state.groups {
                total.add(&group.counts);
            }
            fits(&total)
        })
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.state();
        Snapshot {
            groups: state.groups.clone(),
            failures: state.failures.clone(),
            untold: state.untold,
            unable: state.unable.clone(),
        }
    }

    fn wait(&self, limit: Duration, mut fits: impl FnMut(&State) -> bool) -> bool {
        let (_state, waited) = self
            .changed
            .wait_timeout_while(self.state(), limit, |state| !fits(state))
            .unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed before the answer",
            Self::Reset => "reset before the answer",
            Self::Cut => "cut within the answer",
            Self::Silent => "no answer in time",
            Self::Behind => "behind an announced close",
            Self::Garbled => "behind something unreadable",
            Self::StreamReset => "its stream was reset",
        })
    }
}
