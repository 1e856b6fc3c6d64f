//! What has happened to an app, to read and to wait for.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::app::Stage;
use crate::app::event::{AppState, Observer, PayloadEvent, ReleaseEvent, StepEvent, StepOutcome};
use crate::status::PayloadState;

/// The events of one app's life, one line each, in the order in which they happened.
///
/// | line | |
/// | --- | --- |
/// | `app serving` | the app's state: `starting`, `serving`, `draining`, `stopping`, `stopped`, `failed` |
/// | `startup 'pool' begun`, `startup 'pool' done` | a step; `drain` and `teardown` likewise |
/// | `startup step 'pool' failed: no such file` | instead of `done`, as a [`StepError`](crate::StepError) says it |
/// | `payload 'sampler' running` | a payload's state: `waiting`, `running`, `done` |
/// | `payload 'sampler' restarting: failed: no such file` | the same with the reason: `restarting`, `failed` |
/// | `payload 'sampler' released` | it has given its lease back |
///
/// In an app that is [mounted](crate::AppBuilder::mount) the names have its path: `teardown '/admin: pool' done`.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<watch::Sender<Vec<String>>>);

impl Trace {
    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    /// Whether this very line is there.
    pub fn contains(&self, line: &str) -> bool {
        self.count(line) > 0
    }

    /// How often this very line is there.
    pub fn count(&self, line: &str) -> usize {
        count(&self.0.borrow(), line)
    }

    /// Waits until this very line is there, at once if it already is. For ever, if it does not come:
    /// `tokio::time::timeout` around it makes that a failure of the test, without a wait where the clock is paused.
    pub async fn until(&self, line: &str) {
        self.until_times(line, 1).await;
    }

    /// Waits until it is there so many times.
    pub async fn until_times(&self, line: &str, times: usize) {
        let mut lines = self.0.subscribe();
        // The sender is here.
        let _ = lines.wait_for(|lines| count(lines, line) >= times).await;
    }

    fn push(&self, line: String) {
        self.0.send_modify(|lines| lines.push(line));
    }
}

fn count(lines: &[String], line: &str) -> usize {
    lines.iter().filter(|seen| *seen == line).count()
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines();
        lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Observer for Trace {
    fn app_state(&self, state: AppState) {
        self.push(format!("app {}", state.name()));
    }

    fn step(&self, event: &StepEvent<'_>) {
        let stage = match event.stage {
            Stage::Startup => "startup",
            Stage::Drain => "drain",
            _ => "teardown",
        };
        let name = event.name;
        self.push(match &event.outcome {
            StepOutcome::Begun => format!("{stage} '{name}' begun"),
            StepOutcome::Done(_) => format!("{stage} '{name}' done"),
            StepOutcome::Failed(_, error) => error.to_string(),
        });
    }

    fn payload(&self, event: &PayloadEvent<'_>) {
        let name = event.name;
        let state = match event.state {
            PayloadState::Waiting => "waiting",
            PayloadState::Running => "running",
            PayloadState::Restarting => "restarting",
            PayloadState::Done => "done",
            PayloadState::Failed => "failed",
        };
        self.push(match event.cause {
            None => format!("payload '{name}' {state}"),
            Some(cause) => format!("payload '{name}' {state}: {cause}"),
        });
    }

    fn released(&self, event: &ReleaseEvent<'_>) {
        self.push(format!("payload '{}' released", event.name));
    }
}
