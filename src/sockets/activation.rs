//! Taking over sockets that somebody else bound.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use listenfd::ListenFd;
use nix::sys::stat::{SFlag, fstat};
use socket2::{Domain, Protocol, SockRef, Type};

use super::environment::{Decision, Snapshot, VARIABLES};
use super::{Listener, ListenerAddress, Origin};
use crate::exit::{ExitCode, Failure};
use crate::sys;
use crate::systemd::fd_store::Name;

/// What was passed to this process, not yet checked.
///
/// A clean end of the process closes nothing that matters: the listeners stay open in whoever passed them.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    pub(crate) fds: Vec<PassedFd>,
    /// What this service has left in the manager's file descriptor store.
    pub(crate) stored: Vec<Stored>,
    /// Why nothing was taken, where that may surprise.
    pub(crate) note: Option<String>,
}

/// One descriptor from LISTEN_FDS.
#[derive(Debug)]
pub(crate) struct PassedFd {
    pub(crate) number: RawFd,
    pub(crate) name: String,
    /// An error when the number is not open.
    pub(crate) fd: io::Result<OwnedFd>,
}

/// One descriptor from the store, open, and no listener.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) name: Name,
    pub(crate) fd: OwnedFd,
}

/// Takes the passed descriptors, makes them close-on-exec and unsets the variables.
///
/// Call it once, first of all in `main`: no thread may run, and no descriptor may have been opened, since
/// LISTEN_FDS is believed when it says which numbers are ours.
///
/// # Errors
/// The variables make no sense (exit 78), or other threads run (exit 71).
pub(crate) fn take() -> Result<Passed, Failure> {
    let snapshot = Snapshot::read();
    let decision = snapshot.decide();
    let passed = match decision {
        Ok(Decision::Nothing { note }) => Ok(Passed {
            note,
            ..Passed::default()
        }),
        Ok(Decision::Take { first, names }) => adopt(first, names),
        Err(failure) => Err(failure),
    };
    sys::environment::take(&VARIABLES).map_err(|error| {
        Failure::new(ExitCode::Os, "the LISTEN_ variables cannot be unset").because(error)
    })?;
    passed
}

/// Checks every descriptor, makes it non-blocking, and says what it listens on.
///
/// # Errors
/// Exit 78 when one of them is not a listening stream socket. The message names each such descriptor, what
/// it is and the cure.
pub(crate) fn check(passed: Vec<PassedFd>) -> Result<Vec<Listener>, Failure> {
    let count = passed.len();
    let mut listeners = Vec::with_capacity(count);
    let mut faults = Vec::new();
    for PassedFd { number, name, fd } in passed {
        match fd
            .map_err(|_| Fault::Closed)
            .and_then(|fd| listener(fd, &name))
        {
            Ok(listener) => listeners.push(listener),
            Err(fault) => faults.push(format!("fd {number} '{name}' {fault}")),
        }
    }
    if faults.is_empty() {
        return Ok(listeners);
    }
    Err(Failure::new(
        ExitCode::Config,
        format!(
            "{} of {count} passed file descriptors cannot be used: {}",
            faults.len(),
            faults.join("; ")
        ),
    ))
}

fn adopt(first: RawFd, names: Vec<String>) -> Result<Passed, Failure> {
    let mut manager = ListenFd::from_env();
    if manager.len() != names.len() {
        return Err(Failure::new(
            ExitCode::Config,
            format!(
                "listenfd found {} passed descriptors, LISTEN_FDS says {}",
                manager.len(),
                names.len()
            ),
        ));
    }
    let fds = (first..)
        .zip(names)
        .enumerate()
        .map(|(index, (number, name))| {
            let fd = match manager.take_raw_fd(index) {
                Ok(Some(raw)) => sys::fds::adopt(raw),
                Ok(None) => Err(io::ErrorKind::NotFound.into()),
                Err(error) => Err(error),
            };
            PassedFd { number, name, fd }
        });
    Ok(sort(fds))
}

/// Listeners and what comes from the store arrive in one list, in any order. What listens is a listener, whatever
/// its name is; a stored descriptor that is not there any more is missed by nobody.
fn sort(all: impl Iterator<Item = PassedFd>) -> Passed {
    let mut passed = Passed::default();
    for one in all {
        let listens = |fd: &OwnedFd| SockRef::from(fd).is_listener().unwrap_or(false);
        match (Name::parse(&one.name), one.fd) {
            (Some(name), Ok(fd)) if !listens(&fd) => passed.stored.push(Stored { name, fd }),
            (Some(_), Err(_)) => {}
            (_, fd) => passed.fds.push(PassedFd { fd, ..one }),
        }
    }
    passed
}

/// What is wrong with a passed descriptor.
#[derive(Debug)]
enum Fault {
    Closed,
    NoSocket(&'static str),
    WrongType(&'static str, &'static str),
    WrongFamily(String),
    Stored,
    Connected(String),
    NotListening(String),
    System(&'static str, io::Error),
}

fn listener(fd: OwnedFd, name: &str) -> Result<Listener, Fault> {
    let address = inspect(&fd, name)?;
    SockRef::from(&fd)
        .set_nonblocking(true)
        .map_err(|error| Fault::System("cannot be made non-blocking", error))?;
    Ok(Listener {
        fd,
        name: name.to_owned(),
        address,
        origin: Origin::Passed,
        wanted: None,
    })
}

fn inspect(fd: &OwnedFd, name: &str) -> Result<ListenerAddress, Fault> {
    let system = |error| Fault::System("cannot be examined", error);
    let mode = fstat(fd).map_err(|error| system(error.into()))?.st_mode;
    let kind = SFlag::from_bits_truncate(mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFSOCK {
        return Err(Fault::NoSocket(file_kind(kind)));
    }
    let socket = SockRef::from(fd);
    let domain = socket.domain().map_err(system)?;
    let socket_type = socket.r#type().map_err(system)?;
    if socket_type == Type::DGRAM {
        return Err(Fault::WrongType("a datagram socket", "ListenDatagram="));
    }
    if socket_type == Type::SEQPACKET {
        return Err(Fault::WrongType(
            "a sequential packet socket",
            "ListenSequentialPacket=",
        ));
    }
    if socket_type != Type::STREAM {
        return Err(Fault::WrongType(
            "a raw socket",
            "ListenNetlink= or ListenSpecial=",
        ));
    }
    let protocol = socket.protocol().map_err(system)?;
    let is_known = match domain {
        Domain::IPV4 | Domain::IPV6 => {
            protocol.is_none_or(|protocol| [Protocol::TCP, Protocol::MPTCP].contains(&protocol))
        }
        Domain::UNIX => true,
        _ => false,
    };
    if !is_known {
        return Err(Fault::WrongFamily(format!("family {}", i32::from(domain))));
    }
    let address = ListenerAddress::of(fd).map_err(system)?;
    if socket.is_listener().map_err(system)? {
        return Ok(address);
    }
    if name == "stored" {
        return Err(Fault::Stored);
    }
    Err(match socket.peer_addr() {
        Ok(_) => Fault::Connected(address.to_string()),
        Err(_) => Fault::NotListening(address.to_string()),
    })
}

fn file_kind(kind: SFlag) -> &'static str {
    match kind {
        SFlag::S_IFREG => "a regular file",
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFIFO => "a pipe",
        SFlag::S_IFCHR | SFlag::S_IFBLK => "a device",
        _ => "no socket",
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str(
                "is not open: LISTEN_FDS counts more than was passed; let systemd or systemfd set it",
            ),
            Self::NoSocket(kind) => write!(
                f,
                "is {kind}, not a socket: pass listening stream sockets only (ListenStream= in the .socket \
                 unit, no OpenFile= in the .service unit)"
            ),
            Self::WrongType(kind, setting) => write!(
                f,
                "is {kind}: write ListenStream= instead of {setting} in the .socket unit"
            ),
            Self::WrongFamily(family) => write!(
                f,
                "is a stream socket of {family}: payload serves TCP over IPv4 and IPv6 and Unix sockets; \
                 change ListenStream= in the .socket unit"
            ),
            Self::Stored => f.write_str(
                "comes from the file descriptor store, and payload has not put it there; stop the service, \
                 which empties the store, and start it again",
            ),
            Self::Connected(address) => write!(
                f,
                "is a connected socket ({address}), not a listening one: write Accept=no in the .socket unit"
            ),
            Self::NotListening(address) => write!(
                f,
                "is a stream socket ({address}) that does not listen: let the .socket unit open it with \
                 ListenStream="
            ),
            Self::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl ListenerAddress {
    /// What getsockname(2) says of a socket of TCP or AF_UNIX.
    ///
    /// # Errors
    /// It is of another family, or not a socket.
    pub(crate) fn of(socket: &impl AsFd) -> io::Result<Self> {
        let address = SockRef::from(socket).local_addr()?;
        if let Some(address) = address.as_socket() {
            Ok(Self::Tcp(address))
        } else if let Some(path) = address.as_pathname() {
            Ok(Self::UnixPath(path.to_owned()))
        } else if let Some(name) = address.as_abstract_namespace() {
            Ok(Self::UnixAbstract(name.to_owned()))
        } else if address.is_unnamed() {
            Ok(Self::UnixUnnamed)
        } else {
            Err(io::Error::other("an address that is neither TCP nor Unix"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use socket2::Socket;

    fn passed(number: RawFd, name: &str, fd: impl Into<OwnedFd>) -> PassedFd {
        PassedFd {
            number,
            name: name.into(),
            fd: Ok(fd.into()),
        }
    }

    fn refusal(fd: impl Into<OwnedFd>) -> String {
        let failure = check(vec![passed(3, "web", fd)]).unwrap_err();
        assert_eq!(failure.code(), ExitCode::Config);
        let text = failure.to_string();
        assert!(text.contains("fd 3 'web' is "), "{text}");
        text
    }

    #[test]
    fn every_kind_of_listener_is_taken_with_its_address() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let name = format!("payload-test-{}", std::process::id());
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let v6 = TcpListener::bind("[::1]:0").unwrap();
        let expected = [
            ListenerAddress::Tcp(v4.local_addr().unwrap()),
            ListenerAddress::Tcp(v6.local_addr().unwrap()),
            ListenerAddress::UnixPath(path.clone()),
            ListenerAddress::UnixAbstract(name.clone().into_bytes()),
        ];
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let listeners = check(vec![
            passed(3, "web", v4),
            passed(4, "web", v6),
            passed(5, "local", UnixListener::bind(&path).unwrap()),
            passed(
                6,
                "hidden",
                UnixListener::bind_addr(&abstract_address).unwrap(),
            ),
        ])
        .unwrap();
        assert_eq!(
            listeners
                .iter()
                .map(|l| l.address.clone())
                .collect::<Vec<_>>(),
            expected
        );
        assert_eq!(
            listeners
                .iter()
                .map(|l| l.name.as_str())
                .collect::<Vec<_>>(),
            ["web", "web", "local", "hidden"]
        );
        for listener in &listeners {
            let flags = OFlag::from_bits_truncate(fcntl(listener, FcntlArg::F_GETFL).unwrap());
            assert!(
                flags.contains(OFlag::O_NONBLOCK),
                "{} blocks",
                listener.name
            );
            assert_eq!(listener.origin, Origin::Passed);
        }
    }

    #[test]
    fn a_datagram_or_packet_socket_is_refused_with_the_right_setting() {
        let text = refusal(UdpSocket::bind("127.0.0.1:0").unwrap());
        assert!(
            text.contains("ListenStream= instead of ListenDatagram="),
            "{text}"
        );
        let packets = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        let text = refusal(packets);
        assert!(
            text.contains("ListenStream= instead of ListenSequentialPacket="),
            "{text}"
        );
    }

    #[test]
    fn a_connected_socket_is_refused_with_accept_no() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        assert!(refusal(client).contains("Accept=no"));
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(refusal(one).contains("Accept=no"));
    }

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert!(refusal(socket).contains("does not listen"));
    }

    #[test]
    fn what_is_no_socket_is_refused_by_its_kind() {
        assert!(refusal(tempfile::tempfile().unwrap()).contains("a regular file"));
        assert!(refusal(std::io::pipe().unwrap().0).contains("a pipe"));
        assert!(refusal(std::fs::File::open("/dev/null").unwrap()).contains("a device"));
    }

    #[test]
    fn a_stored_connection_is_not_mistaken_for_accept_yes() {
        let (one, _other) = UnixStream::pair().unwrap();
        let text = check(vec![passed(3, "stored", one)])
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("fd 3 'stored' comes from the file descriptor store"),
            "{text}"
        );
    }

    #[test]
    fn what_was_stored_is_told_from_listeners_by_name_in_any_order() {
        let connection = || OwnedFd::from(UnixStream::pair().unwrap().0);
        let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = PassedFd {
            number: 8,
            name: "payload-connections-9".into(),
            fd: Err(io::ErrorKind::NotFound.into()),
        };
        let passed = sort(
            [
                passed(3, "payload-connections-2", connection()),
                passed(4, "web", listener()),
                passed(5, "payload-check", std::io::pipe().unwrap().1),
                // Somebody calls a socket so.
                passed(6, "payload-connections-1", listener()),
                passed(7, "payload-ledger-1", tempfile::tempfile().unwrap()),
                gone,
            ]
            .into_iter(),
        );
        let stored: Vec<_> = passed.stored.iter().map(|one| one.name.clone()).collect();
        assert_eq!(stored, [Name::Connections(2), Name::Check, Name::Ledger(1)]);
        let listeners = check(passed.fds).unwrap();
        let names: Vec<_> = listeners.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["web", "payload-connections-1"]);
    }

    #[test]
    fn all_faults_are_told_together() {
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = PassedFd {
            number: 5,
            name: "gone".into(),
            fd: Err(io::ErrorKind::NotFound.into()),
        };
        let text = check(vec![
            passed(3, "good", good),
            passed(4, "udp", UdpSocket::bind("127.0.0.1:0").unwrap()),
            closed,
        ])
        .unwrap_err()
        .to_string();
        assert!(
            text.starts_with("2 of 3 passed file descriptors cannot be used: fd 4 'udp'"),
            "{text}"
        );
        assert!(text.contains("; fd 5 'gone' is not open"), "{text}");
    }
}
