//! Listening sockets: taken over from whoever bound them, or bound here.

pub(crate) mod activation;
mod address;
mod bind;
mod environment;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::exit::{ExitCode, Failure};
use crate::status::Socket;
pub(crate) use activation::Passed;
pub(crate) use address::check_path;
pub(crate) use bind::OwnPaths;

/// An address to listen on, as the operator writes it: `127.0.0.1:8080`, `[::]:80`, `unix:/run/x.sock`,
/// `unix:@abstract`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(std::net::SocketAddr),
    UnixPath(PathBuf),
    /// Without the leading `@`.
    UnixAbstract(Vec<u8>),
}

/// Who bound a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// Passed by systemd or systemfd.
    Passed,
    /// Bound by this process.
    Bound,
}

impl Origin {
    /// The word for logs and status.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Origin::Passed => "passed",
            Origin::Bound => "bound",
        }
    }
}

/// A listening stream socket: non-blocking, close-on-exec, checked.
///
/// Its open file description may be shared with systemd: it is never shut down, re-listened or unlinked.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) fd: OwnedFd,
    /// From LISTEN_FDNAMES, or made up: `listen` for what was bound here.
    pub(crate) name: String,
    pub(crate) address: ListenerAddress,
    pub(crate) origin: Origin,
    /// For one that was bound here: the address as the operator wrote it.
    pub(crate) wanted: Option<String>,
}

impl Listener {
    /// As the status shows it.
    pub(crate) fn shown(&self) -> Socket {
        Socket {
            name: self.name.clone(),
            address: self.address.to_string(),
            origin: self.origin.name().to_owned(),
        }
    }
}

/// What getsockname(2) says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenerAddress {
    Tcp(std::net::SocketAddr),
    UnixPath(PathBuf),
    UnixAbstract(Vec<u8>),
    UnixUnnamed,
}

/// The sockets of a service, and what its operator should know about where they came from.
#[derive(Debug)]
pub(crate) struct Acquired {
    pub(crate) listeners: Vec<Listener>,
    /// Whole sentences, for the log.
    pub(crate) notes: Vec<String>,
    /// To be removed at the end of the arbiter.
    pub(crate) own_paths: OwnPaths,
}

/// Uses the sockets that were passed, or binds `listen` when there is none. Passed sockets win.
///
/// `listen_was_set` says that the operator chose `listen`, and should hear when it is not used.
///
/// # Errors
/// A passed descriptor that cannot be used (exit 78): never a silent bind instead. An address that cannot
/// be bound: see [`bind::bind`].
pub(crate) fn acquire(
    passed: Passed,
    listen: &[Address],
    listen_was_set: bool,
    backlog: u32,
) -> Result<Acquired, Failure> {
    let mut notes = Vec::from_iter(passed.note);
    if passed.fds.is_empty() {
        let (listeners, own_paths) = bind::bind(listen, backlog)?;
        notes.push(format!(
            "no socket was passed; listening on {}",
            places(&listeners)
        ));
        return Ok(Acquired {
            listeners,
            notes,
            own_paths,
        });
    }
    let listeners = activation::check(passed.fds)?;
    if listen_was_set {
        notes.push(match listeners.len() {
            1 => "1 socket was passed; `listen` is not used".into(),
            count => format!("{count} sockets were passed; `listen` is not used"),
        });
    }
    Ok(Acquired {
        listeners,
        notes,
        own_paths: OwnPaths::default(),
    })
}

/// Whether a connection waits on one of them to be accepted. Also when that cannot be found out.
pub(crate) fn any_waits(listeners: &[Listener]) -> bool {
    let watch = |listener| PollFd::new(AsFd::as_fd(listener), PollFlags::POLLIN);
    let mut watched: Vec<PollFd<'_>> = listeners.iter().map(watch).collect();
    poll(&mut watched, PollTimeout::ZERO) != Ok(0)
}

/// Listeners that another image of this program had, matched with what `listen` asks for now.
#[derive(Debug, Default)]
pub(crate) struct Matched {
    /// To be used from now on.
    pub(crate) kept: Vec<Listener>,
    /// Bound before, and not asked for any more.
    pub(crate) surplus: Vec<Listener>,
    /// To be bound.
    pub(crate) missing: Vec<Address>,
}

/// Passed sockets stay, whatever `listen` says. Of those bound here, each address that is still wanted is kept.
pub(crate) fn rematch(listeners: Vec<Listener>, listen: &[Address]) -> Matched {
    let mut matched = Matched::default();
    if listeners.iter().any(|one| one.origin == Origin::Passed) {
        matched.kept = listeners;
        return matched;
    }
    let mut left = listeners;
    for address in listen {
        let text = address.to_string();
        let same = |one: &Listener| one.wanted.as_deref() == Some(&text);
        match left.iter().position(same) {
            Some(index) => matched.kept.push(left.remove(index)),
            None => matched.missing.push(address.clone()),
        }
    }
    matched.surplus = left;
    matched
}

/// Binds addresses, or none of them.
///
/// # Errors
/// See [`bind::bind`].
pub(crate) fn bind_all(
    addresses: &[Address],
    backlog: u32,
) -> Result<(Vec<Listener>, OwnPaths), Failure> {
    bind::bind(addresses, backlog)
}

/// Binds one address.
///
/// # Errors
/// See [`bind::bind`].
pub(crate) fn bind_one(address: &Address, backlog: u32) -> Result<(Listener, OwnPaths), Failure> {
    let (listeners, own_paths) = bind::bind(std::slice::from_ref(address), backlog)?;
    let listener = listeners.into_iter().next();
    let listener = listener.ok_or_else(|| Failure::new(ExitCode::Software, "nothing was bound"))?;
    Ok((listener, own_paths))
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Display for ListenerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::UnixPath(path) => write!(f, "unix:{}", path.display()),
            Self::UnixAbstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
            Self::UnixUnnamed => f.write_str("unix:(unnamed)"),
        }
    }
}

/// As one would type it into a client.
fn places(listeners: &[Listener]) -> String {
    let place = |listener: &Listener| match &listener.address {
        ListenerAddress::Tcp(address) => format!("http://{address}"),
        other => other.to_string(),
    };
    listeners
        .iter()
        .map(place)
        .collect::<Vec<_>>()
        .join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::ExitCode;
    use activation::PassedFd;
    use std::net::{TcpListener, UdpSocket};

    fn passed(fds: Vec<OwnedFd>) -> Passed {
        let fds = fds.into_iter().zip(3..).map(|(fd, number)| PassedFd {
            number,
            name: "web".into(),
            fd: Ok(fd),
        });
        Passed {
            fds: fds.collect(),
            ..Passed::default()
        }
    }

    fn loopback() -> OwnedFd {
        TcpListener::bind("127.0.0.1:0").unwrap().into()
    }

    fn any() -> [Address; 1] {
        [Address::Tcp("127.0.0.1:0".parse().unwrap())]
    }

    #[test]
    fn without_a_passed_socket_the_own_address_is_said() {
        let acquired = acquire(Passed::default(), &any(), false, 16).unwrap();
        let address = &acquired.listeners[0].address;
        assert_eq!(
            acquired.notes,
            [format!(
                "no socket was passed; listening on http://{address}"
            )]
        );
    }

    #[test]
    fn passed_sockets_beat_listen_and_that_is_said_to_whoever_set_it() {
        let acquired = acquire(passed(vec![loopback(), loopback()]), &any(), true, 16).unwrap();
        assert_eq!(acquired.listeners.len(), 2);
        assert!(
            acquired
                .listeners
                .iter()
                .all(|listener| listener.origin == Origin::Passed)
        );
        assert_eq!(
            acquired.notes,
            ["2 sockets were passed; `listen` is not used"]
        );
        let acquired = acquire(passed(vec![loopback()]), &any(), false, 16).unwrap();
        assert_eq!(acquired.notes, [""; 0]);
    }

    #[test]
    fn passed_descriptors_without_a_listener_never_lead_to_an_own_bind() {
        let datagram = UdpSocket::bind("127.0.0.1:0").unwrap().into();
        let failure = acquire(passed(vec![datagram]), &any(), false, 16).unwrap_err();
        assert_eq!(failure.code(), ExitCode::Config);
    }
}
