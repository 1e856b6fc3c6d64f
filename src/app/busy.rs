//! What an app does that must not be cut off because no client is there.

use std::fmt;
use std::sync::Arc;

/// The service is busy as long as this is held: it does not leave on account of `idle_exit`.
///
/// For work that no open connection stands for: a job taken from a queue, a batch that is being written. Made by
/// [`Context::busy`](crate::Context::busy) and [`PayloadContext::busy`](crate::PayloadContext::busy). It keeps the
/// service from nothing else: a stop or a reload goes its way and tells the app by its tokens. One that is made
/// when the service already leaves comes too late.
///
/// ```
/// # async fn next_job() -> u32 { 7 }
/// # async fn run(job: u32) {}
/// let worker = payload::Payload::new("jobs", async |context| {
///     loop {
///         let job = tokio::select! {
///             () = context.stopped() => return Ok(()),
///             job = next_job() => job,
///         };
///         let _busy = context.busy();
///         run(job).await;
///     }
/// });
/// ```
#[must_use = "the service is busy until this is dropped"]
pub struct Busy(Desk);

/// Where it is counted who is busy. The worker has one, whose count the arbiter sees.
#[derive(Clone)]
pub(crate) struct Desk(Arc<dyn Count>);

/// A count that starts at zero.
pub(crate) trait Count: Send + Sync {
    fn up(&self);
    fn down(&self);
}

impl Busy {
    pub(super) fn at(desk: &Desk) -> Self {
        desk.0.up();
        Self(desk.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.down();
    }
}

impl fmt::Debug for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Busy").finish_non_exhaustive()
    }
}

impl Desk {
    pub(crate) fn new(count: impl Count + 'static) -> Self {
        Self(Arc::new(count))
    }
}

/// Counts nothing: there is no service around it.
impl Default for Desk {
    fn default() -> Self {
        Self::new(())
    }
}

impl Count for () {
    fn up(&self) {}
    fn down(&self) {}
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}
