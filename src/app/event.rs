//! What the worker is told while an app lives.

use std::sync::Arc;
use std::time::Duration;

use super::error::{Stage, StepError};
use crate::lease::Released;
use crate::status::{PayloadState, Scope};

/// Hears everything that happens to an app, in order. Called from the tasks that it happens in, so it must not
/// block.
pub(crate) trait Observer: Send + Sync {
    fn app_state(&self, state: AppState);
    fn step(&self, event: &StepEvent<'_>);
    fn payload(&self, event: &PayloadEvent<'_>);
    fn released(&self, event: &ReleaseEvent<'_>);
}

/// Where an app is in its life. Only ever grows; a state may be skipped on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AppState {
    /// Built.
    New,
    /// Its startup runs.
    Starting,
    /// Its startup has succeeded: requests may come.
    Serving,
    /// The drain token has fired.
    Draining,
    /// Payloads stop and the teardown runs.
    Stopping,
    /// Over, and nothing went wrong on the way out.
    Stopped,
    /// Over: the startup, a critical payload or some step of the teardown failed.
    Failed,
}

impl AppState {
    /// The word for logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            AppState::New => "new",
            AppState::Starting => "starting",
            AppState::Serving => "serving",
            AppState::Draining => "draining",
            AppState::Stopping => "stopping",
            AppState::Stopped => "stopped",
            AppState::Failed => "failed",
        }
    }
}

/// A step began or ended. Every beginning has exactly one end.
pub(crate) struct StepEvent<'a> {
    pub(crate) name: &'a str,
    pub(crate) stage: Stage,
    pub(crate) outcome: StepOutcome<'a>,
}

/// With how long it took.
pub(crate) enum StepOutcome<'a> {
    Begun,
    Done(Duration),
    Failed(Duration, &'a StepError),
}

/// A payload's state changed.
pub(crate) struct PayloadEvent<'a> {
    /// Its place among the app's payloads, in the order of registration.
    pub(crate) index: usize,
    pub(crate) name: &'a str,
    pub(crate) scope: Scope,
    /// It can be started only once.
    pub(crate) once: bool,
    /// Of the grant that it runs under, or did last; 0 where it needs none.
    pub(crate) epoch: u64,
    pub(crate) state: PayloadState,
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// How it ended, when it ended as it should not.
    pub(crate) cause: Option<&'a str>,
    /// An attempt has begun or ended with it. Every beginning has exactly one end.
    pub(crate) attempt: bool,
}

/// A payload has given its lease back: it does not run under it any more.
pub(crate) struct ReleaseEvent<'a> {
    pub(crate) index: u32,
    pub(crate) name: &'a str,
    pub(crate) epoch: u64,
    pub(crate) how: Released,
}

/// The one place where an app's state changes, so that it is monotonic.
pub(super) struct Progress {
    state: AppState,
    pub(super) observer: Arc<dyn Observer>,
}

impl Progress {
    pub(super) fn new(observer: Arc<dyn Observer>) -> Self {
        Self {
            state: AppState::New,
            observer,
        }
    }

    pub(super) fn advance(&mut self, next: AppState) {
        if next > self.state {
            self.state = next;
            self.observer.app_state(next);
        }
    }

    pub(super) fn state(&self) -> AppState {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[derive(Default)]
    struct States(Mutex<Vec<AppState>>);

    impl Observer for States {
        fn app_state(&self, state: AppState) {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(state);
        }
        fn step(&self, _: &StepEvent<'_>) {}
        fn payload(&self, _: &PayloadEvent<'_>) {}
        fn released(&self, _: &ReleaseEvent<'_>) {}
    }

    #[test]
    fn an_app_never_goes_back_and_never_enters_a_state_twice() {
        use AppState::{Draining, Failed, Serving, Starting, Stopping};
        let states = Arc::new(States::default());
        let mut progress = Progress::new(states.clone());
        for state in [
            Starting, Serving, Starting, Serving, Stopping, Draining, Failed,
        ] {
            progress.advance(state);
        }
        let seen = states.0.lock().unwrap().clone();
        assert_eq!(seen, [Starting, Serving, Stopping, Failed]);
    }
}
