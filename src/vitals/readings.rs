//! Readings of the machine: they block, and one of another process's memory can wait for that process.

use std::panic::resume_unwind;

use tokio_util::task::TaskTracker;

/// Those that are under way, whether somebody waits for them or not. From [`open`](Self::open) to
/// [`close`](Self::close), which a step of the app calls.
#[derive(Clone, Debug)]
pub(super) struct Readings(TaskTracker);

impl Default for Readings {
    fn default() -> Self {
        let readings = TaskTracker::new();
        readings.close();
        Self(readings)
    }
}

impl Readings {
    pub(super) fn open(&self) {
        self.0.reopen();
    }

    /// Takes one, not on the executor. If the future is dropped it goes on. `None`: they are closed, or the runtime
    /// is on its way out.
    ///
    /// # Panics
    /// With the panic of the reading.
    pub(super) async fn take<T: Send + 'static>(
        &self,
        reading: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if self.0.is_closed() {
            return None;
        }
        match self.0.spawn_blocking(reading).await {
            Ok(found) => Some(found),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => None,
            },
        }
    }

    /// Resolves when none is under way any more. One that has begun cannot be cancelled.
    pub(super) async fn close(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn nothing_is_read_before_they_are_opened_or_after_they_are_closed() {
        let readings = Readings::default();
        assert_eq!(readings.take(|| 1).await, None);
        readings.open();
        assert_eq!(readings.take(|| 2).await, Some(2));
        readings.close().await;
        assert_eq!(readings.take(|| 3).await, None);
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_is_awaited_at_the_end() {
        let readings = Readings::default();
        readings.open();
        let (begun, has_begun) = oneshot::channel();
        let (go, gate) = mpsc::channel::<()>();
        let reading = readings.take(move || {
            let _ = begun.send(());
            gate.recv()
        });
        tokio::select! {
            biased;
            _ = reading => panic!("it waits for the gate"),
            told = has_begun => told.unwrap(),
        }
        let mut close = std::pin::pin!(readings.close());
        assert!(close.as_mut().now_or_never().is_none());
        drop(go);
        close.await;
    }
}
