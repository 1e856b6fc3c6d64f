//! The probe's messages: every worker counts what it publishes, and keeps the books of what it hears from whom.
//!
//! # Settings
//! - `mail`: on; `sing`: microseconds between two messages that each worker publishes from its startup to its teardown
//!
//! # Requests
//! - `/mail/publish?count=N&burst=N&pause=N&size=N`: publishes so many messages of so many bytes, and sleeps so many
//!   microseconds after each burst; answers with how long the calls took, in nanoseconds
//! - `/mail/heard`: the books, in JSON
//! - `/mail/hold`: takes nothing until `/mail/go`
//! - `/mail/mutter`: says to the arbiter, and to whoever else has the other end of a local socket, what nobody knows
//!
//! The last thing that a worker says in its log is `said`, how many messages it has published, and `heard`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use nix::sys::socket::{MsgFlags, UnixAddr, getsockname, send};
use payload::{AppBuilder, Context, Message, Messages, Payload};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

const TOPIC: &str = "mail";

pub(crate) struct Mail {
    messages: Messages,
    /// How many were published.
    said: Mutex<u64>,
    heard: Mutex<Heard>,
    hold: Notify,
    go: Notify,
}

#[derive(Default, Serialize)]
struct Heard {
    worker: u64,
    pid: u32,
    /// How many messages it was told that it has missed, and how often.
    missed: u64,
    lags: u64,
    /// What another subscriber has got or missed, which is never held.
    arrived: u64,
    /// It takes nothing until it is told to.
    held: bool,
    from: BTreeMap<u64, Voice>,
}

/// What was heard of one worker, which numbers its messages from 0.
#[derive(Default, Serialize)]
struct Voice {
    first: u64,
    last: u64,
    count: u64,
    /// Numbers that were not heard between the first and the last.
    gaps: u64,
    /// Messages that came twice or too late.
    faults: u64,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(default)]
struct Score {
    count: u64,
    burst: u64,
    pause: u64,
    size: usize,
}

impl Default for Score {
    fn default() -> Self {
        Self {
            count: 1,
            burst: 1,
            pause: 0,
            size: 20,
        }
    }
}

#[derive(Serialize)]
struct Timed {
    p99: u64,
    max: u64,
}

impl Mail {
    pub(crate) fn open<S>(context: &Context<S>) -> Arc<Self> {
        let mail = Arc::new(Self {
            messages: context.messages(),
            said: Mutex::default(),
            heard: Mutex::new(Heard {
                worker: context.worker(),
                pid: std::process::id(),
                ..Heard::default()
            }),
            hold: Notify::new(),
            go: Notify::new(),
        });
        let mut subscription = mail.messages.subscribe(TOPIC);
        let listener = mail.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = listener.hold.notified() => {
                        lock(&listener.heard).held = true;
                        listener.go.notified().await;
                        lock(&listener.heard).held = false;
                    }
                    next = subscription.recv() => {
                        let mut heard = lock(&listener.heard);
                        match next {
                            Ok(message) => heard.note(&message),
                            Err(lagged) => {
                                heard.missed += lagged.missed();
                                heard.lags += 1;
                            }
                        }
                    }
                }
            }
        });
        let (mut second, counter) = (mail.messages.subscribe(TOPIC), mail.clone());
        tokio::spawn(async move {
            loop {
                let next = second.recv().await;
                lock(&counter.heard).arrived += next.map_or_else(|lagged| lagged.missed(), |_| 1);
            }
        });
        mail
    }

    /// The first of all steps, so that its teardown is the last; and the singer, the last.
    pub(crate) fn register(self: &Arc<Self>, app: AppBuilder, sing: Option<u64>) -> AppBuilder {
        let (last, singer) = (self.clone(), self.clone());
        let app = app.teardown("mail", async move |_| {
            let said = last.say(20)?;
            let heard = serde_json::to_string(&*lock(&last.heard))?;
            tracing::info!(probe = "mail", said, heard, "probe");
            Ok(())
        });
        let Some(pause) = sing else { return app };
        app.payload(Payload::new("singer", async move |context| {
            let mut ticks = tokio::time::interval(Duration::from_micros(pause));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = context.stopped() => return Ok(()),
                    _ = ticks.tick() => singer.say(20)?,
                };
            }
        }))
    }

    pub(crate) fn routes(self: &Arc<Self>) -> Router {
        let (singer, listener) = (self.clone(), self.clone());
        let (holder, releaser) = (self.clone(), self.clone());
        Router::new()
            .route(
                "/mail/publish",
                get(async move |Query(score): Query<Score>| Json(singer.perform(score).await)),
            )
            .route(
                "/mail/heard",
                get(async move || {
                    serde_json::to_string(&*lock(&listener.heard)).unwrap_or_default()
                }),
            )
            .route("/mail/mutter", get(async || mutter().to_string()))
            .route("/mail/hold", get(async move || holder.hold.notify_one()))
            .route("/mail/go", get(async move || releaser.go.notify_one()))
    }

    async fn perform(&self, score: Score) -> Timed {
        let mut times = Vec::new();
        for number in 1..=score.count {
            let start = Instant::now();
            if let Err(error) = self.say(score.size) {
                tracing::error!(error = %error, "a message was refused");
            }
            times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
            if number % score.burst == 0 {
                match score.pause {
                    0 => tokio::task::yield_now().await,
                    pause => tokio::time::sleep(Duration::from_micros(pause)).await,
                }
            }
        }
        times.sort_unstable();
        let at = |part: usize| times.get(part).copied().unwrap_or_default();
        Timed {
            p99: at(times.len() * 99 / 100),
            max: at(times.len().saturating_sub(1)),
        }
    }

    /// Publishes the next number; gives back how many there were.
    fn say(&self, size: usize) -> payload::Result<u64> {
        let mut said = lock(&self.said);
        let mut text = said.to_string().into_bytes();
        text.resize(size.max(text.len()), b' ');
        self.messages.publish(TOPIC, text)?;
        *said += 1;
        Ok(*said)
    }
}

impl Heard {
    fn note(&mut self, message: &Message) {
        let text = std::str::from_utf8(message.bytes()).unwrap_or_default();
        let number: u64 = text.trim_end().parse().unwrap_or(u64::MAX);
        let voice = self.from.entry(message.worker()).or_insert(Voice {
            first: number,
            last: number,
            ..Voice::default()
        });
        if voice.count > 0 {
            if number <= voice.last {
                voice.faults += 1;
            } else {
                voice.gaps += number - voice.last - 1;
                voice.last = number;
            }
        }
        voice.count += 1;
    }
}

/// Gives back how many have heard it.
fn mutter() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        // Only a local socket has such a name.
        .filter(|fd: &i32| *fd > 2 && getsockname::<UnixAddr>(*fd).is_ok())
        .filter(|fd| send(*fd, br#"{"sung":{"verse":1}}"#, MsgFlags::MSG_DONTWAIT).is_ok())
        .count()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
