//! The server's tasks: counted, so that none is left behind, and told when to stop.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio_util::task::TaskTracker;

use super::signal::{Order, Signal};

/// Every acceptor, connection and HTTP/2 stream is one of these tasks.
#[derive(Debug)]
pub(super) struct Tasks {
    pub(super) signal: Signal,
    tracker: TaskTracker,
}

impl Tasks {
    pub(super) fn new() -> Self {
        let tracker = TaskTracker::new();
        // Closed only means that `wait` may end; tasks can still be added.
        tracker.close();
        Self {
            signal: Signal::new(),
            tracker,
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.tracker.track_future(task));
    }

    /// Resolves when no task is left. Cancel-safe.
    pub(super) async fn over(&self) {
        self.tracker.wait().await;
    }
}

/// Runs each HTTP/2 stream as a task. Their connection wakes all of them when it is dropped.
#[derive(Clone, Debug)]
pub(super) struct Streams(pub(super) Arc<Tasks>);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let tasks = self.0.clone();
        self.0.spawn(async move {
            let mut stream = pin!(stream);
            poll_fn(|cx| match tasks.signal.order() {
                Order::Cancel => Poll::Ready(()),
                _ => stream.as_mut().poll(cx),
            })
            .await;
        });
    }
}
