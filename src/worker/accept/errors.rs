//! What an accept that failed means for the worker.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;

/// The pause after an accept that failed for want of something; it doubles up to the maximum.
const PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(250);
/// Shortages are logged this often at most, however many come and go.
const COMPLAINT: Duration = Duration::from_secs(10);

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// There is no connection: wait for the next.
    Wait,
    /// That connection is lost, and is out of the backlog: there may be more.
    Retry,
    /// The connection is still in the backlog, and asking for it at once would only spin.
    Pause,
    /// The listener itself is no good any more, here and in every worker: the worker ends and says so.
    End,
}

/// accept(2), "Error handling" and "Errors".
///
/// An error that nobody has foreseen is a pause: nothing spins, and what the worker has is served.
pub(super) fn remedy(error: &io::Error) -> Remedy {
    match errno(error) {
        Errno::EAGAIN => Remedy::Wait,
        // What the network had for the new connection, "treat them like EAGAIN by retrying". The listener is
        // known to be a stream socket, so EOPNOTSUPP is among them.
        Errno::ECONNABORTED
        | Errno::EINTR
        | Errno::ENETDOWN
        | Errno::EPROTO
        | Errno::ENOPROTOOPT
        | Errno::EHOSTDOWN
        | Errno::ENONET
        | Errno::EHOSTUNREACH
        | Errno::EOPNOTSUPP
        | Errno::ENETUNREACH
        | Errno::ETIMEDOUT => Remedy::Retry,
        Errno::EBADF | Errno::EFAULT | Errno::EINVAL | Errno::ENOTSOCK => Remedy::End,
        // EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSR: want of something. EPERM, EACCES: a security module or a
        // system call filter forbids it, which it does before the connection is taken off the backlog.
        _ => Remedy::Pause,
    }
}

/// The same for a place in the queue of workers, epoll_ctl(2): only want of something passes.
pub(super) fn remedy_of_queue(error: &io::Error) -> Remedy {
    match errno(error) {
        Errno::ENOMEM | Errno::ENOSPC => Remedy::Pause,
        _ => Remedy::End,
    }
}

/// What an operator can do about a [`Remedy::Pause`].
pub(super) fn cure(error: &io::Error) -> &'static str {
    match errno(error) {
        Errno::EMFILE => "raise LimitNOFILE=, or lower http.max_connections",
        Errno::ENFILE => "raise fs.file-max: the whole machine is out of open files",
        Errno::ENOSPC => "raise fs.epoll.max_user_watches",
        Errno::ENOBUFS | Errno::ENOMEM => {
            "give it memory: look at MemoryMax= and net.ipv4.tcp_mem, and lower http.max_connections"
        }
        Errno::EPERM | Errno::EACCES => {
            "let it accept: look at SystemCallFilter= and the security modules"
        }
        _ => "accept(2) and the kernel's log may say more",
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// A time in which nothing could be accepted: how long to wait, and what to say.
#[derive(Debug)]
pub(super) struct Shortage {
    pause: Duration,
    /// This one was logged.
    told: bool,
    quiet_until: Option<Instant>,
}

impl Shortage {
    pub(super) fn new() -> Self {
        Self {
            pause: PAUSE,
            told: false,
            quiet_until: None,
        }
    }

    pub(super) fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(MAX_PAUSE);
        pause
    }

    /// Whether to log it: once, and not if another was logged a moment ago.
    pub(super) fn is_news(&mut self, now: Instant) -> bool {
        if self.told || self.quiet_until.is_some_and(|until| now < until) {
            return false;
        }
        self.told = true;
        self.quiet_until = Some(now + COMPLAINT);
        true
    }

    /// A connection was accepted. Whether to log that.
    pub(super) fn end(&mut self) -> bool {
        self.pause = PAUSE;
        std::mem::take(&mut self.told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_accept_has_its_remedy() {
        for (remedy, errors) in [
            (Remedy::Wait, &[Errno::EAGAIN, Errno::EWOULDBLOCK][..]),
            (
                Remedy::Retry,
                &[
                    Errno::ECONNABORTED,
                    Errno::EINTR,
                    Errno::ENETDOWN,
                    Errno::EPROTO,
                    Errno::ENOPROTOOPT,
                    Errno::EHOSTDOWN,
                    Errno::ENONET,
                    Errno::EHOSTUNREACH,
                    Errno::EOPNOTSUPP,
                    Errno::ENETUNREACH,
                    Errno::ETIMEDOUT,
                ],
            ),
            (
                Remedy::Pause,
                &[
                    Errno::EMFILE,
                    Errno::ENFILE,
                    Errno::ENOBUFS,
                    Errno::ENOMEM,
                    Errno::ENOSR,
                    Errno::EPERM,
                    Errno::EACCES,
                    Errno::ESOCKTNOSUPPORT,
                    Errno::EPROTONOSUPPORT,
                    Errno::UnknownErrno,
                ],
            ),
            (
                Remedy::End,
                &[Errno::EBADF, Errno::EFAULT, Errno::EINVAL, Errno::ENOTSOCK],
            ),
        ] {
            for errno in errors {
                assert_eq!(super::remedy(&(*errno).into()), remedy, "{errno}");
            }
        }
        let without_errno = io::Error::other("the runtime has no room");
        assert_eq!(super::remedy(&without_errno), Remedy::Pause);
    }

    #[test]
    fn only_want_of_something_keeps_a_place_in_the_queue_waiting() {
        for (errno, remedy) in [
            (Errno::ENOMEM, Remedy::Pause),
            (Errno::ENOSPC, Remedy::Pause),
            (Errno::EBADF, Remedy::End),
            (Errno::EEXIST, Remedy::End),
            (Errno::EINVAL, Remedy::End),
            (Errno::ENOENT, Remedy::End),
            (Errno::EPERM, Remedy::End),
        ] {
            assert_eq!(remedy_of_queue(&errno.into()), remedy, "{errno}");
        }
    }

    #[test]
    fn a_cure_names_what_is_short() {
        for (errno, word) in [
            (Errno::EMFILE, "LimitNOFILE="),
            (Errno::ENFILE, "fs.file-max"),
            (Errno::ENOSPC, "fs.epoll.max_user_watches"),
            (Errno::ENOBUFS, "MemoryMax="),
            (Errno::ENOMEM, "MemoryMax="),
            (Errno::EPERM, "SystemCallFilter="),
        ] {
            assert!(cure(&errno.into()).contains(word), "{errno}");
        }
    }

    #[test]
    fn pauses_grow_until_something_is_accepted() {
        let mut shortage = Shortage::new();
        let pauses: Vec<u128> = (0..7).map(|_| shortage.next_pause().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 250, 250]);
        shortage.end();
        assert_eq!(shortage.next_pause(), PAUSE);
    }

    #[test]
    fn a_shortage_is_told_once_and_many_short_ones_are_not_told_each() {
        let mut shortage = Shortage::new();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(shortage.is_news(start));
        assert!(!shortage.is_news(after(1)));
        assert!(!shortage.is_news(after(3600)), "it is still the same one");
        assert!(shortage.end(), "its end is told");
        assert!(!shortage.end());
        assert!(shortage.is_news(after(3601)));
        shortage.end();
        assert!(!shortage.is_news(after(3602)), "another, but just now");
        assert!(!shortage.end(), "it was not told, so its end is not");
        assert!(shortage.is_news(after(3611)));
    }
}
