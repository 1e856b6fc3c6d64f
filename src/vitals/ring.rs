//! The last samples, oldest first.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::sample::Sample;

/// A sample's place among all: the lease that it was taken under, then its number under that lease. It rises whoever
/// samples, and whatever the wall clock does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) epoch: u64,
    pub(crate) number: u64,
}

/// A sample, at its place.
pub(crate) type Placed = (Place, Arc<Sample>);

/// Holds a fixed number of samples; a new one takes the place of the oldest.
#[derive(Debug)]
pub(crate) struct Ring {
    samples: VecDeque<Placed>,
    capacity: usize,
}

impl Ring {
    /// A ring holds at least one sample.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            samples: VecDeque::new(),
            capacity: capacity.max(1),
        }
    }

    /// Puts the sample to its place, unless it is there or older than all for which there is room.
    pub(crate) fn add(&mut self, place: Place, sample: Arc<Sample>) {
        let at = self.index_after(place);
        let is_there = at > 0
            && self
                .samples
                .get(at - 1)
                .is_some_and(|(known, _)| *known == place);
        if is_there || (at == 0 && self.samples.len() >= self.capacity) {
            return;
        }
        self.samples.insert(at, (place, sample));
        if self.samples.len() > self.capacity {
            self.samples.pop_front();
        }
    }

    pub(crate) fn latest(&self) -> Option<Placed> {
        self.samples.back().cloned()
    }

    /// The place of the oldest.
    pub(crate) fn oldest(&self) -> Option<Place> {
        self.samples.front().map(|(place, _)| *place)
    }

    /// The place of the latest.
    pub(crate) fn newest(&self) -> Option<Place> {
        self.samples.back().map(|(place, _)| *place)
    }

    pub(crate) fn len(&self) -> usize {
        self.samples.len()
    }

    /// The newest `count` samples.
    pub(crate) fn last(&self, count: usize) -> Vec<Placed> {
        let skip = self.samples.len().saturating_sub(count);
        self.samples.iter().skip(skip).cloned().collect()
    }

    /// The samples with a time after `time`. The wall clock may have been set back in between, so that the ring need
    /// not be sorted by it.
    pub(crate) fn since(&self, time: f64) -> Vec<Placed> {
        let samples = self.samples.iter();
        samples
            .filter(|(_, sample)| sample.time > time)
            .cloned()
            .collect()
    }

    /// Those behind that place, or all.
    pub(crate) fn after(&self, place: Option<Place>) -> Vec<Placed> {
        let skip = place.map_or(0, |place| self.index_after(place));
        self.samples.iter().skip(skip).cloned().collect()
    }

    fn index_after(&self, place: Place) -> usize {
        self.samples.partition_point(|(known, _)| *known <= place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(epoch: u64, number: u64) -> Place {
        Place { epoch, number }
    }

    fn ring(capacity: usize, times: impl IntoIterator<Item = u32>) -> Ring {
        let mut ring = Ring::new(capacity);
        for (number, time) in (0..).zip(times) {
            ring.add(place(1, number), Arc::new(Sample::at(f64::from(time))));
        }
        ring
    }

    fn times(samples: &[Placed]) -> Vec<f64> {
        samples.iter().map(|(_, sample)| sample.time).collect()
    }

    #[test]
    fn the_oldest_makes_room() {
        let ring = ring(3, 1..=5);
        assert_eq!(times(&ring.last(usize::MAX)), [3.0, 4.0, 5.0]);
        assert_eq!(ring.latest().unwrap().1.time, 5.0);
    }

    #[test]
    fn the_newest_are_asked_for_by_number_or_by_time() {
        let ring = ring(10, 1..=5);
        assert_eq!(times(&ring.last(2)), [4.0, 5.0]);
        assert_eq!(times(&ring.last(0)), [0.0; 0]);
        assert_eq!(times(&ring.since(3.0)), [4.0, 5.0]);
        assert_eq!(times(&ring.since(9.0)), [0.0; 0]);
    }

    #[test]
    fn an_empty_ring_answers_with_nothing() {
        let ring = Ring::new(0);
        assert!(ring.latest().is_none() && ring.last(3).is_empty() && ring.since(0.0).is_empty());
    }

    #[test]
    fn a_clock_that_was_set_back_hides_no_sample() {
        let ring = ring(10, [10, 11, 5, 6]);
        assert_eq!(times(&ring.since(4.0)), [10.0, 11.0, 5.0, 6.0]);
        assert_eq!(times(&ring.since(10.0)), [11.0]);
    }

    #[test]
    fn what_comes_later_and_belongs_before_goes_to_its_place_once() {
        let mut ring = Ring::new(4);
        let mut add = |epoch, number, time| {
            ring.add(place(epoch, number), Arc::new(Sample::at(time)));
            times(&ring.last(9))
        };
        add(7, 0, 5.0);
        add(7, 1, 6.0);
        assert_eq!(add(3, 9, 4.0), [4.0, 5.0, 6.0]);
        assert_eq!(add(3, 8, 3.0), [3.0, 4.0, 5.0, 6.0]);
        assert_eq!(add(3, 9, 9.0), [3.0, 4.0, 5.0, 6.0], "it is known");
        assert_eq!(
            add(3, 7, 2.0),
            [3.0, 4.0, 5.0, 6.0],
            "there is no room for it"
        );
        assert_eq!(add(7, 2, 7.0), [4.0, 5.0, 6.0, 7.0]);
        let behind: Vec<_> = ring
            .after(Some(place(7, 0)))
            .into_iter()
            .map(|(p, _)| p.number)
            .collect();
        assert_eq!(behind, [1, 2]);
        assert_eq!(ring.after(None).len(), 4);
    }
}
