//! How each payload has failed last, as the lifecycle events tell it.

use std::collections::BTreeMap;

use crate::events::LifecycleEvent;
use crate::logs::events::Event;
use crate::status::{LastFailure, Worker};

/// By the number of the worker, and the payload's name.
#[derive(Debug, Default)]
pub(crate) struct Failures(BTreeMap<u64, BTreeMap<String, Failure>>);

#[derive(Debug)]
struct Failure {
    reason: String,
    /// Seconds since 1970.
    time: f64,
}

impl Failures {
    /// Takes what the event says, if it says something about this.
    pub(crate) fn note(&mut self, event: &LifecycleEvent) {
        if event.name != Event::PayloadFailed.name() {
            return;
        }
        let said = (event.worker, event.field("payload"), event.field("cause"));
        if let (Some(worker), Some(payload), Some(reason)) = said {
            let time = event.time;
            let of_worker = self.0.entry(worker).or_default();
            of_worker.insert(payload, Failure { reason, time });
        }
    }

    /// Forgets workers that are gone.
    pub(crate) fn keep_only(&mut self, lives: impl Fn(u64) -> bool) {
        self.0.retain(|worker, _| lives(*worker));
    }

    /// Adds what is known to what the scoreboard has. `time`: now, in seconds since 1970.
    pub(crate) fn tell(&self, worker: &mut Worker, time: f64) {
        let Some(known) = self.0.get(&worker.worker) else {
            return;
        };
        for payload in &mut worker.payloads {
            payload.last_failure = known.get(&payload.name).map(|failure| LastFailure {
                reason: failure.reason.clone(),
                // The clock may have been set back.
                ago: (time - failure.time).max(0.0),
            });
        }
    }
}

impl<'a> FromIterator<&'a LifecycleEvent> for Failures {
    /// Of events in their order.
    fn from_iter<I: IntoIterator<Item = &'a LifecycleEvent>>(events: I) -> Self {
        let mut failures = Self::default();
        events.into_iter().for_each(|event| failures.note(event));
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::{reading, scoreboard};
    use crate::moment::Moment;

    fn failed(worker: u64, payload: &str, cause: &str, time: f64) -> LifecycleEvent {
        serde_json::from_value(serde_json::json!({
            "number": 0, "time": time, "name": "payload-failed", "level": "error", "message": "", "worker": worker,
            "slot": null, "generation": null, "pid": null, "fields": { "payload": payload, "cause": cause },
        }))
        .unwrap()
    }

    #[test]
    fn the_last_one_counts_as_long_as_the_worker_lives() {
        let events = [
            failed(1, "sampler", "failed: first", 5.0),
            failed(2, "sampler", "failed: elsewhere", 6.0),
            failed(1, "sampler", "failed: again", 7.0),
            failed(1, "other", "panicked", 8.0),
        ];
        let mut failures: Failures = events.iter().collect();
        let board = scoreboard::create().unwrap();
        let names = ["sampler".to_owned()];
        let mut worker = reading::worker(&board.seats[0], &names, &[], Moment::default());
        worker.worker = 1;
        failures.tell(&mut worker, 10.0);
        let last = worker.payloads[0].last_failure.take().unwrap();
        assert_eq!((last.reason.as_str(), last.ago), ("failed: again", 3.0));
        failures.keep_only(|worker| worker != 1);
        failures.tell(&mut worker, 10.0);
        assert_eq!(worker.payloads[0].last_failure, None);
    }
}
