//! The arbiter's side of the control socket: never blocks, never trusts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};

use super::protocol::{Answer, Command, MAX_COMMAND};
use crate::exit::Failure;
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
    /// `None`: it waits for an answer that takes as long as it takes.
    deadline: Option<Moment>,
    asked: Vec<u8>,
    /// What is left to be sent; `Some` once there is an answer.
    answer: Option<Vec<u8>>,
}

/// The server taken apart, with descriptors (`F`: owned, borrowed or as numbers), for the way into another image.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Parts<F> {
    pub(crate) listener: F,
    own_paths: OwnPaths,
    pub(crate) clients: Vec<ClientParts<F>>,
    next: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClientParts<F> {
    pub(crate) number: u32,
    pub(crate) stream: F,
    deadline: Option<Moment>,
    asked: Vec<u8>,
    answer: Option<Vec<u8>>,
}

impl<F> Parts<F> {
    /// The same with other descriptors. A client that has none is left out; without a listener, nothing is left.
    pub(crate) fn map<G>(self, mut change: impl FnMut(F) -> Option<G>) -> Option<Parts<G>> {
        let listener = change(self.listener)?;
        let clients = self.clients.into_iter().filter_map(|client| {
            Some(ClientParts {
                number: client.number,
                stream: change(client.stream)?,
                deadline: client.deadline,
                asked: client.asked,
                answer: client.answer,
            })
        });
        Some(Parts {
            listener,
            own_paths: self.own_paths,
            clients: clients.collect(),
            next: self.next,
        })
    }
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

    /// What it consists of, to be put together again by [`Server::assemble`].
    pub(crate) fn parts(&self) -> Parts<BorrowedFd<'_>> {
        let clients = self.clients.iter().map(|(number, client)| ClientParts {
            number: *number,
            stream: client.stream.as_fd(),
            deadline: client.deadline,
            asked: client.asked.clone(),
            answer: client.answer.clone(),
        });
        Parts {
            listener: self.listener.as_fd(),
            own_paths: self.own_paths.clone(),
            clients: clients.collect(),
            next: self.next,
        }
    }

    pub(crate) fn assemble(parts: Parts<OwnedFd>) -> Self {
        let clients = parts.clients.into_iter().map(|client| {
            let assembled = Client {
                stream: client.stream.into(),
                deadline: client.deadline,
                asked: client.asked,
                answer: client.answer,
            };
            (client.number, assembled)
        });
        Self {
            listener: parts.listener.into(),
            own_paths: parts.own_paths,
            clients: clients.collect(),
            next: parts.next,
            retry_at: None,
        }
    }

    /// Answers a client whose command was left open. One that has gone away is no loss.
    pub(crate) fn answer(&mut self, number: u32, now: Moment, answer: &Answer) {
        if let Some(client) = self.clients.get_mut(&number) {
            client.deadline = Some(now + PATIENCE);
            client.answer = Some(line(answer));
            if client.flush() {
                self.clients.remove(&number);
            }
        }
    }

    /// Something happened on the listener or on a client. Gives back new clients to watch, edge-triggered, for
    /// reading and writing. `answer` may leave a command open: then [`Server::answer`] follows.
    pub(crate) fn ready(
        &mut self,
        number: u32,
        now: Moment,
        mut answer: impl FnMut(Command) -> Option<Answer>,
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
            client.deadline.is_none_or(|deadline| deadline > now)
                && !(client.answer.is_some() && client.flush())
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
            .filter_map(|client| client.deadline)
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
                deadline: Some(now + PATIENCE),
                asked: Vec::new(),
                answer: None,
            },
        );
        Ok(self.next)
    }
}

fn line(answer: &Answer) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(answer).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Client {
    /// Reads on; answers when the command is complete. True: the client is done.
    fn proceed(&mut self, answer: &mut impl FnMut(Command) -> Option<Answer>) -> bool {
        if self.answer.is_none() {
            let answer = match self.read() {
                Ok(None) => return false,
                // It waits, and must not say anything meanwhile.
                Ok(Some(_)) if self.deadline.is_none() => {
                    Some(Answer::Error("one command at a time".to_owned()))
                }
                Ok(Some(text)) => match serde_json::from_slice(&text) {
                    Ok(command) => answer(command),
                    Err(error) => Some(Answer::Error(format!("not a command: {error}"))),
                },
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    Some(Answer::Error(error.to_string()))
                }
                Err(_) => return true,
            };
            match answer {
                Some(answer) => self.answer = Some(line(&answer)),
                None => self.deadline = None,
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
