//! A service manager with a listening socket and a file descriptor store, which starts a service again and again.

use std::io::IoSlice;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self, UnixDatagram};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::support::http::Client;
use crate::support::service::{Service, Setup};
use crate::support::{DEADLINE, eventually, no_birth};

#[allow(
    dead_code,
    unsafe_code,
    reason = "the crate's own, of which this uses a part"
)]
#[path = "../../src/sys/passing.rs"]
mod passing;

pub(crate) struct Manager {
    listener: TcpListener,
    /// The value of NOTIFY_SOCKET.
    notify: String,
    /// The value of FDSTORE.
    said: Option<usize>,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    store: Mutex<Store>,
    /// It reads nothing.
    busy: AtomicBool,
    over: AtomicBool,
}

#[derive(Default)]
struct Store {
    /// FileDescriptorStoreMax=.
    most: usize,
    stored: Vec<(String, OwnedFd)>,
}

impl Manager {
    /// Of systemd 254 or newer, which says how much its store takes, if it takes anything.
    pub(crate) fn new(most: usize) -> Self {
        Self::saying(most, (most > 0).then_some(most))
    }

    /// Of an older systemd.
    pub(crate) fn silent(most: usize) -> Self {
        Self::saying(most, None)
    }

    fn saying(most: usize, said: Option<usize>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("payload-test-store-{}-{number}", std::process::id());
        let address = net::SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let state = Arc::new(State::default());
        state.store().most = most;
        let working = state.clone();
        Self {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            notify: format!("@{name}"),
            said,
            state,
            thread: Some(thread::spawn(move || working.work(&socket))),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// A connection to whoever accepts, now or later.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address()).expect("no connection is refused")
    }

    /// Starts the service with the listener and with everything that is in the store, and waits until it serves.
    #[track_caller]
    pub(crate) fn serve(&self, setup: Setup) -> Service {
        self.start(setup).serve()
    }

    /// The setup to start.
    pub(crate) fn start(&self, setup: Setup) -> Setup {
        self.pass(setup, true)
    }

    /// The same without the listener.
    pub(crate) fn start_without_listener(&self, setup: Setup) -> Setup {
        self.pass(setup, false)
    }

    fn pass(&self, setup: Setup, listener: bool) -> Setup {
        let store = self.state.store();
        let mut passed: Vec<(&str, BorrowedFd<'_>)> = store
            .stored
            .iter()
            .map(|(name, fd)| (name.as_str(), fd.as_fd()))
            .collect();
        if listener {
            // Anywhere among them.
            passed.insert(passed.len() / 2, ("http", self.listener.as_fd()));
        }
        let (names, fds): (Vec<&str>, Vec<BorrowedFd<'_>>) = passed.into_iter().unzip();
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        passing::send(ours.as_fd(), &[IoSlice::new(b"x")], &fds).unwrap();
        let setup = setup
            .pass_from(theirs, &names)
            .env("NOTIFY_SOCKET", &self.notify);
        match self.said {
            Some(most) => setup.env("FDSTORE", &most.to_string()),
            None => setup,
        }
    }

    /// Ends the service for a restart. `systemctl restart` begins so.
    #[track_caller]
    pub(crate) fn end(&self, service: &Service) {
        service.signal(Signal::SIGUSR2);
        assert_eq!(service.exit(), 0);
    }

    /// The same, while a request of [`Service::gated`] is under way: it is answered when a worker drains.
    #[track_caller]
    pub(crate) fn end_and_open(&self, service: &Service) {
        service.signal(Signal::SIGUSR2);
        service.record("a drain", |record| record["phase"] == "draining");
        service.open_gate();
        assert_eq!(service.exit(), 0);
    }

    /// What is in the store, by kind: connections, ledgers, others.
    pub(crate) fn stored(&self) -> (usize, usize, usize) {
        let store = self.state.store();
        let count = |kind: &str| {
            let names = store.stored.iter().map(|(name, _)| name);
            names.filter(|name| name.starts_with(kind)).count()
        };
        let (connections, ledgers) = (count("payload-connections-"), count("payload-ledger-"));
        let others = store.stored.len() - connections - ledgers;
        (connections, ledgers, others)
    }

    /// How many files with what payloads have kept are in the store.
    pub(crate) fn stored_kept(&self) -> usize {
        let store = self.state.store();
        let names = store.stored.iter().map(|(name, _)| name);
        names
            .filter(|name| name.starts_with("payload-kept-"))
            .count()
    }

    /// Puts something into the store that the service has not put there.
    pub(crate) fn put(&self, name: &str, fd: OwnedFd) {
        self.state.store().stored.push((name.to_owned(), fd));
    }

    /// Waits until the service has taken everything out.
    #[track_caller]
    pub(crate) fn emptied(&self) {
        eventually("an empty store", DEADLINE, || {
            self.state.store().stored.is_empty().then_some(())
        });
    }

    /// Puts another file in the place of the ledger.
    #[track_caller]
    pub(crate) fn replace_ledger(&self, change: impl Fn(OwnedFd) -> OwnedFd) {
        let mut store = self.state.store();
        let mut names = store.stored.iter().map(|(name, _)| name);
        let place = names.position(|name| name.starts_with("payload-ledger-"));
        let place = place.expect("a ledger");
        let (name, fd) = store.stored.swap_remove(place);
        store.stored.push((name, change(fd)));
    }

    /// Waits until it has read every message that was sent by now, as a manager has that hears of a process's end.
    #[track_caller]
    pub(crate) fn catch_up(&self) {
        let (ours, theirs) = std::io::pipe().unwrap();
        let line = UnixDatagram::unbound().unwrap();
        let name = self.notify.strip_prefix('@').expect("an abstract name");
        let address = net::SocketAddr::from_abstract_name(name).unwrap();
        line.connect_addr(&address).unwrap();
        eventually("room for one more message", DEADLINE, || {
            passing::send(
                line.as_fd(),
                &[IoSlice::new(b"BARRIER=1")],
                &[theirs.as_fd()],
            )
            .ok()
        });
        drop(theirs);
        let mut fds = [PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(DEADLINE).unwrap();
        assert_eq!(poll(&mut fds, limit), Ok(1), "it reads its messages");
    }

    /// It reads no messages, or goes on.
    pub(crate) fn be_busy(&self, busy: bool) {
        self.state.busy.store(busy, Relaxed);
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.state.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    fn work(&self, socket: &UnixDatagram) {
        while !self.over.load(Relaxed) {
            if self.busy.load(Relaxed) {
                thread::sleep(std::time::Duration::from_millis(2));
                continue;
            }
            let mut text = [0; 8192];
            // What it does not store must be closed for everybody when it hears the next message.
            let alone = no_birth();
            match passing::receive_up_to::<253>(socket.as_fd(), &mut text) {
                Ok(message) => {
                    assert!(message.length <= 4096 && !message.fds_lost);
                    let text = String::from_utf8(text[..message.length].to_vec()).unwrap();
                    self.store().hear(&text, message.fds);
                }
                Err(_) => {
                    drop(alone);
                    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut fds, PollTimeout::from(20u8));
                }
            }
        }
    }
}

impl Store {
    fn hear(&mut self, text: &str, fds: Vec<OwnedFd>) {
        let has = |line: &str| text.lines().any(|own| own == line);
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
        if has("BARRIER=1") {
            assert_eq!((text, fds.len()), ("BARRIER=1", 1));
        }
        if has("FDSTOREREMOVE=1") {
            self.stored.retain(|(own, _)| Some(own.as_str()) != name);
        }
        if has("FDSTORE=1") {
            for fd in fds {
                if self.stored.len() < self.most && !self.has(&fd) {
                    let name = name.unwrap_or("stored").to_owned();
                    self.stored.push((name, fd));
                }
            }
        }
    }

    /// The same open file under another number is not stored again.
    fn has(&self, fd: &OwnedFd) -> bool {
        let identity = |fd: &OwnedFd| {
            let stat = nix::sys::stat::fstat(fd).unwrap();
            (stat.st_dev, stat.st_ino, stat.st_size)
        };
        let is_pipe = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
            .is_ok_and(|link| link.to_string_lossy().starts_with("pipe:"));
        let same = |own: &OwnedFd| identity(own) == identity(fd);
        !is_pipe && self.stored.iter().any(|(_, own)| same(own))
    }
}
