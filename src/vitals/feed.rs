//! What every worker does for the pages that it streams: it hears the sampler, wherever that runs, and the lifecycle
//! events.

use std::iter::{from_fn, once};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::gaps::Gaps;
use super::ring::Place;
use super::state::Vitals;
use super::wire::{self, ASK, Ask, Fresh, HISTORY, Part, SAMPLE};
use crate::events::{EventStream, EventsMissed};
use crate::{Lagged, LifecycleEvent, Message, Messages, PayloadContext, Result, Subscription};

/// When nobody has answered: perhaps there is no sampler for the moment.
const AGAIN: Duration = Duration::from_secs(2);

/// The payload: until it is told to stop.
pub(super) async fn run(context: PayloadContext) -> Result<()> {
    let (vitals, messages) = (context.state::<Vitals>()?, context.messages());
    let mut feed = Feed {
        samples: messages.subscribe(SAMPLE),
        history: messages.subscribe(HISTORY),
        // What the page knows already it does not take twice.
        events: vitals.events.replay(),
        gaps: Gaps::default(),
        ask_again: Instant::now(),
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
    gaps: Gaps,
    ask_again: Instant,
}

impl Feed {
    async fn follow(&mut self) -> std::convert::Infallible {
        loop {
            let ask_again = self.gaps.is_open().then_some(self.ask_again);
            tokio::select! {
                biased;
                event = self.events.recv() => self.happen(event),
                sample = self.samples.recv() => self.hear(sample),
                part = self.history.recv() => self.learn(part),
                () = sleep_until_some(ask_again) => self.ask(),
                () = self.vitals.silence() => self.vitals.tick_without_sample(),
            }
        }
    }

    /// What was missed here is gone for the pages of this worker: they are told how much it was.
    fn happen(&mut self, first: std::result::Result<Arc<LifecycleEvent>, EventsMissed>) {
        let (mut events, mut missed) = (Vec::new(), 0);
        for event in once(first).chain(from_fn(|| self.events.try_recv())) {
            match event {
                Ok(event) => events.push(event),
                Err(gone) => missed += gone.missed(),
            }
        }
        self.vitals.happened(&events, missed);
    }

    fn hear(&mut self, message: std::result::Result<Message, Lagged>) {
        let newest = self.vitals.newest();
        let fresh = message
            .ok()
            .and_then(|message| wire::read::<Fresh>(message.bytes()));
        match fresh {
            Some(fresh) => {
                let is_new = newest.is_none_or(|newest| newest.epoch != fresh.place.epoch);
                if is_new && self.gaps.is_open() {
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
        let Ok(message) = message else {
            self.gaps.lose();
            return;
        };
        // One of another form is for others.
        let Some(part) = wire::read::<Part>(message.bytes()) else {
            return;
        };
        let more = self.gaps.fill(&part);
        self.vitals.learn(part.samples());
        if more {
            self.ask();
        }
    }

    fn miss(&mut self, after: Option<Place>) {
        if self.gaps.miss(after) {
            self.ask();
        }
    }

    fn ask(&mut self) {
        let Some(after) = self.gaps.ask() else {
            return;
        };
        self.ask_again = Instant::now() + AGAIN;
        if let Err(error) = self.messages.publish(ASK, wire::write(&Ask { after })) {
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
