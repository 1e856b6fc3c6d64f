//! Shared memory with one record per worker process, which the worker writes and anybody reads.
//!
//! A slot can have two workers for a moment (a replacement is prepared before the old one leaves), so a
//! record is a *seat*: taken by one worker for its whole life, given back when the arbiter has reaped it.
//! Only atomics; each field has one writer, the arbiter or the seat's worker, as its comment says.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::moment::Moment;
use crate::status::PAYLOADS;
use crate::sys::diagnosis::Area;
use crate::sys::memory::{Shared, shareable};
use crate::worker::phase::Phase;

/// How many workers can live at the same time: serving, being prepared and draining together.
pub(crate) const SEATS: usize = 512;
/// Latency buckets: bucket `b` counts requests that took less than 2^b microseconds (and at least
/// 2^(b-1)); the last takes the rest.
pub(crate) const BUCKETS: usize = 28;

shareable! {
    /// The whole mapping.
    pub(crate) struct Board {
        pub(crate) header: Header,
        pub(crate) seats: [Seat; SEATS],
        /// Where a stuck worker's threads leave their traces.
        pub(crate) traces: [Area; SEATS],
    }
}

shareable! {
    /// Written by the arbiter only.
    #[repr(align(128))]
    pub(crate) struct Header {
        pub(crate) arbiter_pid: AtomicU32,
        /// [`crate::status::ServiceState`] as a number.
        pub(crate) state: AtomicU8,
        pub(crate) generation: AtomicU32,
        /// How many slots there should be.
        pub(crate) workers: AtomicU32,
        /// Nanoseconds of CLOCK_MONOTONIC.
        pub(crate) started: AtomicU64,
        pub(crate) log_drops: AtomicU64,
        /// The number of the youngest worker, before it is forked and after its seat is taken: who publishes sees by it
        /// that somebody is there of whom he has not been told yet. It stands where there was padding.
        pub(crate) youngest: AtomicU64,
    }
}

shareable! {
    /// One worker's record, padded so that no two workers write the same pair of cache lines.
    #[repr(align(128))]
    pub(crate) struct Seat {
        // The arbiter writes these.
        /// The worker's number, unique in the service's life; 0: the seat is free.
        pub(crate) worker: AtomicU64,
        pub(crate) pid: AtomicU32,
        pub(crate) slot: AtomicU32,
        pub(crate) generation: AtomicU32,
        /// How often this slot's worker was replaced after a failure.
        pub(crate) restarts: AtomicU32,
        /// Bytes of proportional set size, as last measured.
        pub(crate) memory: AtomicU64,

        // The worker writes the rest.
        pub(crate) phase: AtomicU8,
        /// Nanoseconds of CLOCK_MONOTONIC.
        pub(crate) phase_since: AtomicU64,
        /// The last heartbeat, nanoseconds of CLOCK_MONOTONIC.
        pub(crate) beat: AtomicU64,
        /// Calls of `load`, of startup and of teardown: 0 or 1 each, and the proof of it.
        pub(crate) loads: AtomicU32,
        pub(crate) starts: AtomicU32,
        pub(crate) stops: AtomicU32,
        pub(crate) connections: AtomicU64,
        pub(crate) accepted: AtomicU64,
        /// Connections handed on to other workers, and taken over from them.
        pub(crate) given: AtomicU64,
        pub(crate) received: AtomicU64,
        pub(crate) in_flight: AtomicU64,
        pub(crate) requests: AtomicU64,
        /// Handlers that panicked.
        pub(crate) panics: AtomicU64,
        pub(crate) bytes_in: AtomicU64,
        pub(crate) bytes_out: AtomicU64,
        pub(crate) log_drops: AtomicU64,
        pub(crate) latency: [AtomicU64; BUCKETS],
        /// [`crate::status::PayloadState`] as numbers, in the order of registration.
        pub(crate) payload_states: [AtomicU8; PAYLOADS],
        pub(crate) payload_restarts: [AtomicU32; PAYLOADS],
        /// What the app declares busy: the service must not leave for idleness.
        pub(crate) busy: AtomicU64,
        /// The seats, by bit, to whose workers this one has still to send messages; the arbiter clears the bit of a seat
        /// that somebody else takes, and each writes one bit at a time. It stands where there was padding:
        /// programs that do not know it leave it alone.
        pub(crate) unsent: [AtomicU64; SEATS / 64],
    }
}

/// The mapping, shared by every thread of a process.
pub(crate) type Scoreboard = Arc<Shared<Board>>;

/// Makes the service's scoreboard.
///
/// # Errors
/// No memory, no file descriptor.
pub(crate) fn create() -> io::Result<Scoreboard> {
    Shared::new("payload-scoreboard").map(Arc::new)
}

/// Takes over the scoreboard that another image of this program has made.
///
/// # Errors
/// It has another size, or cannot be mapped.
pub(crate) fn adopt(fd: OwnedFd) -> io::Result<Scoreboard> {
    Shared::adopt(fd).map(Arc::new)
}

impl Seat {
    /// Forgets the last worker. Only while nobody sits here.
    pub(crate) fn clear(&self) {
        self.worker.store(0, Relaxed);
        for field in [
            &self.memory,
            &self.phase_since,
            &self.beat,
            &self.connections,
            &self.accepted,
            &self.given,
            &self.received,
            &self.in_flight,
            &self.requests,
            &self.panics,
            &self.bytes_in,
            &self.bytes_out,
            &self.log_drops,
            &self.busy,
        ] {
            field.store(0, Relaxed);
        }
        for field in [
            &self.pid,
            &self.slot,
            &self.generation,
            &self.restarts,
            &self.loads,
            &self.starts,
            &self.stops,
        ] {
            field.store(0, Relaxed);
        }
        self.phase.store(0, Relaxed);
        for seats in &self.unsent {
            seats.store(0, Relaxed);
        }
        for bucket in &self.latency {
            bucket.store(0, Relaxed);
        }
        for state in &self.payload_states {
            state.store(0, Relaxed);
        }
        for count in &self.payload_restarts {
            count.store(0, Relaxed);
        }
    }

    pub(crate) fn phase(&self) -> Option<Phase> {
        Phase::from_u8(self.phase.load(Relaxed))
    }

    /// Notes whether messages to the worker in that seat wait here.
    pub(crate) fn set_unsent(&self, seat: usize, waits: bool) {
        let (word, bit) = (&self.unsent[seat % SEATS / 64], 1 << (seat % 64));
        if waits {
            word.fetch_or(bit, Relaxed);
        } else {
            word.fetch_and(!bit, Relaxed);
        }
    }

    pub(crate) fn has_unsent(&self, seat: usize) -> bool {
        self.unsent[seat % SEATS / 64].load(Relaxed) & (1 << (seat % 64)) != 0
    }

    pub(crate) fn last_beat(&self) -> Moment {
        Moment::from_nanos(self.beat.load(Relaxed))
    }
}

/// A worker's own seat: what its runtime, its connections and its app write to.
#[derive(Clone)]
pub(crate) struct Meter {
    board: Scoreboard,
    seat: usize,
}

impl Meter {
    /// `seat` is taken modulo [`SEATS`], so that no number can reach beyond the mapping.
    pub(crate) fn new(board: Scoreboard, seat: usize) -> Self {
        Self {
            board,
            seat: seat % SEATS,
        }
    }

    pub(crate) fn seat(&self) -> &Seat {
        &self.board.seats[self.seat]
    }

    pub(crate) fn board(&self) -> &Scoreboard {
        &self.board
    }

    /// Where this worker's threads leave their traces. The mapping is kept for the rest of the process's life.
    pub(crate) fn traces(&self) -> &'static Area {
        let board: &'static Shared<Board> = Box::leak(Box::new(self.board.clone()));
        &board.traces[self.seat]
    }

    pub(crate) fn beat(&self, now: Moment) {
        self.seat().beat.store(now.as_nanos(), Relaxed);
    }

    pub(crate) fn enter(&self, phase: Phase, now: Moment) {
        let seat = self.seat();
        seat.phase_since.store(now.as_nanos(), Relaxed);
        seat.phase.store(phase as u8, Relaxed);
    }

    pub(crate) fn connection_opened(&self) {
        self.seat().accepted.fetch_add(1, Relaxed);
        self.seat().connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn connection_received(&self) {
        self.seat().received.fetch_add(1, Relaxed);
        self.seat().connections.fetch_add(1, Relaxed);
    }

    /// It still counts as open until [`connection_closed`](Self::connection_closed).
    pub(crate) fn connection_given(&self) {
        self.seat().given.fetch_add(1, Relaxed);
    }

    pub(crate) fn connection_closed(&self) {
        self.seat().connections.fetch_sub(1, Relaxed);
    }

    pub(crate) fn request_started(&self) {
        self.seat().in_flight.fetch_add(1, Relaxed);
    }

    /// The response's last byte is with hyper, or the request was given up.
    pub(crate) fn request_ended(&self, took: Duration) {
        let seat = self.seat();
        seat.in_flight.fetch_sub(1, Relaxed);
        seat.requests.fetch_add(1, Relaxed);
        seat.latency[bucket(took)].fetch_add(1, Relaxed);
    }

    pub(crate) fn handler_panicked(&self) {
        self.seat().panics.fetch_add(1, Relaxed);
    }

    pub(crate) fn bytes(&self, read: u64, written: u64) {
        if read > 0 {
            self.seat().bytes_in.fetch_add(read, Relaxed);
        }
        if written > 0 {
            self.seat().bytes_out.fetch_add(written, Relaxed);
        }
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let bits = usize::try_from(u64::BITS - micros.leading_zeros()).unwrap_or(BUCKETS);
    bits.min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_took_less_than_its_power_of_two() {
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::from_micros(1)), 1);
        assert_eq!(bucket(Duration::from_micros(1023)), 10);
        assert_eq!(bucket(Duration::from_micros(1024)), 11);
        assert_eq!(bucket(Duration::from_secs(86_400)), BUCKETS - 1);
    }

    #[test]
    fn seats_do_not_share_cache_lines() {
        assert_eq!(align_of::<Seat>(), 128);
        assert_eq!(size_of::<Seat>() % 128, 0);
    }

    /// Of one that has grown no program that is out there would take the service over.
    #[test]
    fn header_and_seat_are_as_large_as_ever() {
        assert_eq!(size_of::<Header>(), 128);
        assert_eq!(size_of::<Seat>(), 640);
    }

    #[test]
    fn each_seat_has_its_own_bit() {
        let board = create().unwrap();
        let seat = &board.seats[3];
        let marked = [0, 3, 63, 64, 200, SEATS - 1];
        for other in marked {
            seat.set_unsent(other, true);
        }
        let is_marked: Vec<usize> = (0..SEATS).filter(|other| seat.has_unsent(*other)).collect();
        assert_eq!(is_marked, marked);
        seat.set_unsent(64, false);
        assert!(!seat.has_unsent(64) && seat.has_unsent(63) && seat.has_unsent(0));
        seat.clear();
        assert!((0..SEATS).all(|other| !seat.has_unsent(other)));
    }

    #[test]
    fn a_cleared_seat_remembers_nothing() {
        let board = create().unwrap();
        let meter = Meter::new(board.clone(), 3);
        board.seats[3].worker.store(7, Relaxed);
        meter.connection_opened();
        meter.request_started();
        meter.request_ended(Duration::from_millis(3));
        meter.enter(Phase::Serving, Moment::from_nanos(5));
        assert_eq!(board.seats[3].requests.load(Relaxed), 1);
        assert_eq!(board.seats[2].requests.load(Relaxed), 0);
        board.seats[3].clear();
        assert_eq!(board.seats[3].requests.load(Relaxed), 0);
        assert_eq!(board.seats[3].connections.load(Relaxed), 0);
        assert_eq!(board.seats[3].phase(), None);
    }
}
