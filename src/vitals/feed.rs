//! What every worker does for the pages that it streams: it hears the sampler, wherever that runs, and the lifecycle
//! events.

use std::iter::{from_fn, once};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Vitals;
use super::ring::Place;
use super::wire::{self, ASK, Ask, Fresh, HISTORY, Part, SAMPLE};
use crate::app::{PayloadContext, Result};
use crate::events::EventStream;
use crate::messages::{Lagged, Message, Messages, Subscription};

/// When nobody has answered: perhaps there is no sampler for the moment.
const AGAIN: Duration = Duration::from_secs(2);

/// The payload: until it is told to stop.
pub(super) async fn run(vitals: Arc<Vitals>, context: PayloadContext) -> Result<()> {
    let messages = context.messages();
    let mut feed = Feed {
        samples: messages.subscribe(SAMPLE),
        history: messages.subscribe(HISTORY),
        events: vitals.events.subscribe(),
        missing: None,
        messages,
        vitals,
    };
    // A worker that is new has missed everything.
    feed.miss(None);
    tokio::select! {
        biased;
        () = context.stopped() => Ok(()),
        never = feed.follow() => match never {},
    }
}

struct Feed {
    vitals: Arc<Vitals>,
    messages: Messages,
    samples: Subscription,
    history: Subscription,
    events: EventStream,
    missing: Option<Missing>,
}

/// Everything after that place was asked for.
#[derive(Clone, Copy)]
struct Missing {
    after: Option<Place>,
    ask_again: Instant,
}

impl Feed {
    async fn follow(&mut self) -> std::convert::Infallible {
        loop {
            let ask_again = self.missing.map(|missing| missing.ask_again);
            tokio::select! {
                biased;
                event = self.events.recv() => {
                    // What was missed here, a page gets with its next greeting.
                    let rest = from_fn(|| self.events.try_recv());
                    let events: Vec<_> = once(event).chain(rest).flatten().collect();
                    self.vitals.happened(&events);
                }
                sample = self.samples.recv() => self.hear(sample),
                part = self.history.recv() => self.learn(part),
                () = sleep_until_some(ask_again) => self.ask(),
                () = self.vitals.silence() => self.vitals.tick_without_sample(),
            }
        }
    }

    fn hear(&mut self, message: std::result::Result<Message, Lagged>) {
        let newest = self.vitals.newest();
        let fresh = message
            .ok()
            .and_then(|message| wire::read::<Fresh>(message.bytes()));
        match fresh {
            Some(fresh) => {
                let is_new = newest.is_none_or(|newest| newest.epoch != fresh.place.epoch);
                if is_new && self.missing.is_some() {
                    // This sampler was not there yet when it was asked for.
                    self.ask();
                }
                if fresh.before > newest {
                    self.miss(newest);
                }
                self.vitals.hear(fresh);
            }
            None => self.miss(newest),
        }
    }

    fn learn(&mut self, message: std::result::Result<Message, Lagged>) {
        // A part that was missed is asked for again, as no last one has come for it.
        let Some(part) = message
            .ok()
            .and_then(|message| wire::read::<Part>(message.bytes()))
        else {
            return;
        };
        self.missing = self.missing.filter(|missing| !part.ends(missing.after));
        self.vitals.learn(part.samples());
    }

    /// Asks for everything after that place, and goes on asking until there is an answer.
    fn miss(&mut self, after: Option<Place>) {
        match &mut self.missing {
            // The answer to the last question has this too, or the next question has.
            Some(missing) => missing.after = missing.after.min(after),
            None => {
                self.missing = Some(Missing {
                    after,
                    ask_again: Instant::now(),
                });
                self.ask();
            }
        }
    }

    fn ask(&mut self) {
        let Some(missing) = &mut self.missing else {
            return;
        };
        missing.ask_again = Instant::now() + AGAIN;
        let ask = Ask {
            after: missing.after,
        };
        if let Err(error) = self.messages.publish(ASK, wire::write(&ask)) {
            tracing::warn!(error = %error, "the sampler could not be asked for its history");
        }
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
