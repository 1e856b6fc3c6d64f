//! One word from the server to every task it runs: serve, hand on, drain or cancel.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::AcqRel, Ordering::Acquire};
use std::task::{Context, Waker};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// What the server asks of its tasks. From `HandOff` on it only ever goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Order {
    Serve = 0,
    /// Go on, and give some idle connections to other workers.
    Rebalance = 1,
    /// Take nothing new, give every connection to other workers as soon as it is idle.
    HandOff = 2,
    /// Take nothing new, finish what is there.
    Drain = 3,
    /// Drop everything now.
    Cancel = 4,
}

/// The order's bits of the word; those above count its changes.
const ORDER: u32 = 0b111;
const ONE_CHANGE: u32 = ORDER + 1;

/// The order as it stands, and a way to hear of a new one.
#[derive(Debug)]
pub(super) struct Signal {
    word: AtomicU32,
    changed: Notify,
}

impl Signal {
    pub(super) fn new() -> Self {
        Self {
            word: AtomicU32::new(Order::Serve as u32),
            changed: Notify::new(),
        }
    }

    /// Gives `order` to everybody who listens; a lower one than the present is ignored.
    pub(super) fn raise(&self, order: Order) {
        if self.change(|present| (order > present).then_some(order)) {
            self.changed.notify_waiters();
        }
    }

    /// The end of `Rebalance`, if nothing higher has come. Nobody is woken for it.
    pub(super) fn serve_on(&self) {
        self.change(|present| (present == Order::Rebalance).then_some(Order::Serve));
    }

    /// Has everybody who listens look again, at something else than the order. Not while that is `Serve`.
    pub(super) fn call(&self) {
        if self.change(|present| (present > Order::Serve).then_some(present)) {
            self.changed.notify_waiters();
        }
    }

    /// The same with any order: every connection is woken.
    pub(super) fn call_always(&self) {
        self.change(Some);
        self.changed.notify_waiters();
    }

    /// One load, for every poll of a connection.
    pub(super) fn order(&self) -> Order {
        order_of(self.word.load(Acquire))
    }

    /// To be pinned and given to [`Watch::new`].
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Waits until the order is at least `order`. Cancel-safe.
    pub(super) async fn reached(&self, order: Order) {
        loop {
            let mut changed = std::pin::pin!(self.changed());
            // Listening before looking: an order between the two is heard.
            changed.as_mut().enable();
            if self.order() >= order {
                return;
            }
            changed.await;
        }
    }

    fn change(&self, next: impl Fn(Order) -> Option<Order>) -> bool {
        let changed = self.word.fetch_update(AcqRel, Acquire, |word| {
            let order = next(order_of(word))?;
            Some((word & !ORDER).wrapping_add(ONE_CHANGE) | order as u32)
        });
        changed.is_ok()
    }
}

fn order_of(word: u32) -> Order {
    match word & ORDER {
        0 => Order::Serve,
        1 => Order::Rebalance,
        2 => Order::HandOff,
        3 => Order::Drain,
        _ => Order::Cancel,
    }
}

/// A task's ear. While the order is `Serve` it registers the task's waker once and costs one load per poll; a
/// rebalance in between is seen by the word. With any other order it registers at each poll, since the call
/// that belongs to a word may come after the word itself.
pub(super) struct Watch<'a, 's> {
    signal: &'s Signal,
    changed: Pin<&'a mut Notified<'s>>,
    waker: Option<Waker>,
    /// The word when the waker was registered.
    seen: u32,
}

impl<'a, 's> Watch<'a, 's> {
    pub(super) fn new(signal: &'s Signal, changed: Pin<&'a mut Notified<'s>>) -> Self {
        Self {
            signal,
            changed,
            waker: None,
            seen: 0,
        }
    }

    /// The order now. The task of `cx` is woken when there is another one, or a call.
    pub(super) fn poll_order(&mut self, cx: &mut Context<'_>) -> Order {
        let word = self.signal.word.load(Acquire);
        let registered = self
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()));
        if registered && word == self.seen && order_of(word) == Order::Serve {
            return Order::Serve;
        }
        loop {
            self.seen = self.signal.word.load(Acquire);
            while self.changed.as_mut().poll(cx).is_ready() {
                self.changed.set(self.signal.changed());
            }
            self.waker = Some(cx.waker().clone());
            // Looking after listening: what came between the two is not missed.
            if self.signal.word.load(Acquire) == self.seen {
                return order_of(self.seen);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::Poll;

    async fn heard_by_a_watch(orders: &[fn(&Signal)]) -> Vec<Order> {
        let signal = Arc::new(Signal::new());
        let listener = {
            let signal = signal.clone();
            tokio::spawn(async move {
                let changed = std::pin::pin!(signal.changed());
                let mut watch = Watch::new(&signal, changed);
                let mut heard = Vec::new();
                poll_fn(|cx| {
                    heard.push(watch.poll_order(cx));
                    match heard.last() {
                        Some(Order::Cancel) => Poll::Ready(()),
                        _ => Poll::Pending,
                    }
                })
                .await;
                heard
            })
        };
        tokio::task::yield_now().await;
        for give in orders {
            give(&signal);
            tokio::task::yield_now().await;
        }
        listener.await.unwrap()
    }

    #[tokio::test]
    async fn a_watch_hears_every_order_once_it_is_given() {
        let heard = heard_by_a_watch(&[
            |signal| signal.raise(Order::Drain),
            |signal| {
                signal.raise(Order::Cancel);
                signal.raise(Order::Drain);
            },
        ]);
        assert_eq!(heard.await, [Order::Serve, Order::Drain, Order::Cancel]);
    }

    #[tokio::test]
    async fn a_watch_hears_each_rebalance_and_each_call() {
        let heard = heard_by_a_watch(&[
            |signal| signal.raise(Order::Rebalance),
            |signal| {
                signal.serve_on();
                signal.raise(Order::Rebalance);
            },
            |signal| {
                signal.serve_on();
                signal.call();
            },
            |signal| signal.raise(Order::HandOff),
            Signal::serve_on,
            Signal::call,
            |signal| signal.raise(Order::Cancel),
        ]);
        use Order::{Cancel, HandOff, Rebalance, Serve};
        assert_eq!(
            heard.await,
            [Serve, Rebalance, Rebalance, HandOff, HandOff, Cancel]
        );
    }
}
