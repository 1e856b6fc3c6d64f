//! The lifecycle events that a page begins with.
//!
//! A service of many workers has so many small events at a reload that they would push everything else out: what the
//! page tells as the story, and the details, are kept apart.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::LifecycleEvent;
use crate::events::{FieldValue, Level};

/// So many lines of the story, and as many details. The page keeps as many.
const KEPT: usize = 120;

/// The last events, by rising numbers.
#[derive(Debug, Default)]
pub(super) struct Story {
    lines: VecDeque<Arc<LifecycleEvent>>,
    details: VecDeque<Arc<LifecycleEvent>>,
    newest: u64,
}

impl Story {
    /// False: it is known.
    pub(super) fn add(&mut self, event: &Arc<LifecycleEvent>) -> bool {
        if event.number <= self.newest {
            return false;
        }
        self.newest = event.number;
        let kept = if is_detail(event) {
            &mut self.details
        } else {
            &mut self.lines
        };
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(event));
        true
    }

    /// All of them, oldest first.
    pub(super) fn events(&self) -> Vec<&LifecycleEvent> {
        let all = self.lines.iter().chain(&self.details);
        let mut all: Vec<&LifecycleEvent> = all.map(Arc::as_ref).collect();
        all.sort_by_key(|event| event.number);
        all
    }
}

impl FromIterator<Arc<LifecycleEvent>> for Story {
    fn from_iter<I: IntoIterator<Item = Arc<LifecycleEvent>>>(events: I) -> Self {
        let mut story = Self::default();
        for event in events {
            story.add(&event);
        }
        story
    }
}

/// Whether it is one of the many small steps on every worker's way in and out.
pub(super) fn is_detail(event: &LifecycleEvent) -> bool {
    let field = |name| event.field(name).unwrap_or_default();
    let is_small = match event.name.as_str() {
        "socket-acquired" | "preloaded" | "image-changed" | "payload-started" | "payload-ended"
        | "worker-exited" => true,
        "worker-phase" => !matches!(&*field("phase"), "serving" | "draining"),
        "connections-handed-on" => {
            matches!(event.fields.get("given"), None | Some(FieldValue::Count(0)))
        }
        _ => false,
    };
    is_small && event.level == Level::Info
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64, name: &str, fields: &serde_json::Value) -> Arc<LifecycleEvent> {
        let event = serde_json::json!({
            "number": number, "time": 1.5, "name": name, "level": "info", "message": "", "worker": 1, "slot": 0,
            "generation": 1, "pid": 7, "fields": fields,
        });
        Arc::new(serde_json::from_value(event).unwrap())
    }

    #[test]
    fn the_details_of_many_workers_push_no_line_of_the_story_out() {
        let mut story = Story::default();
        let none = serde_json::json!({});
        assert!(story.add(&event(1, "reloaded", &none)));
        for number in 2..=1000 {
            story.add(&event(number, "payload-ended", &none));
        }
        let events = story.events();
        assert_eq!(events.len(), 1 + KEPT);
        assert_eq!(events[0].name, "reloaded");
        assert_eq!((events[1].number, events[KEPT].number), (881, 1000));
        assert!(!story.add(&event(1000, "reloaded", &none)), "it is known");
    }

    #[test]
    fn lines_and_details_are_given_in_the_order_in_which_they_happened() {
        let none = serde_json::json!({});
        let names = ["worker-exited", "reloaded", "payload-started", "recycle"];
        let story: Story = (1..)
            .zip(names)
            .map(|(number, name)| event(number, name, &none))
            .collect();
        let told: Vec<_> = story.events().iter().map(|event| &*event.name).collect();
        assert_eq!(told, names);
    }

    #[test]
    fn what_a_reader_of_the_story_wants_to_know_is_no_detail() {
        for (name, fields, detail) in [
            (
                "worker-phase",
                serde_json::json!({"phase": "loading"}),
                true,
            ),
            (
                "worker-phase",
                serde_json::json!({"phase": "serving"}),
                false,
            ),
            (
                "worker-phase",
                serde_json::json!({"phase": "draining"}),
                false,
            ),
            (
                "connections-handed-on",
                serde_json::json!({"given": 0}),
                true,
            ),
            (
                "connections-handed-on",
                serde_json::json!({"given": 2}),
                false,
            ),
            ("lease-granted", serde_json::json!({}), false),
            ("from-the-future", serde_json::json!({}), false),
        ] {
            assert_eq!(is_detail(&event(1, name, &fields)), detail, "{name}");
        }
    }
}
