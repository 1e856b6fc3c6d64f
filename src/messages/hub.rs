//! The topics that somebody in this worker has subscribed to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::ring::Ring;
use super::{Lagged, Message, Tally};

/// Every topic in it has a reader. Locked before any of their rings.
#[derive(Debug, Default)]
pub(crate) struct Hub(Mutex<HashMap<Arc<str>, Arc<Topic>>>);

#[derive(Debug)]
pub(super) struct Topic {
    name: Arc<str>,
    ring: Mutex<Ring>,
    /// Told after each change of the ring that a reader may wait for.
    news: Arc<Notify>,
}

impl Hub {
    /// A message has come; `bytes` is called if anybody wants it.
    pub(crate) fn deliver(&self, worker: u64, topic: &str, bytes: impl FnOnce() -> Bytes) {
        if let Some(topic) = self.find(topic) {
            topic.change(|ring| {
                ring.push(Message {
                    topic: Arc::clone(&topic.name),
                    bytes: bytes(),
                    worker,
                });
            });
        }
    }

    /// So many messages of this topic did not come.
    pub(crate) fn miss(&self, topic: &str, count: u64) {
        if let Some(topic) = self.find(topic) {
            topic.change(|ring| ring.skip(count));
        }
    }

    /// Messages did not come, and it is not known of which topics.
    pub(crate) fn miss_somewhere(&self) {
        let topics: Vec<_> = self.topics().values().cloned().collect();
        for topic in topics {
            topic.change(|ring| ring.skip(1));
        }
    }

    /// All that is in it did not come.
    pub(crate) fn miss_all(&self, tally: &Tally) {
        for (topic, count) in tally.counts() {
            match topic {
                "" => self.miss_somewhere(),
                topic => self.miss(topic, count),
            }
        }
    }

    pub(super) fn join(&self, name: &str) -> (Arc<Topic>, u64) {
        let mut topics = self.topics();
        let topic = match topics.get(name) {
            Some(topic) => Arc::clone(topic),
            None => {
                let topic = Arc::new(Topic::new(name));
                topics.insert(Arc::clone(&topic.name), Arc::clone(&topic));
                topic
            }
        };
        let next = topic.ring().join();
        (topic, next)
    }

    pub(super) fn leave(&self, topic: &Topic, next: u64) {
        let mut topics = self.topics();
        let mut ring = topic.ring();
        ring.leave(next);
        if !ring.has_readers() {
            topics.remove(&topic.name);
        }
    }

    fn find(&self, topic: &str) -> Option<Arc<Topic>> {
        self.topics().get(topic).cloned()
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Topic>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Topic {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            ring: Mutex::default(),
            news: Arc::default(),
        }
    }

    pub(super) fn take(&self, next: &mut u64) -> Option<Result<Message, Lagged>> {
        self.ring().take(next)
    }

    pub(super) fn news(&self) -> OwnedNotified {
        Arc::clone(&self.news).notified_owned()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Those who wait are woken when the ring is free again.
    fn change(&self, change: impl FnOnce(&mut Ring)) {
        change(&mut self.ring());
        self.news.notify_waiters();
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
