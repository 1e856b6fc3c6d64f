//! Waiting in a tokio runtime until a descriptor can be read.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// Readability of an open file, watched through a descriptor of its own.
pub(crate) struct Readiness(AsyncFd<OwnedFd>);

impl Readiness {
    /// Must be called inside a runtime with IO. `fd` must be non-blocking.
    ///
    /// # Errors
    /// No descriptor is left, or epoll does not take this kind of file.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let own = fd.try_clone_to_owned()?;
        // SAFETY: the descriptor is owned by the AsyncFd alone, which is private and never lends it out
        // mutably, so it stays open and the same for the AsyncFd's whole life.
        let watched = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }?;
        Ok(Self(watched))
    }

    /// Resolves when there is something to read, or the other side is gone. Cancel-safe. Call `clear_ready` on
    /// the guard when a read has said that there is nothing.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub(crate) async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }
}
