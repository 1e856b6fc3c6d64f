//! The arbiter's side of the control socket: never blocks, never trusts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};

use super::protocol::{Answer, Command, MAX_COMMAND};
use crate::exit::{ExitCode, Failure, chain};
use crate::moment::Moment;
use crate::sockets::{self, Address, OwnPaths};

/// Clients at the same time; further ones are turned away.
const MAX_CLIENTS: usize = 16;
/// After an accept that failed.
const RETRY: Duration = Duration::from_secs(1);
/// From the connection to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The listening control socket and its clients.
pub(crate) struct Server {
    listener: UnixListener,
    own_paths: OwnPaths,
    clients: BTreeMap<u32, Client>,
    next: u32,
    /// Accepting failed; it is tried again then.
    retry_at: Option<Moment>,
}

struct Client {
    stream: UnixStream,
    deadline: Moment,
    asked: Vec<u8>,
    /// What is left to be sent; `Some` once the command is complete.
    answer: Option<Vec<u8>>,
}

impl Server {
    /// The number that stands for the listener in [`Server::ready`].
    pub(crate) const LISTENER: u32 = 0;

    /// Binds `path`, for this user only. A stale socket file is replaced, a live one is an error.
    ///
    /// # Errors
    /// What [`sockets::bind_one`] says.
    pub(crate) fn bind(path: &Path) -> Result<Self, Failure> {
        // From the first moment on, nobody else may connect: mode 0600 by the mask, not after the fact.
        let mask = umask(Mode::from_bits_truncate(0o177));
        let bound = sockets::bind_one(&Address::UnixPath(path.to_owned()), 16);
        umask(mask);
        let (listener, own_paths) = bound?;
        let listener = UnixListener::from(listener.fd);
        // A file system that ignores the mask gets told again.
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o600));
        Ok(Self {
            listener,
            own_paths,
            clients: BTreeMap::new(),
            next: Self::LISTENER,
            retry_at: None,
        })
    }

    /// Binds `path`; where it cannot be written, the service goes on without a control socket, and says so. A live
    /// service behind it is an error: two services of one name would answer for each other.
    ///
    /// # Errors
    /// Somebody answers there already (exit 69).
    pub(crate) fn bind_or_explain(path: &Path) -> Result<Option<Self>, Failure> {
        match Self::bind(path) {
            Ok(server) => Ok(Some(server)),
            Err(failure) if failure.code() == ExitCode::Unavailable => Err(failure),
            Err(failure) => {
                tracing::warn!(
                    reason = chain(&failure),
                    "there is no control socket: `status` will not work"
                );
                Ok(None)
            }
        }
    }

    /// Something happened on the listener or on a client. Gives back new clients to watch, edge-triggered, for
    /// reading and writing.
    pub(crate) fn ready(
        &mut self,
        number: u32,
        now: Moment,
        mut answer: impl FnMut(Command) -> Answer,
    ) -> Vec<u32> {
        if number == Self::LISTENER {
            return self.accept(now);
        }
        if let Some(client) = self.clients.get_mut(&number)
            && client.proceed(&mut answer)
        {
            self.clients.remove(&number);
        }
        Vec::new()
    }

    /// Drops clients that take too long, and accepts again where that failed. Gives back new clients to watch.
    pub(crate) fn tick(&mut self, now: Moment) -> Vec<u32> {
        self.clients.retain(|_, client| {
            // A slow reader's answer goes out piece by piece.
            client.deadline > now && !(client.answer.is_some() && client.flush())
        });
        match self.retry_at {
            Some(at) if at <= now => self.accept(now),
            _ => Vec::new(),
        }
    }

    /// When [`Server::tick`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        self.clients
            .values()
            .map(|client| client.deadline)
            .chain(self.retry_at)
            .min()
    }

    /// Removes the socket file, if it is still this server's.
    pub(crate) fn remove(&self) {
        self.own_paths.remove();
    }

    /// What to watch for a client that [`Server::ready`] gave back.
    pub(crate) fn client(&self, number: u32) -> Option<BorrowedFd<'_>> {
        self.clients
            .get(&number)
            .map(|client| client.stream.as_fd())
    }

    fn accept(&mut self, now: Moment) -> Vec<u32> {
        let mut new = Vec::new();
        self.retry_at = None;
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    // Out of descriptors, mostly. The listener is watched edge-triggered and says nothing again.
                    tracing::warn!(error = %error, "a control client could not be accepted");
                    self.retry_at = Some(now + RETRY);
                    break;
                }
            };
            match self.admit(stream, now) {
                Ok(client) => new.push(client),
                Err(error) => tracing::warn!(error = %error, "a control client was turned away"),
            }
        }
        new
    }

    fn admit(&mut self, stream: UnixStream, now: Moment) -> io::Result<u32> {
        if self.clients.len() >= MAX_CLIENTS {
            return Err(io::Error::other(format!(
                "{MAX_CLIENTS} clients are connected already"
            )));
        }
        let peer = getsockopt(&stream, PeerCredentials)?;
        let own = nix::unistd::geteuid().as_raw();
        if peer.uid() != 0 && peer.uid() != own {
            return Err(io::Error::new(
                ErrorKind::PermissionDenied,
                format!(
                    "pid {} has uid {}, and only root and uid {own} may control this service",
                    peer.pid(),
                    peer.uid()
                ),
            ));
        }
        stream.set_nonblocking(true)?;
        self.next = self.next.checked_add(1).unwrap_or(Self::LISTENER + 1);
        self.clients.insert(
            self.next,
            Client {
                stream,
                deadline: now + PATIENCE,
                asked: Vec::new(),
                answer: None,
            },
        );
        Ok(self.next)
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Client {
    /// Reads on; answers when the command is complete. True: the client is done.
    fn proceed(&mut self, answer: &mut impl FnMut(Command) -> Answer) -> bool {
        if self.answer.is_none() {
            match self.read() {
                Ok(None) => return false,
                Ok(Some(line)) => {
                    let answer = match serde_json::from_slice(&line) {
                        Ok(command) => answer(command),
                        Err(error) => Answer::Error(format!("not a command: {error}")),
                    };
                    let mut bytes = serde_json::to_vec(&answer).unwrap_or_default();
                    bytes.push(b'\n');
                    self.answer = Some(bytes);
                }
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    let text = Answer::Error(error.to_string());
                    let mut bytes = serde_json::to_vec(&text).unwrap_or_default();
                    bytes.push(b'\n');
                    self.answer = Some(bytes);
                }
                Err(_) => return true,
            }
        }
        self.flush()
    }

    /// A whole line, without its newline; `None`: not complete yet.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.asked.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            if let Some(end) = self.asked.iter().position(|byte| *byte == b'\n') {
                self.asked.truncate(end);
                return Ok(Some(std::mem::take(&mut self.asked)));
            }
            if self.asked.len() > MAX_COMMAND {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    format!("a command is one line of at most {MAX_COMMAND} bytes"),
                ));
            }
        }
    }

    /// Sends what the client takes. True: all is sent, or never will be.
    fn flush(&mut self) -> bool {
        let Some(answer) = &mut self.answer else {
            return false;
        };
        while !answer.is_empty() {
            match self.stream.write(answer) {
                Ok(count) => drop(answer.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(_) => return true,
            }
        }
        true
    }
}
