//! One word from the server to every task it runs: serve, drain or cancel.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering::AcqRel, Ordering::Acquire};
use std::task::{Context, Waker};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// What the server asks of its tasks. It only ever goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Order {
    Serve = 0,
    /// Take nothing new, finish what is there.
    Drain = 1,
    /// Drop everything now.
    Cancel = 2,
}

/// The order as it stands, and a way to hear of a new one.
#[derive(Debug)]
pub(super) struct Signal {
    order: AtomicU8,
    changed: Notify,
}

impl Signal {
    pub(super) fn new() -> Self {
        Self {
            order: AtomicU8::new(Order::Serve as u8),
            changed: Notify::new(),
        }
    }

    /// Gives `order` to everybody who listens; a lower one than the present is ignored.
    pub(super) fn raise(&self, order: Order) {
        if self.order.fetch_max(order as u8, AcqRel) < order as u8 {
            self.changed.notify_waiters();
        }
    }

    /// One load, for every poll of a connection.
    pub(super) fn order(&self) -> Order {
        match self.order.load(Acquire) {
            0 => Order::Serve,
            1 => Order::Drain,
            _ => Order::Cancel,
        }
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
}

/// A task's ear. It registers the task's waker once and costs one load per poll from then on.
pub(super) struct Watch<'a, 's> {
    signal: &'s Signal,
    changed: Pin<&'a mut Notified<'s>>,
    waker: Option<Waker>,
}

impl<'a, 's> Watch<'a, 's> {
    pub(super) fn new(signal: &'s Signal, changed: Pin<&'a mut Notified<'s>>) -> Self {
        Self {
            signal,
            changed,
            waker: None,
        }
    }

    /// The order now. The task of `cx` is woken when there is a higher one.
    pub(super) fn poll_order(&mut self, cx: &mut Context<'_>) -> Order {
        let registered = self
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()));
        if !registered || self.signal.order() > Order::Serve {
            while self.changed.as_mut().poll(cx).is_ready() {
                self.changed.set(self.signal.changed());
            }
            self.waker = Some(cx.waker().clone());
        }
        self.signal.order()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::Poll;

    #[tokio::test]
    async fn a_watch_hears_every_order_once_it_is_given() {
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
        signal.raise(Order::Drain);
        tokio::task::yield_now().await;
        signal.raise(Order::Cancel);
        signal.raise(Order::Drain);
        assert_eq!(
            listener.await.unwrap(),
            [Order::Serve, Order::Drain, Order::Cancel]
        );
    }
}
