//! Lifecycle events on their second way: beside the log, as data for the whole service.
//!
//! In the arbiter they wait until its loop takes them; a worker sends them to the arbiter at once. Never blocks.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::layer::{Context, Filter};

use super::fields::{Fields, Value};
use super::process::ProcessIdentity;
use crate::events::{FieldValue, Level, LifecycleEvent};
use crate::sys::clock;

/// The target of [`lifecycle!`](crate::lifecycle).
const TARGET: &str = "payload::lifecycle";
/// The longest text of one field.
const MAX_TEXT: usize = 1024;
/// What waits to be taken; more is lost and counted. Processes that never take any must not grow.
const MAX_WAITING: usize = 512;

/// The layer.
pub(super) struct Tee;

/// Gets each event; must not block and must not log.
type Outlet = Box<dyn FnMut(LifecycleEvent) + Send>;

static WAY: Mutex<Way> = Mutex::new(Way::Wait(Waiting::none()));

enum Way {
    Wait(Waiting),
    Send(Outlet),
}

struct Waiting {
    events: Vec<LifecycleEvent>,
    /// How many came when there was no room; they were the last.
    lost: u64,
}

impl Waiting {
    const fn none() -> Self {
        Self {
            events: Vec::new(),
            lost: 0,
        }
    }

    fn add(&mut self, event: LifecycleEvent) {
        if self.events.len() < MAX_WAITING {
            self.events.push(event);
        } else {
            self.lost += 1;
        }
    }
}

/// Whatever `log.level` says.
pub(super) fn filter<S>() -> impl Filter<S> {
    fn is_ours(metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }
    FilterFn::new(is_ours as fn(&Metadata<'_>) -> bool).with_max_level_hint(LevelFilter::INFO)
}

/// The events of this process that nobody has taken yet, oldest first, and how many more there were after them.
pub(super) fn take() -> (Vec<LifecycleEvent>, u64) {
    let taken = match &mut *way() {
        Way::Wait(waiting) => std::mem::replace(waiting, Waiting::none()),
        Way::Send(_) => Waiting::none(),
    };
    (taken.events, taken.lost)
}

/// After a fork: what was about to be taken is the parent's.
pub(super) fn forget() {
    *way() = Way::Wait(Waiting::none());
}

/// From now on they go there, and first those that wait.
pub(super) fn send_to(mut outlet: Outlet) {
    let mut way = way();
    if let Way::Wait(waiting) = &mut *way {
        waiting.events.drain(..).for_each(&mut outlet);
    }
    *way = Way::Send(outlet);
}

fn way() -> MutexGuard<'static, Way> {
    WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Subscriber> Layer<S> for Tee {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let event = data(fields, *event.metadata().level(), super::identity());
        match &mut *way() {
            Way::Wait(waiting) => waiting.add(event),
            Way::Send(outlet) => outlet(event),
        }
    }
}

fn data(fields: Fields, level: tracing::Level, identity: ProcessIdentity) -> LifecycleEvent {
    let mut event = LifecycleEvent {
        number: 0,
        time: wall_clock(),
        name: String::new(),
        level: match level {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            _ => Level::Info,
        },
        message: fields.message,
        worker: None,
        slot: None,
        generation: None,
        pid: None,
        fields: Default::default(),
    };
    if let ProcessIdentity::Worker {
        worker,
        slot,
        generation,
    } = identity
    {
        (event.worker, event.slot) = (Some(worker), Some(slot));
        event.generation = Some(generation);
    }
    for (name, value) in fields.rest {
        put(&mut event, name, value);
    }
    if event.pid.is_none() && (identity != ProcessIdentity::Arbiter || event.worker.is_none()) {
        event.pid = Some(std::process::id());
    }
    event
}

fn put(event: &mut LifecycleEvent, name: &str, value: Value) {
    let value = field(value);
    let number = match &value {
        FieldValue::Count(number) => u32::try_from(*number).ok(),
        _ => None,
    };
    match (name, &value) {
        // It is there for the journal, which has texts by it.
        ("message_id", _) => {}
        ("payload_event", FieldValue::Text(text)) => event.name.clone_from(text),
        ("payload_worker", FieldValue::Count(worker)) => event.worker = Some(*worker),
        ("payload_slot", _) if number.is_some() => event.slot = number,
        ("payload_generation", _) if number.is_some() => event.generation = number,
        ("worker_pid", _) if number.is_some() => event.pid = number,
        _ => drop(event.fields.insert(name.to_owned(), value)),
    }
}

fn field(value: Value) -> FieldValue {
    match value {
        Value::Text(text) => FieldValue::Text(cut(text)),
        Value::Flag(flag) => FieldValue::Flag(flag),
        Value::Count(count) => FieldValue::Count(count),
        Value::Negative(number) => FieldValue::Number(number as f64),
        Value::Number(number) => FieldValue::Number(number),
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let mut end = MAX_TEXT;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Seconds since 1970, to the millisecond; 0 on a machine whose clock stands before that.
fn wall_clock() -> f64 {
    (clock::unix_seconds() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(rest: Vec<(&'static str, Value)>) -> Fields {
        Fields {
            message: "worker forked".to_owned(),
            rest,
        }
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn what_the_arbiter_says_about_a_worker_is_about_that_worker() {
        let event = data(
            fields(vec![
                ("payload_event", text("worker-forked")),
                ("message_id", text("10c8e38e")),
                ("payload_worker", Value::Count(7)),
                ("payload_slot", Value::Count(1)),
                ("payload_generation", Value::Count(2)),
                ("worker_pid", Value::Count(4711)),
                ("cause", text("boot")),
                ("again", Value::Flag(false)),
                ("gap_seconds", Value::Number(0.0)),
                ("left", Value::Negative(-1)),
            ]),
            tracing::Level::WARN,
            ProcessIdentity::Arbiter,
        );
        assert_eq!(event.name, "worker-forked");
        assert_eq!(event.level, Level::Warn);
        assert_eq!((event.worker, event.slot), (Some(7), Some(1)));
        assert_eq!((event.generation, event.pid), (Some(2), Some(4711)));
        let rest: Vec<_> = event.fields.into_iter().collect();
        let expected = [
            ("again", FieldValue::Flag(false)),
            ("cause", FieldValue::Text("boot".to_owned())),
            // Whatever its value.
            ("gap_seconds", FieldValue::Number(0.0)),
            ("left", FieldValue::Number(-1.0)),
        ];
        assert_eq!(rest, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn a_worker_speaks_for_itself_and_the_arbiter_for_the_service() {
        let worker = ProcessIdentity::Worker {
            worker: 3,
            slot: 0,
            generation: 1,
        };
        let own = data(fields(vec![]), tracing::Level::INFO, worker);
        assert_eq!(
            (own.worker, own.slot, own.generation),
            (Some(3), Some(0), Some(1))
        );
        assert_eq!(own.pid, Some(std::process::id()));
        let service = data(
            fields(vec![]),
            tracing::Level::INFO,
            ProcessIdentity::Arbiter,
        );
        assert_eq!(
            (service.worker, service.pid),
            (None, Some(std::process::id()))
        );
        let about = fields(vec![("payload_worker", Value::Count(3))]);
        let other = data(about, tracing::Level::INFO, ProcessIdentity::Arbiter);
        assert_eq!(
            (other.worker, other.pid),
            (Some(3), None),
            "it is not the arbiter's"
        );
    }

    #[test]
    fn what_nobody_takes_is_kept_up_to_a_limit_and_the_rest_is_counted() {
        let mut waiting = Waiting::none();
        let event = data(
            fields(vec![]),
            tracing::Level::INFO,
            ProcessIdentity::Arbiter,
        );
        for _ in 0..MAX_WAITING + 3 {
            waiting.add(event.clone());
        }
        assert_eq!((waiting.events.len(), waiting.lost), (MAX_WAITING, 3));
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let long = "é".repeat(MAX_TEXT);
        let event = data(
            fields(vec![("reason", text(&long))]),
            tracing::Level::ERROR,
            ProcessIdentity::Arbiter,
        );
        let reason = event.field("reason").unwrap();
        assert!(reason.ends_with("é…") && reason.len() <= MAX_TEXT + 4);
    }
}
