//! Waiting in a tokio runtime until a descriptor can be read or written.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// Readiness of an open file, watched through a descriptor of its own.
#[derive(Debug)]
pub(crate) struct Readiness(AsyncFd<OwnedFd>);

impl Readiness {
    /// Watches whether `fd`, of which it makes a duplicate, can be read. Must be called inside a runtime with IO.
    /// `fd` must be non-blocking.
    ///
    /// # Errors
    /// No descriptor is left, or epoll does not take this kind of file.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Self::watch(fd.try_clone_to_owned()?, Interest::READABLE)
    }

    /// The same, whether it can be written.
    ///
    /// # Errors
    /// As for [`of`](Self::of).
    pub(crate) fn of_writing(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Self::watch(fd.try_clone_to_owned()?, Interest::WRITABLE)
    }

    /// Watches `fd` itself for both.
    ///
    /// # Errors
    /// As for [`of`](Self::of).
    pub(crate) fn of_both(fd: OwnedFd) -> io::Result<Self> {
        Self::watch(fd, Interest::READABLE | Interest::WRITABLE)
    }

    fn watch(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by the AsyncFd alone, which is private and never lends it out
        // mutably, so it stays open and the same for the AsyncFd's whole life.
        let watched = unsafe { AsyncFd::register_with_interest(fd, interest) }?;
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

    /// The same for writing.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub(crate) async fn writable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.writable().await
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
