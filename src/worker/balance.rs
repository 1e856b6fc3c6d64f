//! Which worker should let the others go first.
//!
//! The listener's queue deals connections in turn to workers that wait. In a burst nobody waits: whoever
//! has the processor takes one after the other. So a worker that is clearly ahead of the others pauses.
//!
//! It pauses briefly, since new connections must not wait for a worker that is blocked. One that has no processor
//! for the whole of a short burst gets nothing of it, then. It is not starved: it keeps its place in the queue,
//! where everybody who takes one goes behind it, so that it is dealt one of the next as soon as it waits.

use std::sync::atomic::Ordering::Relaxed;

use crate::ipc::scoreboard::Meter;
use crate::worker::phase::Phase;

/// With fewer connections than this nobody looks at the others.
const FEW: u64 = 8;
/// A worker is ahead from this many connections above the mean, or this part of the mean.
const SLACK: u64 = 2;
const PART: u64 = 32;

/// Whether the worker of this seat has clearly more connections than the serving workers have on average.
pub(super) fn is_ahead(meter: &Meter) -> bool {
    let own = meter.seat().connections.load(Relaxed);
    if own < FEW {
        return false;
    }
    let board = meter.board();
    let expected = u64::from(board.header.workers.load(Relaxed));
    let (mut workers, mut total) = (0, 0);
    for seat in &board.seats {
        if seat.phase.load(Relaxed) == Phase::Serving as u8 {
            workers += 1;
            total += seat.connections.load(Relaxed);
            if workers == expected {
                break;
            }
        }
    }
    decide(own, total, workers)
}

fn decide(own: u64, total: u64, workers: u64) -> bool {
    if workers < 2 {
        return false;
    }
    let mean = total / workers;
    own > mean + SLACK.max(mean / PART)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::scoreboard::create;

    #[test]
    fn a_worker_is_ahead_only_when_it_is_clearly_above_the_mean() {
        assert!(!decide(100, 400, 4));
        assert!(!decide(103, 400, 4));
        assert!(decide(104, 400, 4));
        assert!(!decide(12, 40, 4));
        assert!(decide(13, 40, 4));
        assert!(!decide(1000, 1000, 1), "there is nobody to go first");
        assert!(!decide(1000, 0, 0));
    }

    #[test]
    fn only_workers_that_serve_are_counted() {
        let board = create().unwrap();
        board.header.workers.store(2, Relaxed);
        let set = |seat: usize, phase: Phase, connections| {
            board.seats[seat].phase.store(phase as u8, Relaxed);
            board.seats[seat].connections.store(connections, Relaxed);
        };
        set(0, Phase::Draining, 0);
        set(1, Phase::Serving, 100);
        set(2, Phase::Prepared, 0);
        let meter = Meter::new(board.clone(), 1);
        assert!(!is_ahead(&meter), "the only one that serves");
        set(3, Phase::Serving, 50);
        assert!(is_ahead(&meter));
        set(3, Phase::Serving, 99);
        assert!(!is_ahead(&meter));
        set(1, Phase::Serving, 7);
        set(3, Phase::Serving, 0);
        assert!(!is_ahead(&meter), "too few to matter");
    }
}
