//! A service manager as sd_notify(3) has it, with a watchdog: what it hears, and how it gets lost.

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::service::{LIMIT, Service, Setup};

/// How often WATCHDOG=1 is due: half of what the service is given as WATCHDOG_USEC.
pub(crate) const WATCHDOG: Duration = Duration::from_millis(100);

pub(crate) struct Manager {
    /// `None`: it is gone.
    socket: Option<UnixDatagram>,
    folder: TempDir,
}

impl Manager {
    pub(crate) fn new() -> Self {
        let mut manager = Self {
            socket: None,
            folder: tempfile::tempdir().unwrap(),
        };
        manager.come_back();
        manager
    }

    /// With this manager's socket and its watchdog.
    pub(crate) fn of(&self, setup: Setup) -> Setup {
        let socket = format!("NOTIFY_SOCKET={}", self.path().display());
        let watchdog = format!("WATCHDOG_USEC={}", 2 * WATCHDOG.as_micros());
        setup.through(&["env", &socket, &watchdog])
    }

    /// Starts the service, and waits until it has said that it is ready.
    #[track_caller]
    pub(crate) fn serve(&self, setup: Setup) -> Service {
        let service = self.of(setup).serve();
        self.hear(|text| text.starts_with("READY=1\n"));
        service
    }

    /// Its socket and the file are gone.
    pub(crate) fn vanish(&mut self) {
        self.die();
        fs::remove_file(self.path()).unwrap();
    }

    /// Its socket is gone, and the file is left.
    pub(crate) fn die(&mut self) {
        self.socket = None;
    }

    /// With a new socket at the old place.
    pub(crate) fn come_back(&mut self) {
        let _ = fs::remove_file(self.path());
        self.socket = Some(UnixDatagram::bind(self.path()).unwrap());
    }

    /// Reads nothing any more, until [`Manager::rest`]: its queue is full.
    pub(crate) fn fill(&self) {
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        let full = std::iter::repeat_with(|| other.send_to(b"FILLED=1", self.path()));
        let error = full.take(100_000).find_map(Result::err);
        assert_eq!(
            error.map(|error| error.kind()),
            Some(io::ErrorKind::WouldBlock)
        );
    }

    /// Waits for a datagram that fits.
    #[track_caller]
    pub(crate) fn hear(&self, fits: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let text = self.next(left).expect("a datagram that fits");
            if fits(&text) {
                return text;
            }
        }
    }

    /// Everything that has arrived by now.
    pub(crate) fn rest(&self) -> Vec<String> {
        std::iter::from_fn(|| self.next(Duration::ZERO)).collect()
    }

    fn next(&self, limit: Duration) -> Option<String> {
        let socket = self.socket.as_ref().expect("it is there");
        let limit = limit.max(Duration::from_millis(1));
        socket.set_read_timeout(Some(limit)).unwrap();
        let mut buffer = [0; 8192];
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("notify")
    }
}
