//! Reading the clock.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC. The call cannot fail for this clock on Linux; 0 if it did.
pub(crate) fn monotonic_nanos() -> u64 {
    nanos(ClockId::CLOCK_MONOTONIC)
}

/// Seconds since 1970, to the microsecond.
pub(crate) fn unix_seconds() -> f64 {
    Duration::from_micros(unix_micros()).as_secs_f64()
}

/// Microseconds since 1970, by the machine's clock; 0 where that stands before.
pub(crate) fn unix_micros() -> u64 {
    nanos(ClockId::CLOCK_REALTIME) / 1000
}

fn nanos(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
    })
}
