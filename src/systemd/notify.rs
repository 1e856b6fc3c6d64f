//! sd_notify(3): the truth about readiness, as the service manager hears it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};

use super::fd_store;
use crate::exit::{ExitCode, Failure};
use crate::sys;

/// systemd reads at most so many bytes of one message.
const LARGEST: usize = 4096;
/// A manager that is busy may not read for this long before anything is said about it.
const BUSY: Duration = Duration::from_secs(1);

/// One assignment of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Say<'a> {
    /// Every configured worker serves, or a reload has ended.
    Ready,
    /// Microseconds of CLOCK_MONOTONIC when the reload began. A [`Say::Ready`] must follow, whatever the
    /// reload's outcome.
    Reloading(u64),
    /// Final: newer managers (259) ignore a later [`Say::Ready`].
    Stopping,
    /// One line for `systemctl status`.
    Status(&'a str),
    Watchdog,
    /// The current job may take so much longer, counted from now.
    ExtendTimeout(Duration),
    /// From now on a [`Say::Watchdog`] is due within this time.
    WatchdogLimit(Duration),
}

/// The arbiter's line to the service manager. Without NOTIFY_SOCKET every message is a quiet nothing.
///
/// 1. It never blocks and never fails: a manager that does not read, or is gone, costs one system call for
///    each message, and one warning for all of them.
/// 2. The states (READY, RELOADING, STOPPING) reach the manager in their order, and with them the newest
///    STATUS. What cannot be sent now waits for the next call or [`flush`](Notifier::flush).
/// 3. What waits is bounded: at most four states, one status and one limit of the watchdog. WATCHDOG and EXTEND_TIMEOUT_USEC speak of
///    the moment they are sent in, and never wait.
#[derive(Debug)]
pub(crate) struct Notifier {
    manager: Option<Manager>,
    states: VecDeque<State>,
    status: Option<String>,
    /// The limit that the manager has not heard of.
    limit: Option<Duration>,
    watchdog: Option<Duration>,
    trouble: Option<Trouble>,
}

/// The manager has taken nothing since then.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    /// It was logged.
    told: bool,
}

#[derive(Debug)]
struct Manager {
    /// Unbound and non-blocking; the address goes with each message, so that a manager that has made its
    /// socket anew is reached.
    socket: UnixDatagram,
    address: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Reloading(u64),
    Stopping,
}

/// What the environment says about the service manager.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) notify_socket: Option<OsString>,
    pub(crate) watchdog_usec: Option<OsString>,
    pub(crate) watchdog_pid: Option<OsString>,
    /// How many descriptors the manager's store takes. Not before systemd 254, and not when it takes none.
    #[serde(default)]
    pub(crate) fd_store: Option<OsString>,
}

impl Settings {
    /// Reads the variables and unsets them, so that no child speaks in our name.
    ///
    /// # Errors
    /// Other threads run (exit 71).
    pub(crate) fn take() -> Result<Self, Failure> {
        let names = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE"];
        let mut settings = Self::default();
        let taken = sys::environment::take(&names).map_err(|error| {
            Failure::new(ExitCode::Os, "NOTIFY_SOCKET cannot be unset").because(error)
        })?;
        for (name, value) in taken {
            match name {
                "NOTIFY_SOCKET" => settings.notify_socket = Some(value),
                "WATCHDOG_USEC" => settings.watchdog_usec = Some(value),
                "FDSTORE" => settings.fd_store = Some(value),
                _ => settings.watchdog_pid = Some(value),
            }
        }
        Ok(settings)
    }

    /// The manager wants to hear WATCHDOG=1 from the process with this pid.
    pub(crate) fn is_watched(&self, pid: u32) -> bool {
        matches!(watchdog(self, pid), Ok(Some(_)))
    }

    /// A further line to the manager, for its file descriptor store; `None`: there is no manager.
    ///
    /// # Errors
    /// It cannot be reached.
    pub(crate) fn line(&self) -> io::Result<Option<fd_store::Line>> {
        let Some(to) = &self.notify_socket else {
            return Ok(None);
        };
        let manager = Manager::open(to).map_err(io::Error::other)?;
        manager.socket.connect_addr(&manager.address)?;
        Ok(Some(fd_store::Line::over(manager.socket)))
    }

    /// How many descriptors the manager's store takes, where it says so.
    pub(crate) fn fd_store_max(&self) -> Option<usize> {
        self.fd_store.as_ref()?.to_str()?.parse().ok()
    }
}

impl Notifier {
    /// The notifier, and notes for the log about settings that cannot be used.
    pub(crate) fn new(settings: &Settings, pid: u32) -> (Self, Vec<String>) {
        let mut notes = Vec::new();
        let manager = settings
            .notify_socket
            .as_ref()
            .map(|to| Manager::open(to).map_err(|why| unusable("NOTIFY_SOCKET", to, &why)));
        let manager = manager.transpose().unwrap_or_else(|note| {
            notes.push(note);
            None
        });
        let watchdog = watchdog(settings, pid).unwrap_or_else(|note| {
            notes.push(note);
            None
        });
        let notifier = Self {
            manager,
            states: VecDeque::new(),
            status: None,
            limit: None,
            watchdog,
            trouble: None,
        };
        (notifier, notes)
    }

    /// STATUS=, made one line and cut to what fits.
    pub(crate) fn status(&mut self, text: &str) {
        self.send(&[Say::Status(text)]);
    }

    /// WATCHDOG=1.
    pub(crate) fn watchdog(&mut self) {
        self.send(&[Say::Watchdog]);
    }

    /// EXTEND_TIMEOUT_USEC=
    pub(crate) fn extend_timeout(&mut self, by: Duration) {
        self.send(&[Say::ExtendTimeout(by)]);
    }

    /// Sends all of it in one datagram, after what still waits.
    pub(crate) fn send(&mut self, says: &[Say<'_>]) {
        if self.manager.is_none() || says.is_empty() {
            return;
        }
        self.flush();
        if self.has_pending() || !self.transmit(&datagram(says)) {
            for say in says {
                self.keep(*say);
            }
        }
    }

    /// Tries again to send what waits.
    pub(crate) fn flush(&mut self) {
        while self.has_pending() {
            let mut says = Vec::with_capacity(2);
            says.extend(self.states.front().map(|state| match state {
                State::Ready => Say::Ready,
                State::Reloading(usec) => Say::Reloading(*usec),
                State::Stopping => Say::Stopping,
            }));
            // The status is of now: it goes with the newest state.
            if self.states.len() <= 1 {
                says.extend(self.status.as_deref().map(Say::Status));
                says.extend(self.limit.map(Say::WatchdogLimit));
            }
            let message = datagram(&says);
            if !self.transmit(&message) {
                return;
            }
            self.states.pop_front();
            if self.states.is_empty() {
                self.status = None;
                self.limit = None;
            }
        }
    }

    fn keep(&mut self, say: Say<'_>) {
        let state = match say {
            Say::Status(text) => {
                self.status = Some(one_line(text, LARGEST));
                return;
            }
            Say::WatchdogLimit(limit) => {
                self.limit = Some(limit);
                return;
            }
            Say::Watchdog | Say::ExtendTimeout(_) => return,
            Say::Ready => State::Ready,
            Say::Reloading(usec) => State::Reloading(usec),
            Say::Stopping => State::Stopping,
        };
        match (self.states.back(), state) {
            (Some(State::Stopping), _) | (Some(State::Ready), State::Ready) => return,
            (_, State::Reloading(_)) => {
                // An earlier reload that the manager has not heard of is over: this one stands for both.
                let earlier = self
                    .states
                    .iter()
                    .position(|state| matches!(state, State::Reloading(_)));
                self.states.truncate(earlier.unwrap_or(self.states.len()));
            }
            _ => {}
        }
        self.states.push_back(state);
    }

    fn transmit(&mut self, message: &str) -> bool {
        let Some(manager) = &self.manager else {
            return true;
        };
        match manager
            .socket
            .send_to_addr(message.as_bytes(), &manager.address)
        {
            Ok(_) => {
                self.is_taken();
                true
            }
            Err(error) => {
                self.is_refused(&error);
                false
            }
        }
    }

    fn is_refused(&mut self, error: &io::Error) {
        let trouble = self.trouble.get_or_insert_with(|| Trouble {
            since: Instant::now(),
            told: false,
        });
        let patience = if is_full(error) { BUSY } else { Duration::ZERO };
        if !trouble.told && trouble.since.elapsed() >= patience {
            trouble.told = true;
            tracing::warn!(
                error = %error,
                "the service manager does not take notifications: the service goes on, and tells it the state later"
            );
        }
    }

    fn is_taken(&mut self) {
        if self.trouble.take().is_some_and(|trouble| trouble.told) {
            tracing::info!("the service manager takes notifications again");
        }
    }

    /// Something waits for the manager: call [`flush`](Notifier::flush) again soon.
    pub(crate) fn has_pending(&self) -> bool {
        !self.states.is_empty() || self.status.is_some() || self.limit.is_some()
    }

    /// How often WATCHDOG=1 is due: half of what the manager allows. `None`: never.
    pub(crate) fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog
    }
}

impl Manager {
    fn open(to: &OsString) -> Result<Self, String> {
        let system = |error: io::Error| error.to_string();
        let address = match to.as_bytes() {
            [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(to),
            [b'v', b's', b'o', b'c', b'k', ..] => return Err("vsock is not supported".into()),
            _ => return Err("neither an absolute path nor @ and a name".into()),
        };
        let address = address.map_err(system)?;
        let socket = UnixDatagram::unbound().map_err(system)?;
        socket.set_nonblocking(true).map_err(system)?;
        Ok(Self { socket, address })
    }
}

/// sd_watchdog_enabled(3).
fn watchdog(settings: &Settings, pid: u32) -> Result<Option<Duration>, String> {
    let number = |name: &str, value: &OsString| {
        let parsed = value.to_str().and_then(|text| text.parse::<u64>().ok());
        parsed.ok_or_else(|| unusable(name, value, "not a number"))
    };
    let Some(usec) = &settings.watchdog_usec else {
        return Ok(None);
    };
    if let Some(owner) = &settings.watchdog_pid
        && number("WATCHDOG_PID", owner)? != u64::from(pid)
    {
        return Ok(None);
    }
    let interval = Duration::from_micros(number("WATCHDOG_USEC", usec)?) / 2;
    Ok((!interval.is_zero()).then_some(interval))
}

fn unusable(name: &str, value: &OsString, why: &str) -> String {
    format!("{name}={} is not used: {why}", value.display())
}

/// The text of one message. STATUS takes what room the others leave.
fn datagram(says: &[Say<'_>]) -> String {
    let is_status = |say: &&Say<'_>| matches!(say, Say::Status(_));
    let others: usize = says
        .iter()
        .filter(|say| !is_status(say))
        .map(|say| assignment(*say, 0).len() + 1)
        .sum();
    let room = LARGEST.saturating_sub(others + "STATUS=".len());
    let lines: Vec<String> = says.iter().map(|say| assignment(*say, room)).collect();
    lines.join("\n")
}

fn assignment(say: Say<'_>, room: usize) -> String {
    match say {
        Say::Ready => NotifyState::Ready.to_string(),
        Say::Reloading(usec) => {
            format!(
                "{}\n{}",
                NotifyState::Reloading,
                NotifyState::MonotonicUsec(usec.into())
            )
        }
        Say::Stopping => NotifyState::Stopping.to_string(),
        Say::Status(text) => NotifyState::Status(&one_line(text, room)).to_string(),
        Say::Watchdog => NotifyState::Watchdog.to_string(),
        // sd-notify's own variant holds 32 bits, 71 minutes.
        Say::ExtendTimeout(by) => {
            let usec = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
            NotifyState::Custom(&format!("EXTEND_TIMEOUT_USEC={usec}")).to_string()
        }
        Say::WatchdogLimit(limit) => {
            let usec = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
            NotifyState::Custom(&format!("WATCHDOG_USEC={usec}")).to_string()
        }
    }
}

/// A newline in a status would begin another assignment. Cut at a character, at most `room` bytes.
fn one_line(text: &str, room: usize) -> String {
    let mut line = String::with_capacity(text.len().min(room));
    for character in text.chars() {
        let character = if character.is_control() {
            ' '
        } else {
            character
        };
        if line.len() + character.len_utf8() > room {
            break;
        }
        line.push(character);
    }
    line
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(nix::libc::ENOBUFS)
}

#[cfg(test)]
mod tests;
