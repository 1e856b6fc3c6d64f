//! Whether the worker accepts connections: an order can have all of its acceptors hold for a while.
//!
//! Between a look at the scoreboard and what follows from it a worker may accept one more connection. So the
//! arbiter has every worker hold first and looks then. "All hold" must be true when it is said: an acceptor comes
//! and goes under one lock, and has no accept under way when it comes.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// One worker's gate. Whoever closes or opens it has the acceptors look at it then.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// A hint for those who pass: the truth is under the lock.
    closed: AtomicBool,
    state: Mutex<State>,
    all_hold: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the order to hold; `None`: the gate is open.
    round: Option<u64>,
    /// It was told that all hold.
    told: bool,
    acceptors: usize,
    holding: usize,
}

impl Gate {
    /// One more acceptor passes here.
    pub(super) fn add(&self) {
        self.state().acceptors += 1;
    }

    /// Has every acceptor hold that looks from now on. Those that hold already go on holding.
    pub(super) fn close(&self, round: u64) {
        let mut state = self.state();
        state.round = Some(round);
        state.told = false;
        self.closed.store(true, Relaxed);
        self.say_if_all_hold(&state);
    }

    pub(super) fn open(&self) {
        self.state().round = None;
        self.closed.store(false, Relaxed);
    }

    /// Cheap. An acceptor that misses an order to hold is not counted as holding.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// An acceptor holds from now on, if it must. It has no accept under way.
    pub(super) fn hold(&self) -> bool {
        let mut state = self.state();
        if state.round.is_none() {
            return false;
        }
        state.holding += 1;
        self.say_if_all_hold(&state);
        true
    }

    /// An acceptor that holds goes on, if it may.
    pub(super) fn pass(&self) -> bool {
        let mut state = self.state();
        if state.round.is_some() {
            return false;
        }
        state.holding -= 1;
        true
    }

    /// Resolves with the number of the order when every acceptor holds, once for each order. Cancel-safe.
    pub(super) async fn all_hold(&self) -> u64 {
        loop {
            let changed = self.all_hold.notified();
            if let Some(round) = self.tell() {
                return round;
            }
            changed.await;
        }
    }

    fn tell(&self) -> Option<u64> {
        let mut state = self.state();
        let round = state.round.filter(|_| state.all_hold() && !state.told)?;
        state.told = true;
        Some(round)
    }

    fn say_if_all_hold(&self, state: &State) {
        if state.round.is_some() && state.all_hold() {
            self.all_hold.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn all_hold(&self) -> bool {
        self.holding == self.acceptors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Duration, timeout};

    async fn told(gate: &Gate) -> Option<u64> {
        timeout(Duration::from_millis(10), gate.all_hold())
            .await
            .ok()
    }

    #[tokio::test]
    async fn it_is_said_once_for_each_order_when_the_last_acceptor_holds() {
        let gate = Gate::default();
        gate.add();
        gate.add();
        assert!(!gate.hold(), "the gate is open");
        gate.close(7);
        assert!(gate.is_closed() && gate.hold());
        assert_eq!(told(&gate).await, None);
        assert!(gate.hold());
        assert_eq!(told(&gate).await, Some(7));
        assert_eq!(told(&gate).await, None);
        gate.close(8);
        assert_eq!(told(&gate).await, Some(8), "they hold already");
    }

    #[tokio::test]
    async fn one_that_goes_on_does_not_count_for_the_next_order() {
        let gate = Gate::default();
        gate.add();
        gate.close(1);
        assert!(gate.hold() && !gate.pass());
        gate.open();
        assert!(gate.pass());
        gate.close(2);
        assert_eq!(told(&gate).await, None);
        assert!(gate.hold());
        assert_eq!(told(&gate).await, Some(2));
        // And one that did not notice that the gate was open in between still holds.
        gate.open();
        gate.close(3);
        assert!(!gate.pass());
        assert_eq!(told(&gate).await, Some(3));
    }
}
