//! What runs in each worker: it publishes by either way, and keeps the times of what it gets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::Query;
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use nix::time::{ClockId, clock_gettime};
use payload::{App, Context, Messages};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use crate::relay;

/// So many messages are acknowledged at once.
const ACKNOWLEDGED: u64 = 128;
const TOPIC: &str = "bench";

/// The times of messages on their way, counted by microseconds.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Book(BTreeMap<u64, u64>);

impl Book {
    pub(crate) fn count(&self) -> u64 {
        self.0.values().sum()
    }

    pub(crate) fn with(mut self, other: Self) -> Self {
        for (micros, count) in other.0 {
            *self.0.entry(micros).or_default() += count;
        }
        self
    }

    /// In microseconds.
    pub(crate) fn part(&self, part: f64) -> f64 {
        let mut left = part * self.count() as f64;
        for (micros, count) in &self.0 {
            left -= *count as f64;
            if left <= 0.0 {
                return *micros as f64;
            }
        }
        0.0
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    Messages,
    Relay,
}

#[derive(Deserialize)]
struct Order {
    #[serde(default = "messages")]
    way: Way,
    run: u64,
    #[serde(default)]
    count: u64,
    /// Microseconds between two messages; none: as fast as the window allows.
    pause: Option<u64>,
    window: Option<u64>,
}

fn messages() -> Way {
    Way::Messages
}

struct Station {
    worker: u64,
    others: usize,
    size: usize,
    messages: Messages,
    relay: mpsc::Sender<Bytes>,
    books: Mutex<BTreeMap<u64, Book>>,
    /// Of the run: the last number that each worker has acknowledged.
    acknowledged: watch::Sender<(u64, BTreeMap<u64, u64>)>,
}

/// A message, or an acknowledgement of all up to it.
struct Frame {
    is_message: bool,
    worker: u64,
    run: u64,
    number: u64,
    /// Nanoseconds of CLOCK_MONOTONIC.
    at: u64,
}

pub(crate) async fn load(context: Context) -> payload::Result<App> {
    let stream = UnixStream::connect(std::env::var("RELAY")?).await?;
    let (mut reader, writer) = relay::open(stream);
    let (relay, frames) = mpsc::channel(1024);
    tokio::spawn(relay::write(writer, frames));
    let station = Arc::new(Station {
        worker: context.worker(),
        others: usize::try_from(context.workers())? - 1,
        size: std::env::var("SIZE")?.parse()?,
        messages: context.messages(),
        relay,
        books: Mutex::default(),
        acknowledged: watch::Sender::default(),
    });
    let mut subscription = context.messages().subscribe(TOPIC);
    let hearing = station.clone();
    tokio::spawn(async move {
        loop {
            if let Ok(message) = subscription.recv().await {
                hearing.take(Way::Messages, message.bytes()).await;
            }
        }
    });
    let hearing = station.clone();
    tokio::spawn(async move {
        while let Some(frame) = reader.next().await {
            hearing.take(Way::Relay, &frame).await;
        }
    });
    let publisher = station.clone();
    let routes = Router::new()
        .route(
            "/publish",
            get(async move |Query(order): Query<Order>| publisher.publish(order).await),
        )
        .route(
            "/book",
            get(async move |Query(order): Query<Order>| Json(station.book(order.run))),
        );
    Ok(App::builder().build(routes))
}

impl Station {
    async fn publish(&self, order: Order) {
        let mut acknowledged = self.acknowledged.subscribe();
        self.acknowledged.send_replace((order.run, BTreeMap::new()));
        let mut ticks = order
            .pause
            .map(|pause| tokio::time::interval(Duration::from_micros(pause)));
        for number in 0..order.count {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            if let Some(window) = order.window {
                let least = (number + 1).saturating_sub(window);
                let _ = acknowledged
                    .wait_for(|(_, by)| self.all_have(by, least))
                    .await;
            }
            self.send(order.way, order.run, number, true).await;
            if number % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        let all = acknowledged.wait_for(|(_, by)| self.all_have(by, order.count));
        let _ = tokio::time::timeout(Duration::from_secs(10), all).await;
    }

    fn all_have(&self, by: &BTreeMap<u64, u64>, count: u64) -> bool {
        count == 0 || by.values().filter(|has| **has >= count).count() == self.others
    }

    async fn take(&self, way: Way, bytes: &[u8]) {
        let Some(frame) = Frame::read(bytes) else {
            return;
        };
        if frame.worker == self.worker {
            return;
        }
        if !frame.is_message {
            self.acknowledged.send_if_modified(|(run, by)| {
                let is_mine = *run == frame.run;
                if is_mine {
                    by.insert(frame.worker, frame.number);
                }
                is_mine
            });
            return;
        }
        let micros = now().saturating_sub(frame.at) / 1_000;
        *self
            .books()
            .entry(frame.run)
            .or_default()
            .0
            .entry(micros)
            .or_default() += 1;
        let count = frame.number + 1;
        if count % ACKNOWLEDGED == 0 {
            self.send(way, frame.run, count, false).await;
        }
    }

    async fn send(&self, way: Way, run: u64, number: u64, is_message: bool) {
        let frame = Frame {
            is_message,
            worker: self.worker,
            run,
            number,
            at: now(),
        };
        let bytes = frame.bytes(self.size);
        match way {
            Way::Messages => drop(self.messages.publish(TOPIC, bytes)),
            Way::Relay => drop(self.relay.send(bytes).await),
        }
    }

    fn book(&self, run: u64) -> (u64, Book) {
        let book = self.books().get(&run).cloned();
        (self.worker, book.unwrap_or_default())
    }

    fn books(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Book>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Frame {
    fn bytes(&self, size: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(size.max(33));
        bytes.push(u8::from(self.is_message));
        for number in [self.worker, self.run, self.number, self.at] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.resize(size.max(33), 0);
        bytes.into()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let mut numbers = rest
            .as_chunks::<8>()
            .0
            .iter()
            .map(|chunk| u64::from_le_bytes(*chunk));
        Some(Self {
            is_message: *kind == 1,
            worker: numbers.next()?,
            run: numbers.next()?,
            number: numbers.next()?,
            at: numbers.next()?,
        })
    }
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
