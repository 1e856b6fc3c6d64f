//! The last events, oldest first.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::LifecycleEvent;
use crate::lenient;

/// How many are kept.
const KEPT: usize = 256;

/// Holds the last events, by rising numbers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
pub(crate) struct Ring {
    events: VecDeque<Arc<LifecycleEvent>>,
    newest: u64,
}

/// As it goes from one image of the arbiter to the next.
#[derive(Serialize, Deserialize)]
struct Saved {
    #[serde(deserialize_with = "lenient::list")]
    events: Vec<LifecycleEvent>,
    newest: u64,
}

impl Ring {
    /// An empty one, of which the first event gets the number after this.
    pub(crate) fn starting_after(newest: u64) -> Self {
        Self {
            events: VecDeque::new(),
            newest,
        }
    }

    /// Gives the event its number.
    pub(crate) fn push(&mut self, mut event: LifecycleEvent) {
        event.number = self.newest.saturating_add(1);
        self.add(Arc::new(event));
    }

    /// Takes over one that has its number. One that is not newer than all others is known already.
    pub(crate) fn add(&mut self, event: Arc<LifecycleEvent>) {
        if event.number <= self.newest {
            return;
        }
        self.newest = event.number;
        if self.events.len() >= KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// So many events did not come: they have their numbers, and nobody gets them.
    pub(crate) fn skip(&mut self, count: u64) {
        self.newest = self.newest.saturating_add(count);
    }

    /// The number of the last event there was.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// The number of the first that is kept, or of the first that will be.
    pub(crate) fn oldest(&self) -> u64 {
        let next = self.newest.saturating_add(1);
        self.events.front().map_or(next, |event| event.number)
    }

    pub(crate) fn first_after(&self, number: u64) -> Option<Arc<LifecycleEvent>> {
        self.events.get(self.place_after(number)).cloned()
    }

    /// All that are newer.
    pub(crate) fn after(&self, number: u64) -> Vec<Arc<LifecycleEvent>> {
        let newer = self.events.iter().skip(self.place_after(number));
        newer.cloned().collect()
    }

    fn place_after(&self, number: u64) -> usize {
        self.events.partition_point(|event| event.number <= number)
    }
}

impl From<Ring> for Saved {
    fn from(ring: Ring) -> Self {
        let events = ring.events.into_iter();
        Self {
            events: events.map(Arc::unwrap_or_clone).collect(),
            newest: ring.newest,
        }
    }
}

impl From<Saved> for Ring {
    fn from(saved: Saved) -> Self {
        let mut ring = Self::default();
        let events = saved.events.into_iter().map(Arc::new);
        events.for_each(|event| ring.add(event));
        ring.newest = ring.newest.max(saved.newest);
        ring
    }
}
