//! Keeps a runtime of several threads listening while one of them is blocked.
//!
//! One thread of the runtime waits for sockets and timers. When it gets an event it runs the event's task
//! itself, and no idle thread takes over the waiting unless there is a second task. If the first one blocks,
//! every socket and timer of the worker stands still although other threads have nothing to do. Tokio's own
//! cure, `Builder::enable_eager_driver_handoff`, is not stable as of 1.54. A task from outside the runtime wakes
//! an idle thread, and that one waits for events afterwards.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::runtime::Handle;

/// So long a blocked thread can hold up the others.
const INTERVAL: Duration = Duration::from_millis(50);

/// Sends such tasks until it is dropped, from a thread of its own.
pub(super) struct Wake {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Wake {
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(runtime: Handle) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = Builder::new()
            .name("wake".to_owned())
            .spawn(move || wake(&runtime, &stopped))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and waits for nothing once the sender is gone.
            let _ = thread.join();
        }
    }
}

fn wake(runtime: &Handle, stopped: &Receiver<()>) {
    while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        drop(runtime.spawn(async {}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn timers_fire_while_a_thread_is_blocked() {
        const PAUSE: Duration = Duration::from_millis(250);
        const LIMIT: Duration = Duration::from_secs(20);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        let _wake = Wake::start(runtime.handle().clone()).unwrap();
        let (fired, when) = mpsc::channel();
        runtime.spawn(async move {
            tokio::time::sleep(PAUSE).await;
            fired.send(()).unwrap();
        });
        let (done, end) = mpsc::channel();
        runtime.spawn(async move {
            tokio::time::sleep(PAUSE / 5).await;
            // Holds the thread until the other one's timer has fired.
            done.send(when.recv_timeout(LIMIT)).unwrap();
        });
        assert_eq!(end.recv().unwrap(), Ok(()));
    }
}
