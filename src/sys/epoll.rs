//! A listener's place in the kernel's queue of workers that wait for a connection.
//!
//! Workers share one listening socket. Registered plainly, it wakes every worker for every connection.
//! With EPOLLEXCLUSIVE the kernel wakes one that waits, the first of the socket's queue, and that would
//! always be the same one: so a worker that has got a connection takes the listener out of its epoll and
//! adds it again, which puts it at the end. A busy worker does not wait and is passed over. epoll_ctl(2)
//! has the flags; that the queue is in order of EPOLL_CTL_ADD is measured by `cargo bench --bench accept`.
//!
//! A tokio runtime offers no such registration, so the one it made is found and replaced behind its back.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A listener that the runtime watches. It owns the runtime's registration, so that the token in the
/// kernel never outlives what the runtime means by it.
#[derive(Debug)]
pub(crate) struct Queued {
    watcher: AsyncFd<OwnedFd>,
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    /// A duplicate of the runtime's.
    epoll: Epoll,
    /// What the runtime wants to get back with each event.
    token: u64,
    joined: bool,
    /// What the kernel says to the next calls of [`Queued::join`], the last first.
    #[cfg(test)]
    refusals: Vec<nix::errno::Errno>,
}

impl Queued {
    /// Registers `listener` with the runtime this is called in, at the end of the queue; if that cannot
    /// be, plainly, with the reason. The fd must be a duplicate of its own: a registration goes by the
    /// fd's number.
    ///
    /// # Errors
    /// The runtime refused it, or there is no memory for either registration.
    pub(crate) fn new(listener: OwnedFd) -> io::Result<(Self, Option<io::Error>)> {
        // SAFETY: an OwnedFd stays the same open file until it is dropped, which the watcher does last.
        let watcher = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?;
        let found = find(watcher.as_raw_fd());
        let mut queued = Self {
            watcher,
            place: None,
        };
        let placed = found.and_then(|place| {
            queued.place = Some(place);
            queued.requeue()
        });
        if placed.is_err() {
            queued.restore()?;
        }
        Ok((queued, placed.err()))
    }

    pub(crate) fn watcher(&self) -> &AsyncFd<OwnedFd> {
        &self.watcher
    }

    /// Whether there is a queue at all.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.place.is_some()
    }

    /// Goes to the end of the queue. A connection that waits already is reported as an event.
    ///
    /// # Errors
    /// Out of memory for the registration.
    pub(crate) fn requeue(&mut self) -> io::Result<()> {
        self.leave()?;
        self.join()
    }

    /// Leaves the queue: no connection is dealt to this worker until it joins again.
    ///
    /// # Errors
    /// The registration is not where it was found.
    pub(crate) fn leave(&mut self) -> io::Result<()> {
        if let Some(place) = self.place.as_mut().filter(|place| place.joined) {
            place.epoll.delete(&self.watcher)?;
            place.joined = false;
        }
        Ok(())
    }

    /// The reverse of [`leave`](Self::leave), at the end of the queue.
    ///
    /// # Errors
    /// Out of memory for the registration, or a kernel without EPOLLEXCLUSIVE (before 4.5).
    pub(crate) fn join(&mut self) -> io::Result<()> {
        self.add(EpollFlags::EPOLLIN | EpollFlags::EPOLLET | EpollFlags::EPOLLEXCLUSIVE)
    }

    fn add(&mut self, flags: EpollFlags) -> io::Result<()> {
        if let Some(place) = self.place.as_mut().filter(|place| !place.joined) {
            #[cfg(test)]
            if let Some(errno) = place.refusals.pop() {
                return Err(errno.into());
            }
            place
                .epoll
                .add(&self.watcher, EpollEvent::new(flags, place.token))?;
            place.joined = true;
        }
        Ok(())
    }

    /// Back to a plain registration, which the runtime can end by itself.
    fn restore(&mut self) -> io::Result<()> {
        let added = self.add(EpollFlags::EPOLLIN | EpollFlags::EPOLLET);
        self.place = None;
        added
    }

    #[cfg(test)]
    pub(crate) fn refuse(&mut self, errors: &[nix::errno::Errno]) {
        self.place.as_mut().unwrap().refusals = errors.iter().rev().copied().collect();
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        // Without a registration there is no event and nothing to end: then nothing is to be restored.
        let _ = self.restore();
    }
}

/// The epoll of this process that watches `fd`, and with which token, as proc_pid_fdinfo(5) shows it.
fn find(fd: RawFd) -> io::Result<Place> {
    let mut found: Option<(RawFd, u64)> = None;
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // An fd that was closed meanwhile is not the one.
        if !fs::read_link(entry.path())
            .is_ok_and(|target| target.as_os_str() == "anon_inode:[eventpoll]")
        {
            continue;
        }
        let name = entry.file_name();
        let Some(epoll) = name.to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{epoll}")) else {
            continue;
        };
        let Some(token) = info.lines().find_map(|line| token_of(line, fd)) else {
            continue;
        };
        // The runtime keeps duplicates of its epoll, which show the same.
        if found.is_some_and(|(_, other)| other != token) {
            return Err(io::Error::other(
                "two epolls of this process watch the listener",
            ));
        }
        found = Some((epoll, token));
    }
    let Some((epoll, token)) = found else {
        return Err(io::Error::other(
            "no epoll of this process watches the listener",
        ));
    };
    // SAFETY: the fd was open a moment ago and is borrowed only to be duplicated. Should it have been
    // closed and taken by another file since, the calls on the duplicate fail.
    let epoll = unsafe { BorrowedFd::borrow_raw(epoll) }.try_clone_to_owned()?;
    Ok(Place {
        epoll: Epoll(epoll),
        token,
        joined: true,
        #[cfg(test)]
        refusals: Vec::new(),
    })
}

/// From a line like `tfd:        9 events: 8000201d data:     7f3a5c000b70  pos:0 ino:2a sdev:8`.
fn token_of(line: &str, fd: RawFd) -> Option<u64> {
    let mut words = line.split_whitespace();
    if words.next()? != "tfd:" || words.next()?.parse() != Ok(fd) {
        return None;
    }
    words.find(|word| *word == "data:")?;
    u64::from_str_radix(words.next()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, fcntl};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::FromRawFd as _;
    use std::time::Duration;

    #[test]
    fn a_token_is_read_from_the_line_of_its_fd_only() {
        let line = "tfd:        9 events: 8000201d data:     7f3a5c000b70  pos:0 ino:2a sdev:8";
        assert_eq!(token_of(line, 9), Some(0x7f3a_5c00_0b70));
        assert_eq!(token_of(line, 90), None);
        assert_eq!(token_of("pos:\t0", 9), None);
    }

    /// With this number or a higher one.
    async fn queued(least: RawFd) -> (Queued, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let fd = fcntl(&listener, FcntlArg::F_DUPFD_CLOEXEC(least)).unwrap();
        // SAFETY: it is new, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let (queued, error) = Queued::new(fd).unwrap();
        assert!(error.is_none(), "{error:?}");
        (queued, listener)
    }

    #[tokio::test]
    async fn a_queued_listener_reports_connections_and_one_that_left_does_not() {
        let (mut queued, listener) = queued(0).await;
        let address = listener.local_addr().unwrap();

        let _first = TcpStream::connect(address).unwrap();
        queued.watcher().readable().await.unwrap().clear_ready();
        listener.accept().unwrap();

        queued.leave().unwrap();
        let _second = TcpStream::connect(address).unwrap();
        let quiet =
            tokio::time::timeout(Duration::from_millis(50), queued.watcher().readable()).await;
        assert!(quiet.is_err(), "an event after leaving the queue");

        queued.join().unwrap();
        // It was there before: the join itself reports it.
        queued.watcher().readable().await.unwrap().clear_ready();
        listener.accept().unwrap();
    }

    #[tokio::test]
    async fn the_runtime_can_end_the_registration_in_either_state() {
        for leave in [false, true] {
            // A number that no other test gets when it is free again.
            let (mut queued, listener) = queued(700).await;
            if leave {
                queued.leave().unwrap();
            }
            let fd = queued.watcher().as_raw_fd();
            assert_eq!(find(fd).is_ok(), !leave);
            drop(queued);
            assert!(find(fd).is_err(), "still registered");
            drop(listener);
        }
    }
}
