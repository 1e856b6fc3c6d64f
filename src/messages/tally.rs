//! How many messages of which topics somebody has not got, for a place that must not grow.

use std::collections::BTreeMap;
use std::mem::take;

/// More topics, or more bytes of their names with what stands beside each, are counted without names: it fits into one
/// packet of a channel then, whatever the names are.
const MOST_BYTES: usize = 4 * 1024;
const BESIDE: usize = 16;
/// The name that stands for these, as in a [`packet`](super::packet).
const OTHERS: &str = "";

/// Counts by topic; the empty name stands for messages of which the topic is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    counts: BTreeMap<Box<str>, u64>,
    bytes: usize,
}

impl Tally {
    pub(crate) fn add(&mut self, topic: &str, count: u64) {
        let count_of = |name: &str| self.counts.get(name).copied();
        let cost = topic.len() + BESIDE;
        let (name, before) = match count_of(topic) {
            Some(before) => (topic, before),
            None if self.bytes + cost <= MOST_BYTES => {
                self.bytes += cost;
                (topic, 0)
            }
            None => (OTHERS, count_of(OTHERS).unwrap_or(0)),
        };
        self.counts
            .insert(name.into(), before.saturating_add(count));
    }

    /// Messages are missing, and nobody knows which.
    pub(crate) fn add_unknown(&mut self) {
        self.add(OTHERS, 1);
    }

    pub(crate) fn extend(&mut self, list: Vec<(String, u64)>) {
        for (topic, count) in list {
            self.add(&topic, count);
        }
    }

    /// What is in it, which is empty then.
    pub(crate) fn take(&mut self) -> Self {
        take(self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub(crate) fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts.iter().map(|(topic, count)| (&**topic, *count))
    }

    /// As it is sent.
    pub(crate) fn list(&self) -> Vec<(String, u64)> {
        let named = self.counts();
        named
            .map(|(topic, count)| (topic.to_owned(), count))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::channel::{Packet, Report};

    #[test]
    fn topics_are_counted_each_by_itself() {
        let mut tally = Tally::default();
        assert!(tally.is_empty());
        tally.extend(vec![("b".to_owned(), 2), ("a".to_owned(), 1)]);
        tally.add("b", 3);
        tally.add_unknown();
        let list: Vec<(&str, u64)> = tally.counts().collect();
        assert_eq!(list, [("", 1), ("a", 1), ("b", 5)]);
        assert!(!tally.take().is_empty() && tally.is_empty());
    }

    /// JSON writes a control character as six.
    #[test]
    fn of_too_many_topics_the_rest_has_no_names_and_it_fits_into_a_packet() {
        for length in [1, 3, 200] {
            let mut tally = Tally::default();
            for number in 0..5_000_u32 {
                tally.add(&format!("{number:\u{1}>length$}"), u64::from(u32::MAX));
            }
            let total: u64 = tally.counts().map(|(_, count)| count).sum();
            assert_eq!(total, 5_000 * u64::from(u32::MAX), "none is forgotten");
            assert!(tally.counts().any(|(topic, _)| topic == OTHERS));
            let topics = tally.list();
            let packet = Packet::of(&Report::Unsent { worker: 1, topics }).unwrap();
            assert!(packet.bytes().len() < 32 * 1024, "{length}");
        }
        let mut tally = Tally::default();
        tally.add("a", u64::MAX);
        tally.add("a", 1);
        assert_eq!(tally.list(), [("a".to_owned(), u64::MAX)]);
    }
}
