//! vitals, the built-in app: the machine's vital signs once a second, and the service that shows them.
//!
//! A payload samples /proc into a ring; the handlers show the ring, the latest sample as it comes, the
//! service's own view of itself, and its lifecycle events as they happen. It is an app like any other: it knows
//! `http` types, a drain token, a view of the service and its events, and no process.

mod frames;
mod page;
mod proc;
mod ring;
mod routes;
mod sample;
mod sampler;
mod settings;
mod stream;

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::app::{App, Context, Payload, Result, Token};
use crate::events::{Events, LifecycleEvent};
use crate::moment::Moment;
use crate::status::{PayloadState, Scope, Status};
use crate::sys::clock;

pub use settings::Settings;

use frames::{Frames, Next};
use proc::Kernel;
use ring::Ring;
use routes::VitalsService;
use sample::{Process, Sample};
use sampler::Sampler;

/// The factory of the built-in app: what `payload` without a service of its own serves.
///
/// # Errors
/// None: it only builds.
pub async fn load(context: Context<Settings>) -> Result<App> {
    let (settings, drain, events) = (*context.settings(), context.drain_token(), context.events());
    let vitals = Vitals::new(settings, Arc::new(move || context.service()), events, drain);
    let service = VitalsService::new(Arc::clone(&vitals));
    let sampling = Arc::clone(&vitals);
    let sampler = Payload::new("sampler", move |context| {
        let vitals = Arc::clone(&sampling);
        async move {
            vitals.sample_forever(context.stop_token()).await;
            Ok(())
        }
    });
    let feed = Payload::new("page feed", move |context| async move {
        vitals.follow(context.stop_token()).await;
        Ok(())
    });
    Ok(App::builder().payload(sampler).payload(feed).build(service))
}

/// Asks for the service as it is now. Called at most a few times per second; must not block.
pub(crate) type View = Arc<dyn Fn() -> Status + Send + Sync>;

/// What the sampler and the handlers of one app share.
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
    /// When the sampler last finished, at first when it was built.
    looked: Instant,
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
    /// Oldest first.
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
    /// `drain` ends the streams; the sampler has its own token. Call it inside the runtime.
    pub(crate) fn new(settings: Settings, view: View, events: Events, drain: Token) -> Arc<Self> {
        let state = State {
            ring: Ring::new(settings.capacity()),
            processes: Vec::new(),
            looked: Instant::now(),
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

    /// The payload: samples until told to stop, then returns at once. A late tick is skipped, not made up
    /// for. Dropping the future loses the sample that is being taken.
    ///
    /// # Panics
    /// With the panic of a sample that could not be taken, for the supervisor to see.
    pub(crate) async fn sample_forever(&self, stop: Token) {
        let mut ticks = tokio::time::interval(self.settings.sample_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut sampler = Sampler::default();
        loop {
            tokio::select! {
                biased;
                () = stop.fired() => return,
                _ = ticks.tick() => {}
            }
            let status = (self.view)();
            let members = sampler::members(&status);
            // Not on the executor: reading another process's memory can wait for that process.
            let look = tokio::task::spawn_blocking(move || {
                let now = Moment::from_nanos(clock::monotonic_nanos());
                let (sample, processes) = sampler.take(&Kernel, &members, now, wall_clock());
                (sampler, sample, processes)
            });
            let looked = tokio::select! {
                biased;
                () = stop.fired() => return,
                looked = look => looked,
            };
            match looked {
                Ok((back, sample, processes)) => {
                    sampler = back;
                    self.publish(sample, processes, &status);
                }
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    // The runtime is on its way out.
                    Err(_) => return,
                },
            }
        }
    }

    /// The other payload: puts the lifecycle events of the service into the streams, as they happen.
    pub(crate) async fn follow(&self, stop: Token) {
        let mut stream = self.events.subscribe();
        loop {
            let first = tokio::select! {
                biased;
                () = stop.fired() => return,
                first = stream.recv() => first,
                () = self.silence() => {
                    let state = &mut *self.state();
                    state.told = Instant::now();
                    let build = |state: &State| tick(state, None, &self.status(), None);
                    self.spread(state, build, Frames::tick);
                    continue;
                }
            };
            // What was missed here, a new page gets with its greeting.
            let rest = std::iter::from_fn(|| stream.try_recv());
            let events: Vec<_> = std::iter::once(first).chain(rest).flatten().collect();
            let status = self.status();
            let happened = Happened {
                pid: std::process::id(),
                events: events.iter().map(Arc::as_ref).collect(),
                service: &status,
            };
            let build = |_: &State| stream::event("lifecycle", &happened);
            self.spread(&mut self.state(), build, Frames::lifecycle);
        }
    }

    fn publish(&self, sample: Sample, processes: Vec<Process>, status: &Status) {
        let state = &mut *self.state();
        state.ring.push(Arc::new(sample));
        state.processes = processes;
        (state.looked, state.told) = (Instant::now(), Instant::now());
        let sample = state.ring.latest();
        self.spread(
            state,
            |state| tick(state, sample, status, None),
            Frames::tick,
        );
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
        let frame = tick(state, sample, &status, Some(&events));
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

    /// Whether everything that should run in this worker does.
    ///
    /// # Errors
    /// What does not.
    fn health(&self) -> std::result::Result<(), String> {
        let silent = self.state().looked.elapsed();
        if silent > 3 * self.settings.sample_interval + Duration::from_secs(5) {
            return Err(format!(
                "the sampler has been silent for {} s",
                silent.as_secs()
            ));
        }
        let status = self.status();
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
    sample: Option<Arc<Sample>>,
    service: &Status,
    events: Option<&[Arc<LifecycleEvent>]>,
) -> Bytes {
    let tick = Tick {
        pid: std::process::id(),
        sample: sample.as_deref(),
        processes: &state.processes,
        service,
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
