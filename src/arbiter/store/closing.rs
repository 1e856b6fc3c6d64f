//! Connections that nobody can serve, on their way to a proper end.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{SockRef, Socket};

use crate::moment::Moment;

/// How long the peer may take to hear of the end.
const LINGER: Duration = Duration::from_secs(1);
/// So much of what it still sends is read away. More makes the kernel send a reset.
const MOST: usize = 1 << 20;

/// Tells each peer that there is no more, waits a moment, and closes. Bytes that nobody reads would make the kernel
/// send a reset at the close, which can destroy a response on its way.
#[derive(Debug, Default)]
pub(super) struct Closing(VecDeque<(Moment, OwnedFd)>);

impl Closing {
    pub(super) fn add(&mut self, socket: OwnedFd, now: Moment) {
        // One that has ended by itself needs no more.
        let _ = SockRef::from(&socket).shutdown(Shutdown::Write);
        self.0.push_back((now + LINGER, socket));
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.0.front().map(|(due, _)| *due)
    }

    pub(super) fn tick(&mut self, now: Moment) {
        while let Some((due, _)) = self.0.front()
            && *due <= now
        {
            self.close_first();
        }
    }

    /// Closes all that is left.
    pub(super) fn finish(&mut self) {
        while !self.0.is_empty() {
            self.close_first();
        }
    }

    fn close_first(&mut self) {
        if let Some((_, socket)) = self.0.pop_front() {
            read_away(&mut socket.into());
        }
    }
}

fn read_away(socket: &mut Socket) {
    // What a waiting read would wait for has not come.
    if socket.set_nonblocking(true).is_err() {
        return;
    }
    let mut buffer = [0; 16 * 1024];
    let mut left = MOST;
    while left > 0 {
        match socket.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => left = left.saturating_sub(length),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_peer_gets_the_last_response_and_the_end_whatever_it_still_sends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"response").unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n").unwrap();

        let now = Moment::default();
        let mut closing = Closing::default();
        closing.add(server.into(), now);
        assert_eq!(closing.poll_timeout(), Some(now + LINGER));
        closing.tick(now);
        // Two for one: a reset would come with the second.
        client.write_all(b"\r\n").unwrap();
        closing.tick(now + LINGER);
        assert_eq!(closing.poll_timeout(), None);
        let mut read = String::new();
        client.read_to_string(&mut read).unwrap();
        assert_eq!(read, "response");
    }
}
