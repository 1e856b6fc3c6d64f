//! How long a slot stays empty after a failure, and how many failures are too many.

use std::collections::VecDeque;
use std::time::Duration;

use crate::moment::Moment;

/// The crashes of the last while.
#[derive(Debug)]
pub(crate) struct Crashes {
    budget: u32,
    window: Duration,
    recent: VecDeque<Moment>,
}

impl Crashes {
    pub(crate) fn new(budget: u32, window: Duration) -> Self {
        Self {
            budget,
            window,
            recent: VecDeque::new(),
        }
    }

    pub(crate) fn record(&mut self, now: Moment) {
        self.forget(now);
        self.recent.push_back(now);
    }

    pub(crate) fn forget(&mut self, now: Moment) {
        while self
            .recent
            .front()
            .is_some_and(|first| now >= *first + self.window)
        {
            self.recent.pop_front();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.recent.clear();
    }

    pub(crate) fn moments(&self) -> impl Iterator<Item = Moment> {
        self.recent.iter().copied()
    }

    /// As of the last `record` or `forget`.
    pub(crate) fn count(&self) -> usize {
        self.recent.len()
    }

    pub(crate) fn exhausted(&self) -> bool {
        self.recent.len() > usize::try_from(self.budget).unwrap_or(usize::MAX)
    }

    /// When the oldest of them stops to count.
    pub(crate) fn forgotten_at(&self) -> Option<Moment> {
        self.recent.front().map(|first| *first + self.window)
    }
}

/// The wait before attempt `failures + 1` at most: doubling from `initial`, capped at `max`.
pub(crate) fn longest(failures: u32, initial: Duration, max: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    initial.saturating_mul(1 << doublings).min(max)
}

/// A random share of it, between half and all, so that slots that failed together do not come back together.
pub(crate) fn delay(
    failures: u32,
    initial: Duration,
    max: Duration,
    random: &mut Random,
) -> Duration {
    let half = longest(failures, initial, max) / 2;
    half + half.mul_f64(random.fraction())
}

/// A small generator with a seed from outside: splitmix64, good enough for jitter.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In 0.0..1.0.
    pub(crate) fn fraction(&mut self) -> f64 {
        let top = u32::try_from(self.next() >> 32).unwrap_or(0);
        f64::from(top) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_and_is_capped_and_jittered() {
        let (initial, max) = (Duration::from_millis(100), Duration::from_secs(30));
        let mut random = Random::new(1);
        for (failures, full) in [
            (1, 100),
            (2, 200),
            (3, 400),
            (9, 25_600),
            (10, 30_000),
            (99, 30_000),
        ] {
            let full = Duration::from_millis(full);
            let mut seen = Vec::new();
            for _ in 0..100 {
                let delay = delay(failures, initial, max, &mut random);
                assert!(delay >= full / 2 && delay <= full, "{failures}: {delay:?}");
                seen.push(delay);
            }
            seen.dedup();
            assert!(
                seen.len() > 90,
                "the delays of {failures} failures are not jittered"
            );
        }
    }

    #[test]
    fn a_budget_is_per_window() {
        let mut crashes = Crashes::new(2, Duration::from_secs(60));
        let at = |seconds: u64| Moment::from_nanos(seconds * 1_000_000_000);
        crashes.record(at(0));
        crashes.record(at(30));
        assert!(!crashes.exhausted());
        crashes.record(at(59));
        assert!(crashes.exhausted());
        assert_eq!(crashes.forgotten_at(), Some(at(60)));
        crashes.forget(at(60));
        assert!(!crashes.exhausted());
    }
}
