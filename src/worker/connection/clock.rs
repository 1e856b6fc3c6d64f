//! A connection's one timer.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;

use tokio::time::{Instant, Sleep};

/// Tells whether a deadline has passed, and re-arms its timer as seldom as it can: a deadline that moves
/// away is noticed when the timer fires, so that a request costs no timer operation at all.
pub(super) struct Clock<'a> {
    sleep: Pin<&'a mut Sleep>,
    armed: Option<Instant>,
}

impl<'a> Clock<'a> {
    /// `sleep` has never been polled; what it was made for does not matter.
    pub(super) fn new(sleep: Pin<&'a mut Sleep>) -> Self {
        Self { sleep, armed: None }
    }

    /// Whether a deadline may have passed or none is watched: only then is it worth computing one.
    pub(super) fn wants_deadline(&self) -> bool {
        self.armed.is_none() || self.sleep.is_elapsed()
    }

    /// True when `deadline` has passed. Else the task of `cx` is woken then, or earlier.
    pub(super) fn passed(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        loop {
            if self
                .armed
                .is_none_or(|armed| deadline < armed || self.sleep.is_elapsed())
            {
                self.sleep.as_mut().reset(deadline);
                self.armed = Some(deadline);
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                return false;
            }
            if self.armed.is_some_and(|armed| deadline <= armed) {
                self.armed = None;
                return true;
            }
        }
    }

    /// Nothing is to be watched now: a timer that has fired is forgotten, one that runs may run on.
    pub(super) fn rest(&mut self) {
        if self.sleep.is_elapsed() {
            self.armed = None;
        }
    }
}
