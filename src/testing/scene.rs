//! The service around an app in a test, as [`Context::service`](crate::Context::service) shows it: the worker that
//! the test has described, and no other.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::Trace;
use super::worker::TestWorker;
use crate::app::event::{AppState, Observer, PayloadEvent, ReleaseEvent, StepEvent};
use crate::ipc::scoreboard::BUCKETS;
use crate::lease::Released;
use crate::status::{
    Arbiter, Holder, LastFailure, Lease, Payload, PayloadState, Scope, ServiceState, Status, Worker,
};

/// Hears the app.
pub(super) struct Scene {
    place: TestWorker,
    worker: u64,
    begun: Instant,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    state: Option<AppState>,
    payloads: Vec<Payload>,
    /// By their place.
    failed_at: BTreeMap<usize, Instant>,
    leases: Vec<(Lease, Option<Instant>)>,
}

impl Scene {
    pub(super) fn new(place: TestWorker, worker: u64) -> Self {
        Self {
            place,
            worker,
            begun: Instant::now(),
            seen: Mutex::default(),
        }
    }

    /// As it is now.
    pub(super) fn status(&self, busy: usize) -> Status {
        let seen = self.seen();
        let leases = seen.leases.iter().map(|(lease, since)| {
            let mut lease = lease.clone();
            if let (Some(holder), Some(since)) = (&mut lease.holder, since) {
                holder.since = since.elapsed().as_secs_f64();
            }
            lease
        });
        Status {
            arbiter: Arbiter {
                pid: std::process::id(),
                state: match seen.state {
                    None | Some(AppState::New | AppState::Starting) => ServiceState::Booting,
                    Some(AppState::Serving) => ServiceState::Ready,
                    Some(_) => ServiceState::Stopping,
                },
                generation: self.place.generation,
                uptime: self.begun.elapsed().as_secs_f64(),
                workers: u32::from(self.place.workers),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                status: String::new(),
                log_drops: 0,
            },
            workers: vec![self.worker(&seen, busy)],
            sockets: Vec::new(),
            leases: leases.collect(),
        }
    }

    fn worker(&self, seen: &Seen, busy: usize) -> Worker {
        let has_come_to = |state| u32::from(seen.state >= Some(state));
        Worker {
            worker: self.worker,
            slot: self.place.slot,
            pid: std::process::id(),
            generation: self.place.generation,
            phase: match seen.state {
                None | Some(AppState::New) => "loading",
                Some(AppState::Stopping) => "cleaning",
                Some(AppState::Stopped) => "exited",
                Some(state) => state.name(),
            }
            .to_owned(),
            since: 0.0,
            heartbeat: 0.0,
            connections: 0,
            in_flight: 0,
            busy: u64::try_from(busy).unwrap_or(u64::MAX),
            requests: 0,
            accepted: 0,
            given: 0,
            received: 0,
            bytes_in: 0,
            bytes_out: 0,
            panics: 0,
            loads: 1,
            starts: has_come_to(AppState::Starting),
            stops: has_come_to(AppState::Stopping),
            restarts: 0,
            memory: 0,
            latency: vec![0; BUCKETS],
            log_drops: 0,
            payloads: seen.payloads(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// As they are now.
    fn payloads(&self) -> Vec<Payload> {
        let mut payloads = self.payloads.clone();
        for (index, at) in &self.failed_at {
            let payload = payloads.get_mut(*index);
            if let Some(last) = payload.and_then(|payload| payload.last_failure.as_mut()) {
                last.ago = at.elapsed().as_secs_f64();
            }
        }
        payloads
    }

    fn lease(&mut self, payload: &str) -> Option<&mut (Lease, Option<Instant>)> {
        let mut leases = self.leases.iter_mut();
        leases.find(|(lease, _)| lease.payload == payload)
    }
}

impl Observer for Scene {
    fn app_state(&self, state: AppState) {
        self.seen().state = Some(state);
    }

    fn step(&self, _: &StepEvent<'_>) {}

    fn payload(&self, event: &PayloadEvent<'_>) {
        let seen = &mut *self.seen();
        if let Some(payload) = seen.payloads.get_mut(event.index) {
            (payload.state, payload.restarts) = (event.state, event.restarts);
            if let Some(reason) = event.cause {
                let reason = reason.to_owned();
                payload.last_failure = Some(LastFailure { reason, ago: 0.0 });
                seen.failed_at.insert(event.index, Instant::now());
            }
        } else {
            seen.payloads.push(Payload {
                name: event.name.to_owned(),
                scope: event.scope,
                state: event.state,
                restarts: event.restarts,
                last_failure: None,
            });
            if event.scope != Scope::Worker {
                let slot = (event.scope == Scope::Slot).then_some(self.place.slot);
                seen.leases.push((
                    Lease {
                        payload: event.name.to_owned(),
                        scope: event.scope,
                        slot,
                        holder: None,
                        finished: false,
                        grants: 0,
                        gap: 0.0,
                        failures: 0,
                        again_in: None,
                    },
                    None,
                ));
            }
        }
        if event.state != PayloadState::Running || event.scope == Scope::Worker {
            return;
        }
        let holder = Holder {
            slot: self.place.slot,
            pid: std::process::id(),
            generation: self.place.generation,
            epoch: event.epoch,
            since: 0.0,
            leaving: false,
        };
        if let Some((lease, since)) = seen.lease(event.name) {
            // A restart is under the same one.
            if lease.holder.as_ref().map(|holder| holder.epoch) != Some(event.epoch) {
                lease.grants += 1;
                lease.holder = Some(holder);
                *since = Some(Instant::now());
            }
        }
    }

    fn released(&self, event: &ReleaseEvent<'_>) {
        if let Some((lease, since)) = self.seen().lease(event.name) {
            lease.finished = event.how == Released::Finished;
            lease.holder = None;
            *since = None;
        }
    }
}

/// What the test reads comes last: who waits for a line finds the scene as it says.
impl Observer for (Trace, std::sync::Arc<Scene>) {
    fn app_state(&self, state: AppState) {
        self.1.app_state(state);
        self.0.app_state(state);
    }

    fn step(&self, event: &StepEvent<'_>) {
        self.0.step(event);
    }

    fn payload(&self, event: &PayloadEvent<'_>) {
        self.1.payload(event);
        self.0.payload(event);
    }

    fn released(&self, event: &ReleaseEvent<'_>) {
        self.1.released(event);
        self.0.released(event);
    }
}
