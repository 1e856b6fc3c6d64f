//! How many machines there are at a time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Each machine takes a good part of the kernel's default of 128 inotify instances per user.
const MACHINES_AT_ONCE: u32 = 4;

/// The right to have a machine.
pub(crate) struct Turn;

static TAKEN: Mutex<u32> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

impl Turn {
    /// Waits for one.
    pub(crate) fn take() -> Self {
        let mut taken = Self::taken();
        while *taken == MACHINES_AT_ONCE {
            taken = FREED.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += 1;
        Turn
    }

    fn taken() -> MutexGuard<'static, u32> {
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *Self::taken() -= 1;
        FREED.notify_one();
    }
}
