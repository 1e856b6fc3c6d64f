//! vitals, the built-in app: the machine's vital signs once a second, and the service that shows them.
//!
//! One payload in the whole service, the sampler, looks at /proc and tells all workers by messages what it
//! sees; it leaves what it knows to its successor. In each worker the feed keeps the samples in a ring and builds
//! what the pages get, with the service's own view of itself and its lifecycle events as they happen. It is an app like
//! any other: it knows `http` types, the tokens, messages and views of its context, and no process.

mod feed;
mod frames;
mod page;
mod proc;
mod ring;
mod routes;
mod sample;
mod sampler;
mod sampling;
mod settings;
mod stream;
mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::app::{App, Context, Payload, Result, Token};
use crate::events::{Events, LifecycleEvent};
use crate::status::{PayloadState, Scope, Status};

pub use settings::Settings;

use frames::{Frames, Next};
use ring::{Place, Ring};
use routes::VitalsService;
use sample::{Process, Sample};
use wire::Fresh;

/// The payload of which there is one in the service.
const SAMPLER: &str = "sampler";

/// The factory of the built-in app: what `payload` without a service of its own serves.
///
/// # Errors
/// None: it only builds.
pub async fn load(context: Context<Settings>) -> Result<App> {
    let (settings, drain, events) = (*context.settings(), context.drain_token(), context.events());
    let vitals = Vitals::new(settings, Arc::new(move || context.service()), events, drain);
    let service = VitalsService::new(Arc::clone(&vitals));
    let told = Arc::clone(&vitals);
    let feed = Payload::new("feed", move |context| feed::run(told, context));
    let sampler = Payload::restarting(SAMPLER, move |context| {
        sampling::run(Arc::clone(&vitals), context)
    });
    // The feed first: it hears the sampler from its first sample to its last.
    let app = App::builder()
        .payload(feed)
        .payload(sampler.scope(Scope::Service));
    Ok(app.build(service))
}

/// Asks for the service as it is now. Called at most a few times per second; must not block.
pub(crate) type View = Arc<dyn Fn() -> Status + Send + Sync>;

/// What the payloads and the handlers of one app share.
pub(crate) struct Vitals {
    settings: Settings,
    view: View,
    events: Events,
    drain: Token,
    state: Mutex<State>,
    /// The place of the newest frame, for the streams.
    news: watch::Sender<u64>,
}

struct State {
    ring: Ring,
    /// As of the latest sample; their sum is in each sample.
    processes: Vec<Process>,
    /// When the sampler was last heard, at first when this was made.
    heard: Instant,
    /// When the streams were last told how the service is.
    told: Instant,
    frames: Frames,
}

/// What `/api/vitals` answers.
#[derive(Serialize)]
struct History<'a> {
    /// Seconds between two samples.
    interval: f64,
    /// How many samples are kept.
    capacity: usize,
    /// The worker that answers, by its pid.
    pid: u32,
    /// Oldest first, whoever took them.
    samples: Vec<&'a Sample>,
    /// The service's own processes, as of the latest sample.
    processes: &'a [Process],
}

/// What an event `vitals` of `/api/vitals/stream` carries.
#[derive(Serialize)]
struct Tick<'a> {
    /// The worker that answers, by its pid.
    pid: u32,
    /// The latest sample; `null` where there is none, or no new one.
    sample: Option<&'a Sample>,
    processes: &'a [Process],
    /// As `/api/service` answers it.
    service: &'a Status,
    /// The time of the oldest sample that `/api/vitals` has.
    since: Option<f64>,
    /// The last lifecycle events, oldest first; only in the first event of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Vec<&'a LifecycleEvent>>,
}

/// What an event `lifecycle` carries.
#[derive(Serialize)]
struct Happened<'a> {
    pid: u32,
    /// What has happened since the last, oldest first.
    events: Vec<&'a LifecycleEvent>,
    /// How the service is after it.
    service: &'a Status,
}

impl Vitals {
    /// `drain` ends the streams. Call it inside the runtime.
    pub(crate) fn new(settings: Settings, view: View, events: Events, drain: Token) -> Arc<Self> {
        let state = State {
            ring: Ring::new(settings.capacity()),
            processes: Vec::new(),
            heard: Instant::now(),
            told: Instant::now(),
            frames: Frames::default(),
        };
        Arc::new(Self {
            settings,
            view,
            events,
            drain,
            state: Mutex::new(state),
            news: watch::Sender::new(0),
        })
    }

    /// A sample has come.
    fn hear(&self, fresh: Fresh) {
        let status = self.status();
        let state = &mut *self.state();
        state.ring.add(fresh.place, Arc::new(fresh.sample));
        state.processes = fresh.processes;
        (state.heard, state.told) = (Instant::now(), Instant::now());
        let sample = state.ring.latest();
        self.spread(
            state,
            |state| tick(state, sample.as_deref(), &status, None),
            Frames::tick,
        );
    }

    /// Older samples have come.
    fn learn(&self, samples: impl Iterator<Item = (Place, Arc<Sample>)>) {
        let state = &mut *self.state();
        samples.for_each(|(place, sample)| state.ring.add(place, sample));
    }

    /// Lifecycle events have come.
    fn happened(&self, events: &[Arc<LifecycleEvent>]) {
        let status = self.status();
        let happened = Happened {
            pid: std::process::id(),
            events: events.iter().map(Arc::as_ref).collect(),
            service: &status,
        };
        let build = |_: &State| stream::event("lifecycle", &happened);
        self.spread(&mut self.state(), build, Frames::lifecycle);
    }

    /// Resolves when there was no sample for so long that the streams should show the service without one.
    async fn silence(&self) {
        loop {
            let next = self.state().told + self.settings.sample_interval.mul_f64(1.5);
            tokio::time::sleep_until(next).await;
            if self.state().told + self.settings.sample_interval <= Instant::now() {
                return;
            }
        }
    }

    fn tick_without_sample(&self) {
        let state = &mut *self.state();
        state.told = Instant::now();
        let build = |state: &State| tick(state, None, &self.status(), None);
        self.spread(state, build, Frames::tick);
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
    fn greeting(&self) -> (u64, Bytes) {
        let state = &mut *self.state();
        if let Some(known) = state.frames.greeting() {
            return known;
        }
        let (status, events) = (self.status(), self.events.recent());
        let sample = state.ring.latest();
        let frame = tick(state, sample.as_deref(), &status, Some(&events));
        state.frames.greet(frame)
    }

    fn frame_after(&self, place: u64) -> Next {
        self.state().frames.after(place)
    }

    fn history(&self, pick: impl FnOnce(&Ring) -> Vec<Arc<Sample>>) -> serde_json::Result<Vec<u8>> {
        let (samples, processes) = {
            let state = self.state();
            (pick(&state.ring), state.processes.clone())
        };
        serde_json::to_vec(&History {
            interval: self.settings.sample_interval.as_secs_f64(),
            capacity: self.settings.capacity(),
            pid: std::process::id(),
            samples: samples.iter().map(Arc::as_ref).collect(),
            processes: &processes,
        })
    }

    fn status(&self) -> Status {
        (self.view)()
    }

    /// The last lifecycle events, oldest first.
    fn lifecycle(&self) -> serde_json::Result<Vec<u8>> {
        let recent = self.events.recent();
        let events: Vec<&LifecycleEvent> = recent.iter().map(Arc::as_ref).collect();
        serde_json::to_vec(&events)
    }

    /// The place of the newest sample.
    fn newest(&self) -> Option<Place> {
        self.state().ring.newest()
    }

    fn after(&self, place: Option<Place>) -> Vec<(Place, Arc<Sample>)> {
        self.state().ring.after(place)
    }

    /// How many samples are known.
    fn count(&self) -> usize {
        self.state().ring.len()
    }

    /// Whether everything that should run does. That nobody samples for the moment is no reason to send no requests to
    /// this worker; that one does and is not heard is.
    ///
    /// # Errors
    /// What does not.
    fn health(&self) -> std::result::Result<(), String> {
        let status = self.status();
        let patience = (3 * self.settings.sample_interval + Duration::from_secs(5)).as_secs_f64();
        let silent = self.state().heard.elapsed().as_secs_f64();
        let leases = status
            .leases
            .iter()
            .filter(|lease| lease.payload == SAMPLER);
        for holder in leases.flat_map(|lease| &lease.holder) {
            if holder.since.min(silent) > patience {
                return Err(format!(
                    "the sampler, in worker {}, has been silent for {silent:.0} s",
                    holder.slot
                ));
            }
        }
        let own = status
            .workers
            .iter()
            .filter(|worker| worker.pid == std::process::id());
        for payload in own.flat_map(|worker| &worker.payloads) {
            let waits = payload.scope != Scope::Worker && payload.state == PayloadState::Waiting;
            if !waits && !matches!(payload.state, PayloadState::Running | PayloadState::Done) {
                return Err(format!("payload '{}' does not run", payload.name));
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tick(
    state: &State,
    sample: Option<&Sample>,
    service: &Status,
    events: Option<&[Arc<LifecycleEvent>]>,
) -> Bytes {
    let tick = Tick {
        pid: std::process::id(),
        sample,
        processes: &state.processes,
        service,
        since: state.ring.oldest().map(|sample| sample.time),
        events: events.map(|events| events.iter().map(Arc::as_ref).collect()),
    };
    stream::event("vitals", &tick)
}

/// Seconds since 1970; 0 on a machine whose clock stands before that.
fn wall_clock() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}

/// To four digits: what is measured is no better, and the JSON is a third of the size.
fn rounded(number: f64) -> f64 {
    (number * 10_000.0).round() / 10_000.0
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
