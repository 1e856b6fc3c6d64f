//! Listening sockets: taken over from whoever bound them, or bound here.

mod address;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

pub(crate) use address::check_path;

/// An address to listen on, as the operator writes it: `127.0.0.1:8080`, `[::]:80`, `unix:/run/x.sock`,
/// `unix:@abstract`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(std::net::SocketAddr),
    UnixPath(PathBuf),
    /// Without the leading `@`.
    UnixAbstract(Vec<u8>),
}

/// Who bound a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Passed by systemd or systemfd.
    Passed,
    /// Bound by this process.
    Bound,
}

/// A listening stream socket: non-blocking, close-on-exec, checked.
///
/// Its open file description may be shared with systemd: it is never shut down, re-listened or unlinked.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) fd: OwnedFd,
    /// From LISTEN_FDNAMES, or made up: `listen` for what was bound here.
    pub(crate) name: String,
    pub(crate) address: ListenerAddress,
    pub(crate) origin: Origin,
}

/// What getsockname(2) says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenerAddress {
    Tcp(std::net::SocketAddr),
    UnixPath(PathBuf),
    UnixAbstract(Vec<u8>),
    UnixUnnamed,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Display for ListenerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::UnixPath(path) => write!(f, "unix:{}", path.display()),
            Self::UnixAbstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
            Self::UnixUnnamed => f.write_str("unix:(unnamed)"),
        }
    }
}
