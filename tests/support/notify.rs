//! A service manager's side of sd_notify(3): a datagram socket, and what arrived on it.

use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;
use tempfile::TempDir;

use super::DEADLINE;
use super::service::Setup;

pub(crate) struct Manager {
    socket: UnixDatagram,
    /// The value of NOTIFY_SOCKET.
    address: String,
    /// Holds the socket's file.
    _directory: Option<TempDir>,
}

/// One datagram and when it was sent, however late it is read.
#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) at: Instant,
    pub(crate) lines: Vec<String>,
}

impl Manager {
    pub(crate) fn on_path() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path: PathBuf = directory.path().join("notify");
        Self {
            socket: stamped(UnixDatagram::bind(&path)),
            address: path.to_str().expect("UTF-8").to_owned(),
            _directory: Some(directory),
        }
    }

    pub(crate) fn on_abstract_name() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "payload-test-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Relaxed)
        );
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        Self {
            socket: stamped(UnixDatagram::bind_addr(&address)),
            address: format!("@{name}"),
            _directory: None,
        }
    }

    /// The next datagram, or `None` when none comes within `limit`.
    pub(crate) fn hear(&self, limit: Duration) -> Option<Datagram> {
        self.socket
            .set_read_timeout(Some(limit.max(Duration::from_millis(1))))
            .expect("a timeout");
        let mut buffer = [0; 8192];
        let mut control = nix::cmsg_space!(TimeSpec);
        let mut space = [IoSliceMut::new(&mut buffer)];
        let socket = self.socket.as_raw_fd();
        let flags = MsgFlags::empty();
        let message = recvmsg::<()>(socket, &mut space, Some(&mut control), flags).ok()?;
        let sent = message.cmsgs().expect("whole").find_map(|part| match part {
            ControlMessageOwned::ScmTimestampns(sent) => Some(Duration::from(sent)),
            _ => None,
        });
        let length = message.bytes;
        assert!(length <= 4096, "systemd reads at most 4096 bytes");
        let text = String::from_utf8(buffer[..length].to_vec()).expect("UTF-8");
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a time");
        let ago = now.saturating_sub(sent.expect("the kernel's time stamp"));
        Some(Datagram {
            at: Instant::now().checked_sub(ago).expect("since the boot"),
            lines: text.lines().map(str::to_owned).collect(),
        })
    }

    /// Everything up to and with the first datagram that has this line.
    #[track_caller]
    pub(crate) fn hear_until(&self, line: &str) -> Vec<Datagram> {
        self.hear_where(line, |datagram| datagram.has(line))
    }

    /// Everything up to and with the first datagram that fits.
    #[track_caller]
    pub(crate) fn hear_where(&self, what: &str, fits: impl Fn(&Datagram) -> bool) -> Vec<Datagram> {
        let end = Instant::now() + DEADLINE;
        let mut heard = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Some(datagram) = self.hear(left) else {
                panic!("no datagram with {what:?}; heard {heard:#?}");
            };
            let found = fits(&datagram);
            heard.push(datagram);
            if found {
                return heard;
            }
        }
    }

    /// The next datagram that has this line.
    #[track_caller]
    pub(crate) fn hear_line(&self, line: &str) -> Datagram {
        self.hear_until(line).pop().expect("the last one")
    }

    /// Everything that has arrived by now.
    pub(crate) fn rest(&self) -> Vec<Datagram> {
        std::iter::from_fn(|| self.hear(Duration::from_millis(1))).collect()
    }

    /// Fills the queue, as a manager does that is stuck. Gives back how many messages that took: none, when what it has
    /// not read yet has filled it before.
    pub(crate) fn stop_reading(&self) -> usize {
        let other = UnixDatagram::unbound().expect("a socket");
        other.set_nonblocking(true).expect("fcntl");
        let address = self.socket.local_addr().expect("an address");
        let full = (0..100_000)
            .take_while(|_| other.send_to_addr(b"FILLED=1", &address).is_ok())
            .count();
        assert!(full < 100_000);
        full
    }

    /// The file of its socket is gone.
    pub(crate) fn vanish(&self) {
        fs::remove_file(&self.address).expect("a socket on a path");
    }

    /// Its socket is closed, and the file is left.
    pub(crate) fn die(&mut self) {
        self.socket = UnixDatagram::unbound().expect("a socket");
    }

    /// With a new socket at the place of one that has vanished.
    pub(crate) fn come_back(&mut self) {
        self.socket = stamped(UnixDatagram::bind(&self.address));
    }
}

/// The kernel says with each message when it was sent.
fn stamped(socket: io::Result<UnixDatagram>) -> UnixDatagram {
    let socket = socket.expect("bind");
    setsockopt(&socket, ReceiveTimestampns, &true).expect("setsockopt");
    socket
}

impl Setup {
    /// Tells this manager.
    pub(crate) fn notify(self, manager: &Manager) -> Self {
        self.env("NOTIFY_SOCKET", &manager.address)
    }
}

impl Datagram {
    pub(crate) fn has(&self, line: &str) -> bool {
        self.lines.iter().any(|own| own == line)
    }

    /// The value of an assignment.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.lines
            .iter()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }
}
