//! The server's tasks: counted, so that none is left behind, and told when to stop.

use std::future::Future;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::signal::Signal;

/// Every acceptor, connection and HTTP/2 stream is one of these tasks.
#[derive(Debug)]
pub(super) struct Tasks {
    pub(super) signal: Signal,
    tracker: TaskTracker,
    acceptors: TaskTracker,
}

impl Tasks {
    pub(super) fn new() -> Self {
        let (tracker, acceptors) = (TaskTracker::new(), TaskTracker::new());
        // Closed only means that `wait` may end; tasks can still be added.
        tracker.close();
        acceptors.close();
        Self {
            signal: Signal::new(),
            tracker,
            acceptors,
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.tracker.track_future(task));
    }

    pub(super) fn spawn_acceptor(&self, acceptor: impl Future<Output = ()> + Send + 'static) {
        self.spawn(self.acceptors.track_future(acceptor));
    }

    pub(super) fn count(&self) -> usize {
        self.tracker.len()
    }

    /// Resolves when no acceptor is left. Cancel-safe.
    pub(super) async fn nobody_accepts(&self) {
        self.acceptors.wait().await;
    }

    /// Resolves when no task is left. Cancel-safe.
    pub(super) async fn over(&self) {
        self.tracker.wait().await;
    }
}

/// Runs each HTTP/2 stream as a task. A connection that is dropped resets all of its streams, which wakes
/// and ends them, so that they need not listen to the signal.
#[derive(Clone, Debug)]
pub(super) struct Streams(pub(super) Arc<Tasks>);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}
