//! Whether messages to another worker wait here, where the arbiter sees it when this process is gone, however it went.

use std::sync::atomic::Ordering::Relaxed;

use crate::ipc::scoreboard::Meter;

/// The bit of one peer in this worker's seat.
pub(super) struct Mark {
    meter: Meter,
    worker: u64,
    /// Where the peer sits. `None`: nowhere, it is gone already.
    seat: Option<usize>,
}

impl Mark {
    /// Of a peer to which nothing waits yet; its seat may have been somebody else's.
    pub(super) fn of(worker: u64, meter: &Meter) -> Self {
        let mut seats = meter.board().seats.iter();
        let mark = Self {
            worker,
            seat: seats.position(|seat| seat.worker.load(Relaxed) == worker),
            meter: meter.clone(),
        };
        mark.set(false);
        mark
    }

    pub(super) fn set(&self, waits: bool) {
        // The next one that sits there has a mark of its own.
        if let Some(seat) = self.seat.filter(|_| self.is_seated()) {
            self.meter.seat().set_unsent(seat, waits);
        }
    }

    /// The peer is there: about to be forked, alive, or dead and not reaped yet.
    pub(super) fn is_seated(&self) -> bool {
        let seats = &self.meter.board().seats;
        self.seat
            .is_some_and(|seat| seats[seat].worker.load(Relaxed) == self.worker)
    }
}
