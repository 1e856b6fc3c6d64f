//! Which process writes, and what it could not write. One per process, shared by its threads.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Who a log record comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessIdentity {
    Arbiter,
    Worker {
        /// Unique in the service's life, from 1.
        worker: u64,
        slot: u32,
        generation: u32,
    },
}

/// The state that every record of a process looks at. Atomics only, so that a fork in any moment leaves
/// nothing locked behind.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// 0: the arbiter.
    worker: AtomicU64,
    slot: AtomicU32,
    generation: AtomicU32,
    drops: AtomicU64,
    /// Drops that no record has told of yet.
    untold: AtomicU64,
}

impl Process {
    /// After a fork: another identity, and nothing dropped yet.
    pub(super) fn become_process(&self, identity: ProcessIdentity) {
        let (worker, slot, generation) = match identity {
            ProcessIdentity::Arbiter => (0, 0, 0),
            ProcessIdentity::Worker {
                worker,
                slot,
                generation,
            } => (worker, slot, generation),
        };
        self.slot.store(slot, Relaxed);
        self.generation.store(generation, Relaxed);
        self.worker.store(worker, Relaxed);
        self.drops.store(0, Relaxed);
        self.untold.store(0, Relaxed);
    }

    pub(super) fn identity(&self) -> ProcessIdentity {
        match self.worker.load(Relaxed) {
            0 => ProcessIdentity::Arbiter,
            worker => ProcessIdentity::Worker {
                worker,
                slot: self.slot.load(Relaxed),
                generation: self.generation.load(Relaxed),
            },
        }
    }

    /// Counts the outcome of writing one record. When records flow again, `tell` writes one record about
    /// those that were lost, and says whether that went through.
    pub(super) fn written(&self, went_through: bool, tell: impl FnOnce(u64) -> bool) {
        if !went_through {
            self.drops.fetch_add(1, Relaxed);
            self.untold.fetch_add(1, Relaxed);
            return;
        }
        if self.untold.load(Relaxed) == 0 {
            return;
        }
        let lost = self.untold.swap(0, Relaxed);
        if lost > 0 && !tell(lost) {
            self.untold.fetch_add(lost, Relaxed);
        }
    }

    /// Records dropped in this process.
    pub(super) fn drops(&self) -> u64 {
        self.drops.load(Relaxed)
    }
}

/// The sentence of the record that [`Process::written`] asks for.
pub(super) const DROPPED: &str = "log records were dropped because nobody took them";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_told_once_when_records_flow_again() {
        let process = Process::default();
        let mut told = Vec::new();
        let mut tell = |lost| {
            told.push(lost);
            told.len() > 1
        };
        for went_through in [true, false, false, true, true, true] {
            process.written(went_through, &mut tell);
        }
        assert_eq!(
            told,
            [2, 2],
            "the first telling was lost too, the second was not"
        );
        assert_eq!(process.drops(), 2);
    }

    #[test]
    fn a_forked_worker_starts_with_nothing_dropped() {
        let process = Process::default();
        process.written(false, |_| true);
        let worker = ProcessIdentity::Worker {
            worker: 7,
            slot: 1,
            generation: 2,
        };
        process.become_process(worker);
        assert_eq!(process.identity(), worker);
        assert_eq!(process.drops(), 0);
        process.written(true, |_| panic!("nothing was lost in this process"));
    }
}
