//! One lifecycle event as data.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Something that happened in the life of the service: a row of the lifecycle events of the log, as data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LifecycleEvent {
    /// Each event of the service has the number after the one before it, over reloads as well; a gap stands for events
    /// that only the log has. It begins with the time in microseconds, so that it goes on rising when the service is
    /// started again, as long as the clock is not set back.
    pub number: u64,
    /// When, in seconds since 1970.
    pub time: f64,
    /// What, as in the log's `payload_event`: `worker-forked`. A name never changes its meaning.
    pub name: String,
    /// How bad it is.
    pub level: Level,
    /// The log's sentence for it.
    pub message: String,
    /// The number of the worker that it is about, if it is about one.
    pub worker: Option<u64>,
    /// That worker's slot, or the slot that it is about.
    pub slot: Option<u32>,
    /// That worker's generation, or the one that it is about.
    pub generation: Option<u32>,
    /// The worker's process where that is known; of an event that is about no worker, the arbiter's.
    pub pid: Option<u32>,
    /// What else the log's record has, by name. Long texts are cut.
    pub fields: BTreeMap<String, FieldValue>,
}

/// How bad an event is: the level of its log record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Level {
    /// As it should be.
    Info,
    /// Worth a look.
    Warn,
    /// Something is lost or broken.
    Error,
}

/// The value of one field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum FieldValue {
    /// A yes or no.
    Flag(bool),
    /// A whole number that is not below 0: a count, a pid, an epoch.
    Count(u64),
    /// Any other number: seconds, also where they are whole.
    Number(f64),
    /// Everything else.
    Text(String),
}

impl LifecycleEvent {
    /// The field of this name as text; `None` where there is none.
    pub fn field(&self, name: &str) -> Option<String> {
        self.fields.get(name).map(ToString::to_string)
    }
}

impl FieldValue {
    /// A number of either kind; `None` of anything else. A count beyond 2^53 is rounded.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            FieldValue::Count(value) => Some(*value as f64),
            FieldValue::Number(value) => Some(*value),
            FieldValue::Flag(_) | FieldValue::Text(_) => None,
        }
    }
}

impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldValue::Flag(value) => value.fmt(f),
            FieldValue::Count(value) => value.fmt(f),
            FieldValue::Number(value) => value.fmt(f),
            FieldValue::Text(value) => f.write_str(value),
        }
    }
}
