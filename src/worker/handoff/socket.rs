//! A connection's socket, which can leave the runtime and come back.

use std::io;
use std::os::fd::OwnedFd;

use socket2::{Domain, SockRef};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

/// What the worker serves in production.
pub(in crate::worker) type Stream = Either<TcpStream, UnixStream>;

/// What a connection runs over.
pub(in crate::worker) trait Socket:
    AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static
{
    /// Whether it has a descriptor that another process can use.
    const MOVES: bool = false;

    /// Takes the socket out of this runtime. It must be out before anybody else has it: a registration with an
    /// epoll goes by the open file, and would outlive the descriptor here.
    ///
    /// # Errors
    /// It cannot be taken out, and is gone.
    fn detach(self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Brings a socket into the runtime that this is called in.
    ///
    /// # Errors
    /// It is no connection, or the runtime cannot watch it.
    fn attach(_: OwnedFd) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Socket for Stream {
    const MOVES: bool = true;

    fn detach(self) -> io::Result<OwnedFd> {
        match self {
            Either::Left(tcp) => tcp.into_std().map(Into::into),
            Either::Right(unix) => unix.into_std().map(Into::into),
        }
    }

    fn attach(fd: OwnedFd) -> io::Result<Self> {
        if SockRef::from(&fd).domain()? == Domain::UNIX {
            UnixStream::from_std(fd.into()).map(Either::Right)
        } else {
            TcpStream::from_std(fd.into()).map(Either::Left)
        }
    }
}

/// In tests, of authors too.
impl Socket for tokio::io::DuplexStream {}
