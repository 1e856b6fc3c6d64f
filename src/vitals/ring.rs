//! The last samples, oldest first.

use std::collections::VecDeque;
use std::sync::Arc;

use super::sample::Sample;

/// Holds a fixed number of samples; a new one takes the place of the oldest.
#[derive(Debug)]
pub(crate) struct Ring {
    samples: VecDeque<Arc<Sample>>,
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

    pub(crate) fn push(&mut self, sample: Arc<Sample>) {
        while self.samples.len() >= self.capacity {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    pub(crate) fn latest(&self) -> Option<Arc<Sample>> {
        self.samples.back().cloned()
    }

    /// The newest `count` samples.
    pub(crate) fn last(&self, count: usize) -> Vec<Arc<Sample>> {
        let skip = self.samples.len().saturating_sub(count);
        self.samples.iter().skip(skip).cloned().collect()
    }

    /// The samples taken after `time`. The wall clock may have been set back in between, so that the ring
    /// need not be sorted by it.
    pub(crate) fn since(&self, time: f64) -> Vec<Arc<Sample>> {
        self.samples
            .iter()
            .filter(|sample| sample.time > time)
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(capacity: usize, times: impl IntoIterator<Item = u32>) -> Ring {
        let mut ring = Ring::new(capacity);
        for time in times {
            ring.push(Arc::new(Sample::at(f64::from(time))));
        }
        ring
    }

    fn times(samples: &[Arc<Sample>]) -> Vec<f64> {
        samples.iter().map(|sample| sample.time).collect()
    }

    #[test]
    fn the_oldest_makes_room() {
        let ring = ring(3, 1..=5);
        assert_eq!(times(&ring.last(usize::MAX)), [3.0, 4.0, 5.0]);
        assert_eq!(ring.latest().unwrap().time, 5.0);
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
}
