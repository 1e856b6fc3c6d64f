//! The lifecycle events of the whole service, as every worker hears them: what happens to the arbiter, to the other
//! workers and to their payloads.
//!
//! They are the events that the log has, by the same names (`payload_event`), whatever `log.level` says; only the
//! backtraces of a stuck worker (`worker-trace`) are in the log alone. The arbiter puts them into one order and tells
//! all workers, at once where little happens and at most twenty times a second where much does; a worker that is
//! forked later begins with the last ones.
//!
//! They are news, not a record: who must not miss one reads the journal. A worker that says too much at once, or to
//! an arbiter that does not listen, keeps some for the log: they are [missed](EventsMissed) as soon as another event
//! follows, and its next one has their number in the field `unsent_before`. A worker without an arbiter, since that is
//! gone or has given it up, hears nothing more, of itself neither.
//!
//! ```
//! async fn load(context: payload::Context) -> payload::Result<payload::App> {
//!     let events = context.events();
//!     let watch = payload::Payload::new("watch", move |context| {
//!         let mut news = events.replay();
//!         async move {
//!             let stop = context.stop_token();
//!             loop {
//!                 tokio::select! {
//!                     () = stop.fired() => return Ok(()),
//!                     event = news.recv() => match event {
//!                         Ok(event) => println!("{}: {}", event.name, event.message),
//!                         Err(lagged) => println!("{lagged}"),
//!                     },
//!                 }
//!             }
//!         }
//!     });
//!     let service = payload::service_fn(|_| async { Ok(http::Response::new(payload::Body::empty())) });
//!     Ok(payload::App::builder().payload(watch).build(service))
//! }
//! ```

mod event;
mod ring;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub use event::{FieldValue, Level, LifecycleEvent};
pub(crate) use ring::Ring;

/// The field that says how many events of its worker did not reach the arbiter before this one.
pub(crate) const UNSENT: &str = "unsent_before";

/// The lifecycle events of the service: the last ones, and each as it happens. Cloning is one reference count.
#[derive(Clone)]
pub struct Events(Arc<Shared>);

struct Shared {
    ring: Mutex<Ring>,
    /// The number of the newest event.
    newest: watch::Sender<u64>,
}

/// Gives out one event after the other. What it has not given out yet costs nothing: it waits among the last ones.
#[derive(Debug)]
pub struct EventStream {
    events: Events,
    newest: watch::Receiver<u64>,
    /// The last that was given out, or is not to be.
    seen: u64,
}

/// So many events at least came and went before they were asked for, or did not reach this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventsMissed(u64);

impl Events {
    /// Begins with what is known already.
    pub(crate) fn new(ring: Ring) -> Self {
        Self(Arc::new(Shared {
            newest: watch::Sender::new(ring.newest()),
            ring: Mutex::new(ring),
        }))
    }

    /// Takes over those that are newer than what is known.
    pub(crate) fn extend(&self, events: impl IntoIterator<Item = Arc<LifecycleEvent>>) {
        let newest = {
            let mut ring = self.ring();
            events.into_iter().for_each(|event| ring.add(event));
            ring.newest()
        };
        self.0.newest.send_if_modified(|known| {
            let has_grown = newest > *known;
            *known = newest;
            has_grown
        });
    }

    /// The last events, oldest first: up to 256.
    pub fn recent(&self) -> Vec<Arc<LifecycleEvent>> {
        self.ring().after(0)
    }

    /// Every event from now on.
    pub fn subscribe(&self) -> EventStream {
        let seen = self.ring().newest();
        self.stream(seen)
    }

    /// The last events first, then every one from now on. None is missed in between, and none comes twice.
    pub fn replay(&self) -> EventStream {
        let oldest = self.ring().oldest();
        self.stream(oldest.saturating_sub(1))
    }

    fn stream(&self, seen: u64) -> EventStream {
        EventStream {
            newest: self.0.newest.subscribe(),
            events: self.clone(),
            seen,
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Events {
    /// None, and none to come.
    fn default() -> Self {
        Self::new(Ring::default())
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let newest = self.ring().newest();
        f.debug_struct("Events")
            .field("newest", &newest)
            .finish_non_exhaustive()
    }
}

impl EventStream {
    /// The next event. Waits for it; cancel-safe. The stream has no end.
    ///
    /// # Errors
    /// Some are gone: more came than are kept before this was called again, this worker did not hear of them in time,
    /// or they were never sent. The next call goes on with the oldest that is there.
    pub async fn recv(&mut self) -> Result<Arc<LifecycleEvent>, EventsMissed> {
        loop {
            if let Some(next) = self.try_recv() {
                return next;
            }
            let seen = self.seen;
            // The sender is in `events`, so it cannot be gone.
            let _ = self.newest.wait_for(|newest| *newest > seen).await;
        }
    }

    /// The next event if it is there.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Option<Result<Arc<LifecycleEvent>, EventsMissed>> {
        let next = self.events.ring().first_after(self.seen)?;
        let missed = next.number.saturating_sub(self.seen.saturating_add(1));
        if self.seen > 0 && missed > 0 {
            self.seen = next.number - 1;
            return Some(Err(EventsMissed(missed)));
        }
        self.seen = next.number;
        Some(Ok(next))
    }
}

impl EventsMissed {
    /// How many, at least.
    pub fn missed(self) -> u64 {
        self.0
    }
}

impl fmt::Display for EventsMissed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let events = if self.0 == 1 { "event" } else { "events" };
        write!(f, "{} lifecycle {events} missed", self.0)
    }
}

impl std::error::Error for EventsMissed {}

#[cfg(test)]
mod tests;
