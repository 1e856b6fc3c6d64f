//! What happens to the app, for the journal, the scoreboard and the arbiter.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use super::phase::Phase;
use super::stages::Stages;
use crate::app::event::{AppState, Observer, PayloadEvent, StepEvent, StepOutcome};
use crate::ipc::scoreboard::PAYLOADS;
use crate::lifecycle;
use crate::logs::events::Event;
use crate::status::PayloadState;

/// Hears the app.
pub(super) struct Observed {
    stages: Arc<Stages>,
    names: Mutex<Vec<String>>,
}

impl Observed {
    pub(super) fn new(stages: Arc<Stages>) -> Self {
        Self {
            stages,
            names: Mutex::new(Vec::new()),
        }
    }

    /// The payloads' names, in the order of registration.
    pub(super) fn names(&self) -> Vec<String> {
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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
        if event.index < PAYLOADS {
            let seat = self.stages.meter().seat();
            seat.payload_states[event.index].store(event.state as u8, Relaxed);
            seat.payload_restarts[event.index].store(event.restarts, Relaxed);
        }
        let (payload, restarts) = (event.name, event.restarts);
        match event.state {
            PayloadState::Waiting => {
                self.names
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(payload.to_owned());
            }
            PayloadState::Running => {
                lifecycle!(Event::PayloadStarted, payload, restarts, "payload started");
            }
            PayloadState::Done => {
                lifecycle!(Event::PayloadEnded, payload, restarts, "payload ended");
            }
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
}
