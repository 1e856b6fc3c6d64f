//! A service manager's side of sd_notify(3): a datagram socket, and what arrived on it.

use std::collections::VecDeque;
use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;
use tempfile::TempDir;

use super::DEADLINE;
use super::service::Setup;

/// How soon its reader sees that it is to stop.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Manager {
    mail: Arc<Mail>,
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

/// What has arrived. The kernel keeps ten datagrams and no more (net.unix.max_dgram_qlen, unix(7)), so somebody reads all
/// the time, as a manager does, whatever the test is about.
struct Mail {
    state: Mutex<State>,
    more: Condvar,
}

struct State {
    /// `None`: it is closed.
    socket: Option<Arc<UnixDatagram>>,
    /// Nobody reads until the test listens again.
    is_stuck: bool,
    is_over: bool,
    heard: VecDeque<Datagram>,
}

impl Mail {
    fn open(socket: UnixDatagram) -> Arc<Self> {
        let mail = Arc::new(Self {
            state: Mutex::new(State {
                socket: None,
                is_stuck: false,
                is_over: false,
                heard: VecDeque::new(),
            }),
            more: Condvar::new(),
        });
        mail.replace(Some(socket));
        let reader = mail.clone();
        thread::spawn(move || reader.work());
        mail
    }

    fn replace(&self, socket: Option<UnixDatagram>) {
        let socket = socket.map(|socket| {
            socket.set_nonblocking(true).expect("fcntl");
            setsockopt(&socket, ReceiveTimestampns, &true).expect("setsockopt");
            Arc::new(socket)
        });
        let mut state = self.state();
        state.socket = socket;
        state.heard.clear();
    }

    fn work(&self) {
        loop {
            let mut state = self.state();
            if state.is_over {
                return;
            }
            if !state.is_stuck && state.read() {
                self.more.notify_all();
            }
            let socket = state.socket.clone().filter(|_| !state.is_stuck);
            drop(state);
            match socket {
                Some(socket) => {
                    let mut watched = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                    let pause = PollTimeout::try_from(PAUSE).expect("short");
                    // A signal may interrupt it.
                    let _ = poll(&mut watched, pause);
                }
                None => thread::sleep(PAUSE),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a reader that lives")
    }
}

impl State {
    /// Takes all that is there. False: nothing.
    fn read(&mut self) -> bool {
        let before = self.heard.len();
        let next = || receive(self.socket.as_ref()?);
        self.heard.extend(std::iter::from_fn(next));
        self.heard.len() > before
    }
}

/// One datagram, if there is one. The kernel says when it was sent.
#[expect(clippy::disallowed_methods, reason = "so the kernel stamps datagrams")]
fn receive(socket: &UnixDatagram) -> Option<Datagram> {
    let mut buffer = [0; 8192];
    let mut control = nix::cmsg_space!(TimeSpec);
    let mut space = [IoSliceMut::new(&mut buffer)];
    let (socket, flags) = (socket.as_raw_fd(), MsgFlags::empty());
    let message = recvmsg::<()>(socket, &mut space, Some(&mut control), flags).ok()?;
    let sent = message.cmsgs().expect("whole").find_map(|part| match part {
        ControlMessageOwned::ScmTimestampns(sent) => Some(Duration::from(sent)),
        _ => None,
    });
    let length = message.bytes;
    assert!(length <= 4096, "systemd reads at most 4096 bytes");
    let text = String::from_utf8(buffer[..length].to_vec()).expect("UTF-8");
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("a time");
    let ago = now.saturating_sub(sent.expect("the kernel's time stamp"));
    Some(Datagram {
        at: Instant::now().checked_sub(ago).expect("since the boot"),
        lines: text.lines().map(str::to_owned).collect(),
    })
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Ok(mut state) = self.mail.state.lock() {
            state.is_over = true;
        }
    }
}

impl Manager {
    pub(crate) fn on_path() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path: PathBuf = directory.path().join("notify");
        Self {
            mail: Mail::open(UnixDatagram::bind(&path).expect("bind")),
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
            mail: Mail::open(UnixDatagram::bind_addr(&address).expect("bind")),
            address: format!("@{name}"),
            _directory: None,
        }
    }

    /// The next datagram, or `None` when none comes within `limit`.
    pub(crate) fn hear(&self, limit: Duration) -> Option<Datagram> {
        let end = Instant::now() + limit;
        let mut state = self.mail.state();
        state.is_stuck = false;
        loop {
            state.read();
            let next = state.heard.pop_front();
            let left = end.saturating_duration_since(Instant::now());
            if next.is_some() || left.is_zero() {
                return next;
            }
            // Also what its reader did not see come while it was stuck is read soon.
            state = self
                .mail
                .more
                .wait_timeout(state, left.min(PAUSE))
                .expect("a reader that lives")
                .0;
        }
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
        let mut state = self.mail.state();
        state.is_stuck = false;
        state.read();
        state.heard.drain(..).collect()
    }

    /// Fills the queue, as a manager does that is stuck. Gives back how many messages that took: none, when what it has
    /// not read yet has filled it before.
    pub(crate) fn stop_reading(&self) -> usize {
        let mut state = self.mail.state();
        state.is_stuck = true;
        let socket = state.socket.as_ref().expect("an open socket");
        let address = socket.local_addr().expect("an address");
        let other = UnixDatagram::unbound().expect("a socket");
        other.set_nonblocking(true).expect("fcntl");
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
        self.mail.replace(None);
    }

    /// With a new socket at the place of one that has vanished.
    pub(crate) fn come_back(&mut self) {
        let socket = UnixDatagram::bind(&self.address).expect("bind");
        self.mail.replace(Some(socket));
    }
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
