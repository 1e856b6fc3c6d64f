//! Latencies, each kept to a part in 32.

use std::time::Duration;

use serde::Serialize;

/// Buckets in each doubling of the value.
const STEPS: u64 = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();

#[derive(Clone, Default)]
pub(crate) struct Histogram {
    /// By microseconds: one bucket for each up to `2 * STEPS`, then twice as wide with each doubling.
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

/// What a report says of a histogram, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Histogram {
    pub(crate) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let index = usize::try_from(index(micros)).unwrap_or(usize::MAX);
        if self.buckets.len() <= index {
            self.buckets.resize(index + 1, 0);
        }
        self.buckets[index] += 1;
        self.count += 1;
        self.max = self.max.max(latency);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    pub(crate) fn latency(&self) -> Latency {
        let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
        Latency {
            count: self.count,
            p50: millis(self.quantile(50)),
            p99: millis(self.quantile(99)),
            max: millis(self.max),
        }
    }

    /// The least value that `percent` of all do not exceed, rounded up to the end of its bucket.
    fn quantile(&self, percent: u64) -> Duration {
        let rank = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        for (index, count) in (0..).zip(&self.buckets) {
            seen += count;
            if *count > 0 && seen >= rank {
                return Duration::from_micros(highest(index)).min(self.max);
            }
        }
        self.max
    }
}

fn index(micros: u64) -> u64 {
    let shift = (u64::BITS - (micros | STEPS).leading_zeros()) - STEP_BITS - 1;
    u64::from(shift) * STEPS + (micros >> shift)
}

fn highest(index: u64) -> u64 {
    let shift = (index / STEPS).saturating_sub(1);
    let step = index - shift * STEPS;
    (step << shift) + ((1 << shift) - 1)
}
