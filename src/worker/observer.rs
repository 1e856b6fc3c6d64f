//! What happens to the app, for the journal, the scoreboard and the arbiter.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::phase::Phase;
use super::reports::Reports;
use super::stages::{Stages, now};
use crate::app::event::{AppState, Observer, PayloadEvent, ReleaseEvent, StepEvent, StepOutcome};
use crate::app::shelf::Custodian;
use crate::ipc::channel::Report;
use crate::kept::Kept;
use crate::lifecycle;
use crate::logs::events::Event;
use crate::status::{PayloadState, Scope};

/// Hears the app.
pub(super) struct Observed {
    stages: Arc<Stages>,
    declared: Mutex<Declared>,
}

/// An app's payloads, in the order of registration.
#[derive(Clone, Default)]
pub(super) struct Declared {
    pub(super) names: Vec<String>,
    pub(super) scopes: Vec<Scope>,
    /// The places of those that can be started only once.
    pub(super) once: Vec<u32>,
}

impl Observed {
    pub(super) fn new(stages: Arc<Stages>) -> Self {
        Self {
            stages,
            declared: Mutex::default(),
        }
    }

    pub(super) fn payloads(&self) -> Declared {
        self.declared().clone()
    }

    fn declared(&self) -> MutexGuard<'_, Declared> {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Observed {
    fn app_state(&self, state: AppState) {
        let seat = self.stages.meter().seat();
        match state {
            AppState::Starting => drop(seat.starts.fetch_add(1, Relaxed)),
            // Also where a startup is unwound.
            AppState::Stopping => {
                seat.stops.fetch_add(1, Relaxed);
                self.stages.enter(Phase::Cleaning);
            }
            _ => {}
        }
        tracing::debug!(state = state.name(), "app changed its state");
    }

    fn step(&self, event: &StepEvent<'_>) {
        let (step, stage) = (event.name, event.stage.name());
        match &event.outcome {
            StepOutcome::Begun => tracing::debug!(step, stage, "step began"),
            StepOutcome::Done(took) => {
                tracing::debug!(
                    step,
                    stage,
                    took_seconds = took.as_secs_f64(),
                    "step is done"
                );
            }
            // A stop during the startup is a clean one, and a deadline that passed is told by who holds it.
            StepOutcome::Failed(took, error) if error.is_cancelled() => tracing::info!(
                step,
                stage,
                took_seconds = took.as_secs_f64(),
                "step was given up"
            ),
            StepOutcome::Failed(took, error) => lifecycle!(
                Event::StepFailed,
                step,
                stage,
                took_seconds = took.as_secs_f64(),
                error = %error,
                "step failed"
            ),
        }
    }

    fn payload(&self, event: &PayloadEvent<'_>) {
        let seat = self.stages.meter().seat();
        // An app that has more than there are places does not start.
        if let Some(state) = seat.payload_states.get(event.index) {
            state.store(event.state as u8, Relaxed);
        }
        if let Some(restarts) = seat.payload_restarts.get(event.index) {
            restarts.store(event.restarts, Relaxed);
        }
        let (payload, restarts) = (event.name, event.restarts);
        match event.state {
            PayloadState::Waiting => {
                let declared = &mut *self.declared();
                // Later it waits for its next lease.
                if event.index == declared.names.len() {
                    let place = u32::try_from(event.index).ok();
                    declared.once.extend(place.filter(|_| event.once));
                    declared.names.push(payload.to_owned());
                    declared.scopes.push(event.scope);
                }
            }
            PayloadState::Running => {
                let epoch = Some(event.epoch).filter(|_| event.scope != Scope::Worker);
                lifecycle!(
                    Event::PayloadStarted,
                    payload,
                    restarts,
                    epoch,
                    "payload started"
                );
            }
            PayloadState::Done if event.attempt => {
                lifecycle!(Event::PayloadEnded, payload, restarts, "payload ended");
            }
            // Told to stop between two attempts: the last one has had its end.
            PayloadState::Done => {}
            PayloadState::Restarting | PayloadState::Failed => lifecycle!(
                Event::PayloadFailed,
                payload,
                restarts,
                cause = event.cause,
                again = event.state == PayloadState::Restarting,
                "payload failed"
            ),
        }
    }

    fn released(&self, event: &ReleaseEvent<'_>) {
        self.stages.report(&Report::Released {
            payload: event.index,
            epoch: event.epoch,
            how: event.how,
            at: now(),
        });
    }
}

/// What lies in the channel's queue is the arbiter's, also when this process is gone.
impl Custodian for Reports {
    fn keep(&self, payload: u32, epoch: u64, kept: &Arc<Kept>) -> io::Result<()> {
        // What lies in the channel is memory, too.
        if !self.has_room() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.offer_with(&Report::Kept { payload, epoch }, kept.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::channel::Channel;

    #[test]
    fn who_keeps_without_end_leaves_room_for_what_else_is_to_be_said() {
        let (_arbiter, worker) = Channel::pair().unwrap();
        let worker = Reports::new(Arc::new(worker));
        let kept = Arc::new(Kept::write("p", None, b"x").unwrap());
        let count = (0..10_000).take_while(|_| worker.keep(0, 1, &kept).is_ok());
        let count = count.count();
        assert!((5..200).contains(&count), "{count}");
        for _ in 0..20 {
            let reason = "x".repeat(100);
            worker.offer(&Report::Failed { reason }).unwrap();
        }
        let error = worker.keep(0, 1, &kept).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
