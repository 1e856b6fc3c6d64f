//! The loss meter: many clients hold on to a server while somebody disturbs it, and count what they lose.
//!
//! ```no_run
//! let load = Load::new(address).keep_alive(50).short(8).start();
//! for _ in 0..20 {
//!     let _window = load.window();
//!     // reload the server
//! }
//! load.stop().assert_nothing_closed(&[]);
//! ```
//!
//! The clients never send a request twice, and verify that each answer is the one to their own request, whole and
//! unmixed. They need a server with the routes of [`app`]. What counts as what: [`tally::Counts`], [`tally::Loss`].
//! All clients share one thread, so that they disturb a server on the same machine as little as they can.
//!
//! This folder is a module of the command (`cargo bench --bench loss`) and of the tests, by `#[path]`.

#![allow(
    dead_code,
    clippy::panic,
    reason = "each program uses its part; a test fails by panicking"
)]

pub(crate) mod address;
pub(crate) mod app;
mod client;
mod events;
mod exchange;
pub(crate) mod frames;
mod histogram;
mod http1;
mod http2;
pub(crate) mod report;
pub(crate) mod request;
mod sniffer;
pub(crate) mod tally;
mod websocket;
mod window;
mod wire;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use address::Address;
use client::{Client, Parts};
use http1::Habit;
use report::Report;
use tally::{Counts, Tally};

/// For how long a client waits for the next byte, or for a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Clients to start. Each method adds some more.
pub(crate) struct Load {
    address: Address,
    patience: Duration,
    seed: u64,
    groups: Vec<Group>,
}

struct Group {
    address: Address,
    kind: Kind,
    clients: u64,
}

/// What a client does. The names are those of the report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Keeps its connection; think time from 0 to 20 ms; now and then a large request or answer.
    KeepAlive,
    /// The same; think time from 0.2 to 4 s.
    Thoughtful,
    /// A new connection for each request.
    Short,
    /// Answers that take the server 200 ms or 2 s.
    SlowAnswer,
    /// Request bodies in dribbles.
    SlowUpload,
    /// So many requests at once.
    Pipeline(usize),
    /// Heads in parts, some behind a whole request.
    HalfHead,
    /// So many streams at a time.
    Http2(usize),
    WebSocket,
    Sse,
}

/// The clients at work. Dropped, it lets them go without waiting for them.
pub(crate) struct Running {
    tally: Arc<Tally>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<io::Result<()>>>,
    seed: u64,
    clients: u64,
}

/// A time in which the server is disturbed; ends with the drop.
pub(crate) struct Window<'a> {
    tally: &'a Tally,
    number: usize,
}

impl Load {
    /// Against this address. The random source has a new seed, which the report tells.
    pub(crate) fn new(address: impl Into<Address>) -> Self {
        Self {
            address: address.into(),
            patience: PATIENCE,
            seed: fastrand::u64(..),
            groups: Vec::new(),
        }
    }

    /// Clients that are added from here on use this address.
    pub(crate) fn at(mut self, address: impl Into<Address>) -> Self {
        self.address = address.into();
        self
    }

    pub(crate) fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// For how long a client waits for the next byte; 30 s if it is not said.
    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub(crate) fn clients(mut self, kind: Kind, clients: u64) -> Self {
        if clients > 0 {
            self.groups.push(Group {
                address: self.address.clone(),
                kind,
                clients,
            });
        }
        self
    }

    pub(crate) fn keep_alive(self, clients: u64) -> Self {
        self.clients(Kind::KeepAlive, clients)
    }

    pub(crate) fn thoughtful(self, clients: u64) -> Self {
        self.clients(Kind::Thoughtful, clients)
    }

    pub(crate) fn short(self, clients: u64) -> Self {
        self.clients(Kind::Short, clients)
    }

    pub(crate) fn slow_answers(self, clients: u64) -> Self {
        self.clients(Kind::SlowAnswer, clients)
    }

    pub(crate) fn slow_uploads(self, clients: u64) -> Self {
        self.clients(Kind::SlowUpload, clients)
    }

    pub(crate) fn pipelines(self, depth: usize, clients: u64) -> Self {
        self.clients(Kind::Pipeline(depth), clients)
    }

    pub(crate) fn half_heads(self, clients: u64) -> Self {
        self.clients(Kind::HalfHead, clients)
    }

    pub(crate) fn http2(self, streams: usize, clients: u64) -> Self {
        self.clients(Kind::Http2(streams), clients)
    }

    pub(crate) fn web_sockets(self, clients: u64) -> Self {
        self.clients(Kind::WebSocket, clients)
    }

    pub(crate) fn sse(self, clients: u64) -> Self {
        self.clients(Kind::Sse, clients)
    }

    /// Starts the clients, and returns when each has had its first right answer, or when their patience is over.
    pub(crate) fn start(self) -> Running {
        let running = self.begin();
        running.tally.wait_ready(running.clients, PATIENCE);
        running
    }

    /// Starts the clients, and returns at once.
    pub(crate) fn begin(self) -> Running {
        let Self {
            patience,
            seed,
            groups,
            ..
        } = self;
        let tally = Arc::new(Tally::new());
        let (stop, stopped) = watch::channel(false);
        let clients = groups.iter().map(|group| group.clients).sum();
        let counting = tally.clone();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let mut all = JoinSet::new();
            let here = LocalSet::new();
            for Group {
                address,
                kind,
                clients,
            } in groups
            {
                let group = counting.group(kind.to_string(), clients, kind.keeps());
                for number in 1..=clients {
                    let client = Client::new(Parts {
                        address: address.clone(),
                        patience,
                        kind: kind.to_string(),
                        group,
                        number,
                        keeps: kind.keeps(),
                        seed,
                        tally: counting.clone(),
                        stop: stopped.clone(),
                    });
                    all.spawn_local_on(kind.client(client), &here);
                }
            }
            here.block_on(&runtime, all.join_all());
            Ok(())
        };
        Running {
            tally,
            stop,
            thread: Some(thread::spawn(work)),
            seed,
            clients,
        }
    }
}

impl Running {
    /// From now on until the guard is dropped, latencies and failures are those of a window.
    pub(crate) fn window(&self) -> Window<'_> {
        Window {
            tally: &self.tally,
            number: self.tally.windows.begin(),
        }
    }

    /// Waits until the sum of all counts is as it should be; false: not within `limit`.
    pub(crate) fn wait(&self, limit: Duration, fits: impl Fn(&Counts) -> bool) -> bool {
        self.tally.wait_counts(limit, fits)
    }

    /// As it is now. Some requests are on their way, so that more may be sent than have ended.
    pub(crate) fn report(&self) -> Report {
        let lasted = self.tally.started.elapsed();
        let windows = self.tally.windows.count();
        Report::new(self.seed, lasted, windows, self.tally.snapshot())
    }

    /// Lets each client ask a last time and end; waits for all of them. Panics when the clients have.
    pub(crate) fn stop(mut self) -> Report {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(Ok(())) => (),
                Ok(Err(error)) => self.tally.unable(format!("start a runtime: {error}")),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        self.report()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        self.tally.windows.end(self.number);
    }
}

impl Kind {
    /// All of them, as the command starts them by default: how many of each.
    pub(crate) const MIX: [(Self, u64); 11] = [
        (Self::KeepAlive, 50),
        (Self::Thoughtful, 50),
        (Self::Short, 8),
        (Self::SlowAnswer, 8),
        (Self::SlowUpload, 8),
        (Self::Pipeline(4), 4),
        (Self::Pipeline(16), 4),
        (Self::HalfHead, 8),
        (Self::Http2(4), 4),
        (Self::WebSocket, 4),
        (Self::Sse, 4),
    ];

    /// Whether it keeps one connection as long as the server lets it.
    fn keeps(self) -> bool {
        self != Self::Short
    }

    fn client(self, client: Rc<Client>) -> Pin<Box<dyn Future<Output = ()>>> {
        let habit = match self {
            Self::KeepAlive => Habit::Brisk,
            Self::Thoughtful => Habit::Thoughtful,
            Self::SlowAnswer => Habit::SlowAnswers,
            Self::SlowUpload => Habit::SlowUploads,
            Self::Pipeline(depth) => Habit::Pipelines(depth),
            Self::HalfHead => Habit::HalfHeads,
            Self::Short => return Box::pin(http1::one_by_one(client)),
            Self::Http2(streams) => return Box::pin(http2::keep(client, streams)),
            Self::WebSocket => return Box::pin(websocket::keep(client)),
            Self::Sse => return Box::pin(events::keep(client)),
        };
        Box::pin(http1::keep(client, habit))
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::KeepAlive => "keep-alive",
            Self::Thoughtful => "thoughtful",
            Self::Short => "short",
            Self::SlowAnswer => "slow-answer",
            Self::SlowUpload => "slow-upload",
            Self::Pipeline(depth) => return write!(f, "pipeline-{depth}"),
            Self::HalfHead => "half-head",
            Self::Http2(_) => "http2",
            Self::WebSocket => "websocket",
            Self::Sse => "sse",
        })
    }
}
