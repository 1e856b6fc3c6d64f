//! What the payloads and the handlers of one app share: what this worker knows, and what it sends to its pages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::frames::{Frames, Next};
use super::health::{self, Health};
use super::readings::Readings;
use super::ring::{Place, Placed, Ring};
use super::sample::Process;
use super::settings::Settings;
use super::shape::{Greeting, Happened, History, Tick};
use super::story::Story;
use super::wire::Fresh;
use super::{stream, wall_clock};
use crate::status::Status;
use crate::{Context, Events, LifecycleEvent};

/// Asks for the service as it is now: for each frame, and for each request that shows it. Must not block.
pub(crate) type View = Arc<dyn Fn() -> Status + Send + Sync>;

/// The typed state of the app.
pub(crate) struct Vitals {
    pub(super) settings: Settings,
    pub(super) events: Events,
    pub(super) readings: Readings,
    /// The place of the newest frame, for the streams.
    pub(super) news: watch::Sender<u64>,
    view: View,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    ring: Ring,
    story: Story,
    /// As of the latest sample; their sum is in each sample.
    processes: Vec<Process>,
    /// When the sampler was last heard.
    heard: Option<Instant>,
    /// When the streams were last told how the service is.
    told: Instant,
    frames: Frames,
}

impl Vitals {
    /// Call it inside the runtime.
    pub(super) fn of(context: &Context<Settings>) -> Self {
        let (settings, events) = (*context.settings(), context.events());
        let context = context.clone();
        Self::new(settings, Arc::new(move || context.service()), events)
    }

    pub(super) fn new(settings: Settings, view: View, events: Events) -> Self {
        let state = State {
            ring: Ring::new(settings.capacity()),
            story: events.recent().into_iter().collect(),
            processes: Vec::new(),
            heard: None,
            told: Instant::now(),
            frames: Frames::default(),
        };
        Self {
            settings,
            events,
            readings: Readings::default(),
            news: watch::Sender::new(0),
            view,
            began: Instant::now(),
            state: Mutex::new(state),
        }
    }

    /// A sample has come.
    pub(super) fn hear(&self, fresh: Fresh) {
        let state = &mut *self.state();
        state.ring.add(fresh.place, Arc::new(fresh.sample));
        state.processes = fresh.processes;
        state.heard = Some(Instant::now());
        state.told = Instant::now();
        self.spread(
            state,
            |state| self.tick(state, state.ring.latest().as_ref(), None),
            Frames::tick,
        );
    }

    /// Older samples have come.
    pub(super) fn learn(&self, samples: impl IntoIterator<Item = Placed>) {
        let state = &mut *self.state();
        for (place, sample) in samples {
            state.ring.add(place, sample);
        }
    }

    /// Lifecycle events have come, and this worker has not heard of so many others.
    pub(super) fn happened(&self, events: &[Arc<LifecycleEvent>], missed: u64) {
        let state = &mut *self.state();
        let new: Vec<_> = events
            .iter()
            .filter(|event| state.story.add(event))
            .collect();
        if new.is_empty() && missed == 0 {
            return;
        }
        let build = |_: &State| {
            let happened = Happened {
                pid: std::process::id(),
                events: new.iter().map(|event| (&***event).into()).collect(),
                missed,
                service: &self.status(),
            };
            stream::event("lifecycle", &happened)
        };
        self.spread(state, build, Frames::lifecycle);
    }

    /// Resolves when there was no sample for so long that the streams should show the service without one.
    pub(super) async fn silence(&self) {
        loop {
            let next = self.state().told + self.settings.sample_interval.mul_f64(1.5);
            tokio::time::sleep_until(next).await;
            if self.state().told + self.settings.sample_interval <= Instant::now() {
                return;
            }
        }
    }

    pub(super) fn tick_without_sample(&self) {
        let state = &mut *self.state();
        state.told = Instant::now();
        self.spread(state, |state| self.tick(state, None, None), Frames::tick);
    }

    /// This worker leaves: every stream says so and ends, also one that begins from now on.
    pub(super) fn end_streams(&self) {
        let state = &mut *self.state();
        state.frames.end();
        self.news.send_replace(state.frames.place());
    }

    /// Builds a frame for all streams. While nobody listens, nothing is built: who comes now has a receiver and waits
    /// for the lock, and finds everything in his greeting.
    fn spread(
        &self,
        state: &mut State,
        build: impl FnOnce(&State) -> Bytes,
        put: fn(&mut Frames, Option<Bytes>),
    ) {
        let frame = (self.news.receiver_count() > 0).then(|| build(state));
        put(&mut state.frames, frame);
        self.news.send_replace(state.frames.place());
    }

    /// All that a stream begins with, and its place.
    pub(super) fn greeting(&self) -> (u64, Bytes) {
        let state = &mut *self.state();
        if let Some(known) = state.frames.greeting() {
            return known;
        }
        let greeting = Greeting {
            interval: self.settings.sample_interval.as_secs_f64(),
            capacity: self.settings.capacity(),
            events: state.story.events().into_iter().map(Into::into).collect(),
        };
        let frame = self.tick(state, state.ring.latest().as_ref(), Some(greeting));
        state.frames.greet(frame)
    }

    fn tick(
        &self,
        state: &State,
        sample: Option<&Placed>,
        greeting: Option<Greeting<'_>>,
    ) -> Bytes {
        let tick = Tick {
            pid: std::process::id(),
            sample: sample.map(Into::into),
            age: state.age(),
            processes: self.processes(state),
            service: &self.status(),
            oldest: state.ring.oldest().map(Into::into),
            greeting,
        };
        stream::event("vitals", &tick)
    }

    pub(super) fn frame_after(&self, place: u64) -> Next {
        self.state().frames.after(place)
    }

    pub(super) fn history(
        &self,
        pick: impl FnOnce(&Ring) -> Vec<Placed>,
    ) -> serde_json::Result<Vec<u8>> {
        let (samples, oldest, processes) = {
            let state = self.state();
            let (ring, processes) = (&state.ring, self.processes(&state).to_vec());
            (pick(ring), ring.oldest(), processes)
        };
        serde_json::to_vec(&History {
            interval: self.settings.sample_interval.as_secs_f64(),
            capacity: self.settings.capacity(),
            pid: std::process::id(),
            oldest: oldest.map(Into::into),
            samples: samples.iter().map(Into::into).collect(),
            processes: &processes,
        })
    }

    /// None, when they were measured too long ago.
    fn processes<'a>(&self, state: &'a State) -> &'a [Process] {
        let fresh = 3 * self.settings.sample_interval + Duration::from_secs(1);
        match state.heard {
            Some(heard) if heard.elapsed() <= fresh => &state.processes,
            _ => &[],
        }
    }

    pub(super) fn status(&self) -> Status {
        (self.view)()
    }

    /// The place of the newest sample.
    pub(super) fn newest(&self) -> Option<Place> {
        self.state().ring.newest()
    }

    pub(super) fn after(&self, place: Option<Place>) -> Vec<Placed> {
        self.state().ring.after(place)
    }

    /// How many samples are known.
    pub(super) fn count(&self) -> usize {
        self.state().ring.len()
    }

    pub(super) fn health(&self) -> Health {
        let silent = self.state().heard.unwrap_or(self.began).elapsed();
        health::of(
            &self.status(),
            std::process::id(),
            silent,
            3 * self.settings.sample_interval + Duration::from_secs(5),
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Seconds since the latest sample. For one that was not heard as it came only the wall clock can tell.
    fn age(&self) -> Option<f64> {
        let (_, latest) = self.ring.latest()?;
        Some(match self.heard {
            Some(heard) => heard.elapsed().as_secs_f64(),
            None => (wall_clock() - latest.time).max(0.0),
        })
    }
}
