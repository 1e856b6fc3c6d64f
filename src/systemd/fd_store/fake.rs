//! A manager with a store, which does one message at a time when it is told to.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use super::Line;
use crate::sys::passing;

pub(crate) struct Manager {
    socket: UnixDatagram,
    /// FileDescriptorStoreMax=.
    pub(crate) most: usize,
    pub(crate) stored: Vec<(String, OwnedFd)>,
}

impl Manager {
    /// And a line to it.
    pub(crate) fn new(most: usize) -> (Self, Line) {
        let (socket, other) = UnixDatagram::pair().unwrap();
        other.set_nonblocking(true).unwrap();
        let stored = Vec::new();
        let manager = Self {
            socket,
            most,
            stored,
        };
        (manager, Line::over(other))
    }

    /// Does everything that has arrived, and gives back what it was.
    pub(crate) fn work(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.one()).collect()
    }

    /// Does one message.
    pub(crate) fn one(&mut self) -> Option<String> {
        let mut text = [0; 4096];
        let message = passing::receive_up_to::<253>(self.socket.as_fd(), &mut text).ok()?;
        let text = String::from_utf8(text[..message.length].to_vec()).unwrap();
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        };
        let name = value("FDNAME").unwrap_or_default();
        if value("FDSTOREREMOVE") == Some("1") {
            self.stored.retain(|(own, _)| own != name);
        }
        if value("FDSTORE") == Some("1") {
            let room = self.most.saturating_sub(self.stored.len());
            let new = message.fds.into_iter().take(room);
            self.stored.extend(new.map(|fd| (name.to_owned(), fd)));
        }
        Some(text)
    }

    /// The names of what is stored, in order.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.stored.iter().map(|(name, _)| name.as_str()).collect()
    }
}
