//! Binding listeners of our own, when nobody passed one.

use std::io::{self, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::{ffi::OsString, fs};

use nix::libc;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Address, Listener, ListenerAddress, Origin};
use crate::exit::{ExitCode, Failure};

/// The socket files that this process has made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct OwnPaths(Vec<OwnPath>);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct OwnPath {
    /// Not a `PathBuf`: that one is written as UTF-8 or not at all.
    path: OsString,
    /// Device and inode, to tell our file from one that has taken its place.
    identity: (u64, u64),
}

/// Listens on every address, or on none.
///
/// # Errors
/// The first address that cannot be had: exit 69 when it is taken or not there, 77 without permission, 78
/// when it cannot be an address, 71 for the rest.
pub(crate) fn bind(
    addresses: &[Address],
    backlog: u32,
) -> Result<(Vec<Listener>, OwnPaths), Failure> {
    let mut listeners = Vec::with_capacity(addresses.len());
    let mut own = OwnPaths::default();
    for address in addresses {
        let refuse = |error: io::Error| refused(address, addresses, &error);
        let bound = match address {
            Address::Tcp(tcp) => bind_tcp(*tcp, backlog).map_err(refuse),
            Address::UnixPath(path) => bind_path(address, path, backlog, &mut own),
            Address::UnixAbstract(name) => bind_abstract(address, name, backlog),
        };
        match bound.and_then(|fd| listener(fd, address).map_err(refuse)) {
            Ok(listener) => listeners.push(listener),
            Err(failure) => {
                own.remove();
                return Err(failure);
            }
        }
    }
    Ok((listeners, own))
}

impl OwnPaths {
    /// Takes over the care for another's files.
    pub(crate) fn append(&mut self, mut other: OwnPaths) {
        self.0.append(&mut other.0);
    }

    /// Parts with the care for one file, if it has it.
    pub(crate) fn split_off(&mut self, path: &Path) -> OwnPaths {
        let (off, rest) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|own| own.path == path.as_os_str());
        self.0 = rest;
        OwnPaths(off)
    }

    /// Removes the files that are still ours. For the very end of the arbiter's life: a worker never calls it.
    pub(crate) fn remove(&self) {
        for own in &self.0 {
            if identity(Path::new(&own.path)).is_ok_and(|now| now == own.identity) {
                // Who cannot remove it leaves a stale file, which the next start replaces.
                let _ = fs::remove_file(&own.path);
            }
        }
    }
}

fn listener(fd: OwnedFd, wanted: &Address) -> io::Result<Listener> {
    Ok(Listener {
        address: ListenerAddress::of(&fd)?,
        fd,
        name: "listen".into(),
        origin: Origin::Bound,
        wanted: Some(wanted.to_string()),
    })
}

fn bind_tcp(address: SocketAddr, backlog: u32) -> io::Result<OwnedFd> {
    let socket = stream(Domain::for_address(address))?;
    // Connections of an earlier process in TIME_WAIT must not keep the address (socket(7)).
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // `[::]` takes IPv4 as well, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    listen(socket, &address.into(), backlog)
}

fn bind_abstract(address: &Address, name: &[u8], backlog: u32) -> Result<OwnedFd, Failure> {
    if name.is_empty() {
        return Err(failure(
            ExitCode::Config,
            address,
            "an abstract socket needs a name behind the @",
        ));
    }
    let mut path = vec![0];
    path.extend_from_slice(name);
    let to = unix_address(address, Path::new(&OsString::from_vec(path)))?;
    stream(Domain::UNIX)
        .and_then(|socket| listen(socket, &to, backlog))
        .map_err(|error| refused(address, &[], &error))
}

fn bind_path(
    address: &Address,
    path: &Path,
    backlog: u32,
    own: &mut OwnPaths,
) -> Result<OwnedFd, Failure> {
    let to = unix_address(address, path)?;
    make_room(address, path, &to)?;
    let fd = stream(Domain::UNIX)
        .and_then(|socket| listen(socket, &to, backlog))
        .map_err(|error| refused(address, &[], &error))?;
    let identity = identity(path).map_err(|error| refused(address, &[], &error))?;
    own.0.push(OwnPath {
        path: path.into(),
        identity,
    });
    Ok(fd)
}

/// Removes a socket file on which nobody listens. Whatever else stands there stays, and is an error.
fn make_room(address: &Address, path: &Path, to: &SockAddr) -> Result<(), Failure> {
    let Ok(found) = fs::symlink_metadata(path) else {
        // Nothing is there. A missing directory shows in bind(2), as does all else.
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(failure(
            ExitCode::Unavailable,
            address,
            "a file that is not a socket stands there, and payload does not remove it; choose another path",
        ));
    }
    let refuse = |error: io::Error| refused(address, &[], &error);
    match stream(Domain::UNIX).map_err(refuse)?.connect(to) {
        // unix(7): nobody listens on the file.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            if identity(path).is_ok_and(|now| now == (found.dev(), found.ino())) {
                fs::remove_file(path).map_err(refuse)?;
            }
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(failure(
            ExitCode::NoPermission,
            address,
            "a socket file stands there that this user must not open; remove it or choose another path",
        )),
        // Accepted, or its backlog is full (EAGAIN), or it is a socket of another type (EPROTOTYPE).
        _ => Err(failure(
            ExitCode::Unavailable,
            address,
            "another process listens there; stop it or choose another path",
        )),
    }
}

fn stream(domain: Domain) -> io::Result<Socket> {
    // Close-on-exec comes with `new`.
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listen(socket: Socket, to: &SockAddr, backlog: u32) -> io::Result<OwnedFd> {
    socket.bind(to)?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

fn unix_address(address: &Address, path: &Path) -> Result<SockAddr, Failure> {
    SockAddr::unix(path).map_err(|_| {
        let length = path.as_os_str().as_bytes().len();
        failure(
            ExitCode::Config,
            address,
            &format!("the name has {length} bytes, and 107 are the most that unix(7) takes"),
        )
    })
}

/// What bind(2), listen(2) or a step on the way to them said, with the cure where the address shows it.
fn refused(address: &Address, all: &[Address], error: &io::Error) -> Failure {
    use ErrorKind::{
        AddrInUse, AddrNotAvailable, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
    };
    let is_path = matches!(address, Address::UnixPath(_));
    let is_privileged = matches!(address, Address::Tcp(tcp) if tcp.port() < 1024);
    let (code, cure) = match error.kind() {
        AddrInUse if covered(address, all) => (
            ExitCode::Unavailable,
            "[::] takes IPv4 as well: leave one of the two out",
        ),
        AddrInUse => (
            ExitCode::Unavailable,
            "`ss -lxtnp` shows who has it; stop that, or choose another with --listen",
        ),
        AddrNotAvailable => (
            ExitCode::Unavailable,
            "this machine does not have the address",
        ),
        NotFound | NotADirectory if is_path => (
            ExitCode::Unavailable,
            "create its directory, or let the unit do it with RuntimeDirectory=",
        ),
        PermissionDenied | ReadOnlyFilesystem if is_path => (
            ExitCode::NoPermission,
            "its directory must be writable for this user",
        ),
        PermissionDenied if is_privileged => (
            ExitCode::NoPermission,
            "a port below 1024 needs CAP_NET_BIND_SERVICE, or a .socket unit that passes the socket",
        ),
        PermissionDenied => (ExitCode::NoPermission, "the unit or the system forbids it"),
        _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => (
            ExitCode::Unavailable,
            "the machine, or the unit's RestrictAddressFamilies=, does not have this address family",
        ),
        _ => (ExitCode::Os, "the system refused it"),
    };
    failure(code, address, &format!("{error}; {cure}"))
}

/// Whether `[::]` with the same port, which takes IPv4 as well, is asked for too.
fn covered(address: &Address, all: &[Address]) -> bool {
    let Address::Tcp(address) = address else {
        return false;
    };
    all.iter().any(|other| {
        matches!(other, Address::Tcp(other) if other.port() == address.port()
            && (other.ip() == Ipv6Addr::UNSPECIFIED || address.ip() == Ipv6Addr::UNSPECIFIED)
            && other.is_ipv4() != address.is_ipv4())
    })
}

fn failure(code: ExitCode, address: &Address, what: &str) -> Failure {
    Failure::new(code, format!("cannot listen on {address}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::path::PathBuf;

    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

    fn path(directory: &tempfile::TempDir) -> PathBuf {
        directory.path().join("http.sock")
    }

    fn refusal(address: Address) -> (ExitCode, String) {
        let failure = bind(&[address], 16).unwrap_err();
        (failure.code(), failure.to_string())
    }

    fn port(listener: &Listener) -> u16 {
        match listener.address {
            ListenerAddress::Tcp(address) => address.port(),
            ref other => panic!("{other}"),
        }
    }

    #[test]
    fn a_bound_listener_is_nonblocking_closed_on_exec_and_has_a_real_port() {
        let (listeners, _own) = bind(&[Address::Tcp("127.0.0.1:0".parse().unwrap())], 16).unwrap();
        let flags = OFlag::from_bits_truncate(fcntl(&listeners[0], FcntlArg::F_GETFL).unwrap());
        assert!(flags.contains(OFlag::O_NONBLOCK));
        let flags = FdFlag::from_bits_truncate(fcntl(&listeners[0], FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
        assert_eq!(
            (listeners[0].name.as_str(), listeners[0].origin),
            ("listen", Origin::Bound)
        );
        TcpStream::connect(("127.0.0.1", port(&listeners[0]))).unwrap();
    }

    #[test]
    fn the_unspecified_ipv6_address_takes_ipv4_as_well() {
        let (listeners, _own) = bind(&[Address::Tcp("[::]:0".parse().unwrap())], 16).unwrap();
        TcpStream::connect(("127.0.0.1", port(&listeners[0]))).unwrap();
        TcpStream::connect(("::1", port(&listeners[0]))).unwrap();
    }

    #[test]
    fn a_port_in_use_is_unavailable_and_the_address_is_named() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let (code, text) = refusal(Address::Tcp(address));
        assert_eq!(code, ExitCode::Unavailable);
        assert!(
            text.contains(&format!("cannot listen on {address}: ")),
            "{text}"
        );
    }

    #[test]
    fn an_address_of_another_machine_is_unavailable() {
        // TEST-NET-1, RFC 5737.
        let (code, text) = refusal(Address::Tcp("192.0.2.1:0".parse().unwrap()));
        assert_eq!(code, ExitCode::Unavailable);
        assert!(text.contains("does not have the address"), "{text}");
    }

    #[test]
    fn ipv4_beside_the_dual_stack_address_is_explained() {
        let (listeners, _own) = bind(&[Address::Tcp("[::]:0".parse().unwrap())], 16).unwrap();
        let port = port(&listeners[0]);
        let v4 = Address::Tcp(SocketAddr::from(([0, 0, 0, 0], port)));
        let v6 = Address::Tcp(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
        assert!(covered(&v4, &[v4.clone(), v6.clone()]));
        assert!(covered(&v6, &[v4.clone(), v6.clone()]));
        assert!(!covered(&v4, std::slice::from_ref(&v4)));
    }

    #[test]
    fn a_stale_socket_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(path(&directory)).unwrap());
        let (listeners, _own) = bind(&[Address::UnixPath(path(&directory))], 16).unwrap();
        assert_eq!(
            listeners[0].address,
            ListenerAddress::UnixPath(path(&directory))
        );
        UnixStream::connect(path(&directory)).unwrap();
    }

    #[test]
    fn a_live_socket_file_is_an_error_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let _other = UnixListener::bind(path(&directory)).unwrap();
        let (code, text) = refusal(Address::UnixPath(path(&directory)));
        assert_eq!(code, ExitCode::Unavailable);
        assert!(text.contains("another process listens there"), "{text}");
        UnixStream::connect(path(&directory)).unwrap();
    }

    #[test]
    fn a_live_socket_of_another_type_is_an_error_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let _other = UnixDatagram::bind(path(&directory)).unwrap();
        assert_eq!(
            refusal(Address::UnixPath(path(&directory))).0,
            ExitCode::Unavailable
        );
        assert!(path(&directory).exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_removed() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(path(&directory), "precious").unwrap();
        let (code, text) = refusal(Address::UnixPath(path(&directory)));
        assert_eq!(code, ExitCode::Unavailable);
        assert!(text.contains("not a socket"), "{text}");
        assert_eq!(fs::read(path(&directory)).unwrap(), b"precious");
    }

    #[test]
    fn a_missing_directory_names_the_cure() {
        let directory = tempfile::tempdir().unwrap();
        let (code, text) = refusal(Address::UnixPath(directory.path().join("none/http.sock")));
        assert_eq!(code, ExitCode::Unavailable);
        assert!(text.contains("RuntimeDirectory="), "{text}");
    }

    #[test]
    fn names_that_cannot_be_are_wrong_configuration() {
        for address in [
            Address::UnixPath(format!("/{}", "x".repeat(107)).into()),
            Address::UnixAbstract(vec![b'x'; 108]),
            Address::UnixAbstract(Vec::new()),
        ] {
            assert_eq!(refusal(address).0, ExitCode::Config);
        }
        let name = format!("{:x<107}", format!("payload-bind-{}", std::process::id()));
        let (listeners, _own) = bind(&[Address::UnixAbstract(name.clone().into())], 16).unwrap();
        assert_eq!(
            listeners[0].address,
            ListenerAddress::UnixAbstract(name.into())
        );
    }

    #[test]
    fn only_a_file_that_is_still_ours_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = [Address::UnixPath(path(&directory))];
        let (_listeners, own) = bind(&addresses, 16).unwrap();
        // Kept under another name, so that the file system cannot give its inode to the next file.
        fs::rename(path(&directory), directory.path().join("moved")).unwrap();
        let _other = UnixListener::bind(path(&directory)).unwrap();
        own.remove();
        assert!(path(&directory).exists());

        fs::rename(directory.path().join("moved"), path(&directory)).unwrap();
        own.remove();
        assert!(!path(&directory).exists());
    }

    #[test]
    fn when_one_address_fails_the_files_of_the_others_go_too() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("none/http.sock");
        bind(
            &[
                Address::UnixPath(path(&directory)),
                Address::UnixPath(missing),
            ],
            16,
        )
        .unwrap_err();
        assert!(!path(&directory).exists());
    }
}
