//! What is sent, as JSON. `interface.md` describes it to those who read it, and a test compares the two.

use serde::Serialize;

use super::ring::{Place, Placed};
use super::sample::{Process, Sample};
use super::story;
use crate::LifecycleEvent;
use crate::status::Status;

/// What `/api/vitals` answers.
#[derive(Serialize)]
pub(super) struct History<'a> {
    /// Seconds between two samples.
    pub(super) interval: f64,
    /// How many samples are kept.
    pub(super) capacity: usize,
    /// The worker that answers, by its pid.
    pub(super) pid: u32,
    /// The place of the oldest sample that this worker has, whether it is among these or not.
    pub(super) oldest: Option<Point>,
    /// Oldest first, whoever took them.
    pub(super) samples: Vec<Shown<'a>>,
    /// The service's own processes, as of the latest sample; none, when that is too old.
    pub(super) processes: &'a [Process],
}

/// What an event `vitals` of `/api/vitals/stream` carries.
#[derive(Serialize)]
pub(super) struct Tick<'a> {
    /// The worker that answers, by its pid.
    pub(super) pid: u32,
    /// The latest sample; `null` where there is none, or no new one.
    pub(super) sample: Option<Shown<'a>>,
    /// Seconds since the latest sample, whether it is in this event or not.
    pub(super) age: Option<f64>,
    /// As in the history.
    pub(super) processes: &'a [Process],
    /// As `/api/service` answers it.
    pub(super) service: &'a Status,
    /// The place of the oldest sample that `/api/vitals` has.
    pub(super) oldest: Option<Point>,
    #[serde(flatten)]
    pub(super) greeting: Option<Greeting<'a>>,
}

/// What only the first event of a stream has.
#[derive(Serialize)]
pub(super) struct Greeting<'a> {
    /// As in the history.
    pub(super) interval: f64,
    /// As in the history.
    pub(super) capacity: usize,
    /// The last lifecycle events, oldest first.
    pub(super) events: Vec<Line<'a>>,
}

/// What an event `lifecycle` carries.
#[derive(Serialize)]
pub(super) struct Happened<'a> {
    pub(super) pid: u32,
    /// What has happened since the last, oldest first.
    pub(super) events: Vec<Line<'a>>,
    /// Of so many more this worker has not heard.
    pub(super) missed: u64,
    /// How the service is after it.
    pub(super) service: &'a Status,
}

/// A sample, and where it belongs.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    place: Point,
    #[serde(flatten)]
    sample: &'a Sample,
}

/// A place: epoch and number.
pub(super) type Point = (u64, u64);

/// A lifecycle event, and whether it is one of the many small ones.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    #[serde(flatten)]
    event: &'a LifecycleEvent,
    detail: bool,
}

impl From<Place> for Point {
    fn from(place: Place) -> Self {
        (place.epoch, place.number)
    }
}

impl<'a> From<&'a Placed> for Shown<'a> {
    fn from((place, sample): &'a Placed) -> Self {
        Self {
            place: (*place).into(),
            sample,
        }
    }
}

impl<'a> From<&'a LifecycleEvent> for Line<'a> {
    fn from(event: &'a LifecycleEvent) -> Self {
        Self {
            event,
            detail: story::is_detail(event),
        }
    }
}
