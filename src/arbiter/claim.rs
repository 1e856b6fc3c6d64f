//! The claim to be the only life of the service: no lease is granted while processes of an earlier one are left.
//!
//! systemd ends whatever an arbiter that was killed leaves behind before it starts the next one. Whoever else starts the
//! service again does not have to: then workers of the life before still drain, with payloads that hold leases of an
//! arbiter that is gone.
//!
//! What two lives of a service have in common is the address that they listen on. Each address is claimed by a socket
//! with an abstract name (unix(7)) made of it. The arbiter makes the socket before it forks anybody and binds it when
//! the name is free; every worker inherits it, for as long as its process lives. So the kernel frees the name with
//! the last process of that life, however that ends. A connection to the claim of another life, which nobody accepts,
//! ends at the same moment, and nothing has to be asked again and again.
//!
//! Abstract names belong to a network namespace, as the addresses do. Where there are several addresses, they are claimed
//! in the order of their names, so that two lives cannot wait for each other.
//!
//! Anybody can take such a name. Who listens with it as another user, or does not listen, is not believed to be this
//! service. Who fills the queue of those that wait is: nothing tells that from lives that died while they waited.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket,
};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::state::Number;
use crate::sockets::{Listener, ListenerAddress};
use crate::sys::passing::is_shortage;

/// All names begin with this.
const PREFIX: &[u8] = b"payload:leases:";
/// The longest abstract name, unix(7).
const LONGEST: usize = 107;
/// Lives that wait for the same one.
const BACKLOG: i32 = 64;
/// So often a name is looked at which somebody has who does not listen. This program does, at once.
const LOOKS: u32 = 5;

/// The claims of this life, one for each address. Dropping it gives them up, as far as this process has them.
#[derive(Debug, Default)]
pub(crate) struct Claims(Vec<Claim>);

/// As it goes from one image to the next.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ClaimState {
    name: Vec<u8>,
    socket: Number,
    is_settled: bool,
}

#[derive(Debug)]
struct Claim {
    name: Vec<u8>,
    socket: OwnedFd,
    standing: Standing,
    /// How often somebody had it who did not listen.
    deaf: u32,
}

#[derive(Debug)]
enum Standing {
    /// Not looked at, or nothing could be found out.
    Open,
    /// Others have it.
    Waiting(Rival),
    /// It is ours; or of somebody who is not this service, so that nothing can be done.
    Settled,
}

/// Who has a name that this life wants.
#[derive(Debug)]
pub(super) struct Rival {
    /// The arbiter of that life, which may be gone.
    pid: Option<i32>,
    /// Ends with the last of its processes. `None`: too many wait already, so it has to be asked again.
    connection: Option<OwnedFd>,
}

impl Claims {
    /// For the first image: nothing is claimed yet.
    ///
    /// # Errors
    /// No descriptors, no memory.
    pub(super) fn new(listeners: &[Listener]) -> io::Result<Self> {
        let names = names(listeners.iter()).into_iter();
        names.map(Claim::new).collect::<io::Result<_>>().map(Self)
    }

    /// For a later image, which goes on with what the one before has. An older one knows no claims.
    pub(super) fn adopt<'a>(
        listeners: impl Iterator<Item = &'a Listener>,
        states: Vec<ClaimState>,
        mut take: impl FnMut(Number) -> Option<OwnedFd>,
    ) -> Self {
        let known = states.into_iter().filter_map(|state| {
            let standing = match state.is_settled {
                true => Standing::Settled,
                false => Standing::Open,
            };
            Some(Claim {
                name: state.name,
                socket: take(state.socket)?,
                standing,
                deaf: 0,
            })
        });
        let mut claims = Self(known.collect());
        for name in names(listeners) {
            if claims.0.iter().any(|claim| claim.name == name) {
                continue;
            }
            match Claim::new(name) {
                Ok(claim) => claims.0.push(claim),
                Err(error) => {
                    tracing::warn!(error = %error, "no socket for the claim to this service's leases: processes of an earlier life are not waited for at a new address");
                }
            }
        }
        claims.0.sort_by(|a, b| a.name.cmp(&b.name));
        claims
    }

    /// Gives up those for other addresses; none, where the folder of one of these is not there any more.
    pub(super) fn keep_only(&mut self, listeners: &[Listener]) {
        let is_lost = |listener: &Listener| {
            matches!(listener.address, ListenerAddress::UnixPath(_))
                && name(&listener.address).is_none()
        };
        if !listeners.iter().any(is_lost) {
            let names = names(listeners.iter());
            self.0.retain(|claim| names.contains(&claim.name));
        }
    }

    /// Claims what is free, up to the first that is not. Never blocks.
    pub(super) fn settle(&mut self) {
        for claim in &mut self.0 {
            claim.settle();
            if !claim.is_settled() {
                break;
            }
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.0.iter().all(Claim::is_settled)
    }

    /// The name that is waited for, as ss(8) shows it, and the pid of the arbiter who took it, as far as that is known.
    pub(super) fn awaited(&self) -> Option<(String, Option<i32>)> {
        let mut open = self.0.iter().filter(|claim| !claim.is_settled());
        open.next().map(|claim| match &claim.standing {
            Standing::Waiting(rival) => (claim.shown(), rival.pid),
            _ => (claim.shown(), None),
        })
    }

    /// What a worker holds for as long as it lives.
    pub(super) fn into_sockets(self) -> Vec<OwnedFd> {
        self.0.into_iter().map(|claim| claim.socket).collect()
    }

    /// What ends when it makes sense to [`settle`](Self::settle) again. Closing it is the only way to watch it no more.
    pub(super) fn connections(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().filter_map(|claim| match &claim.standing {
            Standing::Waiting(rival) => rival.connection.as_ref().map(AsFd::as_fd),
            _ => None,
        })
    }

    pub(super) fn state(&self) -> Vec<ClaimState> {
        let all = self.0.iter().map(|claim| ClaimState {
            name: claim.name.clone(),
            socket: claim.socket.as_raw_fd(),
            is_settled: claim.is_settled(),
        });
        all.collect()
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|claim| claim.socket.as_fd())
    }
}

impl Claim {
    fn new(name: Vec<u8>) -> io::Result<Self> {
        Ok(Self {
            name,
            socket: stream()?,
            standing: Standing::Open,
            deaf: 0,
        })
    }

    fn is_settled(&self) -> bool {
        matches!(self.standing, Standing::Settled)
    }

    fn settle(&mut self) {
        match &self.standing {
            Standing::Settled => return,
            Standing::Waiting(rival) if rival.is_there() => return,
            Standing::Waiting(_) | Standing::Open => {}
        }
        self.standing = match self.stand() {
            Ok(standing) => standing,
            // It says nothing about others.
            Err(error) if is_shortage(&error) => {
                tracing::debug!(claim = self.shown(), error = %error, "a claim could not be looked at");
                Standing::Open
            }
            Err(error) => {
                tracing::warn!(claim = self.shown(), error = %error, "the claim to this service's leases failed: processes of an earlier life are not waited for");
                Standing::Settled
            }
        };
    }

    fn stand(&mut self) -> io::Result<Standing> {
        let address = UnixAddr::new_abstract(&self.name)?;
        match bind(self.socket.as_raw_fd(), &address) {
            Ok(()) => {
                listen(&self.socket, Backlog::new(BACKLOG)?)?;
                return Ok(Standing::Settled);
            }
            Err(Errno::EADDRINUSE) => {}
            Err(errno) => return Err(errno.into()),
        }
        let connection = stream()?;
        match connect(connection.as_raw_fd(), &address) {
            Ok(()) => {}
            // It is just being claimed, or was just given up.
            Err(Errno::ECONNREFUSED) if self.deaf < LOOKS => {
                self.deaf += 1;
                return Ok(Standing::Open);
            }
            Err(Errno::ECONNREFUSED) => {
                let whose = "somebody has it who does not listen";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, whose));
            }
            Err(Errno::EAGAIN) => {
                let (pid, connection) = (None, None);
                return Ok(Standing::Waiting(Rival { pid, connection }));
            }
            Err(errno) => return Err(errno.into()),
        }
        let peer = getsockopt(&connection, PeerCredentials)?;
        // Anybody can take a name. Nobody else's user is believed to be this service, or it could be kept from its work.
        if peer.uid() != geteuid().as_raw() && peer.uid() != 0 {
            let whose = format!("process {} of user {} has it", peer.pid(), peer.uid());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, whose));
        }
        Ok(Standing::Waiting(Rival {
            pid: Some(peer.pid()),
            connection: Some(connection),
        }))
    }

    /// As ss(8) shows it.
    fn shown(&self) -> String {
        format!("@{}", String::from_utf8_lossy(&self.name))
    }
}

impl Rival {
    /// It is connected still. Not to ask anew: a connection that is closed keeps its place among those that wait.
    fn is_there(&self) -> bool {
        let Some(connection) = &self.connection else {
            return false;
        };
        let mut fds = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO) == Ok(0)
    }
}

/// The names for these listeners, each once, in order.
fn names<'a>(listeners: impl Iterator<Item = &'a Listener>) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = listeners
        .filter_map(|listener| name(&listener.address))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// `None`: nobody can listen on it after this process; or nobody can tell its folder from others any more, since that is
/// not there.
fn name(address: &ListenerAddress) -> Option<Vec<u8>> {
    let of = |parts: &[&[u8]]| {
        let all = parts.concat();
        // A part of a long name does as well: the end of it, which differs more.
        let room = LONGEST - PREFIX.len();
        [PREFIX, &all[all.len().saturating_sub(room)..]].concat()
    };
    match address {
        ListenerAddress::Tcp(address) => Some(of(&[address.to_string().as_bytes()])),
        ListenerAddress::UnixAbstract(name) => Some(of(&[b"@", name])),
        ListenerAddress::UnixPath(path) => {
            // By its folder: a path means different things in different mount namespaces. A folder that is made anew is
            // another one; systemd, which does that, ends what is left of a service before.
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            let folder = fs::metadata(folder.unwrap_or(Path::new("."))).ok()?;
            let folder = format!("{:x}:{:x}/", folder.dev(), folder.ino());
            Some(of(&[folder.as_bytes(), path.file_name()?.as_bytes()]))
        }
        ListenerAddress::UnixUnnamed => None,
    }
}

fn stream() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use super::*;
    use crate::sockets::Origin;

    fn listener(fd: impl Into<OwnedFd>) -> Listener {
        let fd = fd.into();
        Listener {
            address: ListenerAddress::of(&fd).unwrap(),
            fd,
            name: "http".to_owned(),
            origin: Origin::Passed,
            wanted: None,
        }
    }

    fn tcp() -> Listener {
        listener(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn settled(listeners: &[Listener]) -> Claims {
        let mut claims = Claims::new(listeners).unwrap();
        claims.settle();
        claims
    }

    fn copies<const N: usize>(of: &Listener) -> [Listener; N] {
        [(); N].map(|()| listener(of.fd.try_clone().unwrap()))
    }

    fn has_ended(claims: &Claims, within: PollTimeout) -> bool {
        let connection = claims.connections().next().unwrap();
        let mut fds = [PollFd::new(connection, PollFlags::POLLIN)];
        poll(&mut fds, within).unwrap() == 1
    }

    /// A process that another test is about to start may have copies of everything for a moment.
    const SOON: u16 = 10_000;

    #[test]
    fn one_life_has_it_and_the_next_hears_of_its_end() {
        let shared = tcp();
        let [copy, other] = copies(&shared);
        let first = settled(&[shared]);
        assert!(first.is_settled() && first.awaited().is_none());
        // Another address in common is enough.
        let mut next = settled(&[tcp(), copy]);
        assert!(!next.is_settled());
        let (claim, pid) = next.awaited().unwrap();
        assert_eq!(pid.map(u32::try_from), Some(Ok(std::process::id())));
        assert!(claim.starts_with("@payload:leases:127.0.0.1:"), "{claim}");
        assert!(!has_ended(&next, PollTimeout::ZERO));
        // However often it asks, there is room for others.
        (0..2 * BACKLOG).for_each(|_| next.settle());
        let other = settled(&[other]);
        assert!(other.awaited().unwrap().1.is_some());
        drop(other);
        // As a worker has it that is left.
        let left = first.into_sockets();
        next.settle();
        assert!(!next.is_settled() && !has_ended(&next, PollTimeout::ZERO));
        drop(left);
        assert!(has_ended(&next, SOON.into()));
        next.settle();
        assert!(next.is_settled() && next.connections().count() == 0);
    }

    /// What one has and the other waits for would be waited for for ever.
    #[test]
    fn of_several_nobody_has_the_later_ones_without_those_before_them() {
        let [one, other] = [tcp(), tcp()];
        let ordered = names([&one, &other].into_iter());
        let first_is_one = name(&one.address).as_ref() == ordered.first();
        let [first, last] = if first_is_one {
            [one, other]
        } else {
            [other, one]
        };
        let [of_first, copy] = copies(&first);
        let [of_last] = copies(&last);
        let holder = settled(&[of_first]);
        // In whatever order they are named.
        let mut waiting = settled(&[last, first]);
        let third = settled(&[of_last]);
        assert!(third.is_settled(), "nobody has taken it yet");
        drop(third);
        drop(holder);
        assert!(has_ended(&waiting, SOON.into()));
        waiting.settle();
        assert!(waiting.is_settled() && !settled(&[copy]).is_settled());
    }

    #[test]
    fn the_claims_go_from_image_to_image_with_the_addresses() {
        let (kept, given_up) = (tcp(), tcp());
        let [copy] = copies(&kept);
        let first = settled(&[kept, given_up]);
        let states = first.state();
        let mut fds: Vec<OwnedFd> = first
            .descriptors()
            .map(|fd| fd.try_clone_to_owned().unwrap())
            .collect();
        drop(first);
        let wanted = [copy, tcp()];
        // The numbers are others here.
        let mut next = Claims::adopt(wanted.iter(), states, |_| Some(fds.remove(0)));
        assert_eq!(next.0.len(), 3, "one is new, and none is given up yet");
        assert!(!next.is_settled());
        next.settle();
        assert!(next.is_settled());
        next.keep_only(&wanted[..1]);
        assert_eq!(next.0.len(), 1);
        assert!(!settled(&wanted).is_settled(), "it is the same claim");
    }

    #[test]
    fn a_folder_that_is_gone_costs_no_claim() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http");
        let listeners = [listener(UnixListener::bind(path).unwrap())];
        let mut claims = settled(&listeners);
        drop(folder);
        claims.keep_only(&listeners);
        assert_eq!(claims.0.len(), 1);
        claims.keep_only(&[tcp()]);
        assert_eq!(claims.0.len(), 0);
    }

    #[test]
    fn more_than_can_be_heard_of_ask_again() {
        let socket = tcp();
        let copies: [Listener; BACKLOG as usize + 8] = copies(&socket);
        let first = settled(&[socket]);
        let mut others = copies.map(|copy| settled(&[copy]));
        assert!(others.iter().all(|other| other.awaited().is_some()));
        let heard = others.iter().flat_map(Claims::connections).count();
        assert!(heard < others.len(), "{heard}");
        drop(first);
        assert!(has_ended(&others[0], SOON.into()));
        let last = others.last_mut().unwrap();
        last.settle();
        assert!(last.is_settled());
    }

    #[test]
    fn who_does_not_listen_is_not_waited_for_for_long() {
        let thief = stream().unwrap();
        let shared = tcp();
        let address = UnixAddr::new_abstract(&name(&shared.address).unwrap()).unwrap();
        bind(thief.as_raw_fd(), &address).unwrap();
        let mut claims = settled(&[shared]);
        assert!(!claims.is_settled(), "it may be about to listen");
        assert_eq!(claims.awaited().unwrap().1, None);
        (0..LOOKS).for_each(|_| claims.settle());
        assert!(claims.is_settled());
    }

    #[test]
    fn a_path_is_told_by_its_folder_and_its_name() {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let bound = |path: PathBuf| name(&listener(UnixListener::bind(path).unwrap()).address);
        let [first, second] = [0, 1].map(|at| folders[at].path().to_owned());
        let names = [
            bound(first.join("http")).unwrap(),
            bound(first.join("https")).unwrap(),
            bound(second.join("http")).unwrap(),
        ];
        assert!(names[0] != names[1] && names[0] != names[2]);
        let link = folders[1].path().join("link");
        std::os::unix::fs::symlink(&first, &link).unwrap();
        let by_link = name(&ListenerAddress::UnixPath(link.join("http")));
        assert_eq!(by_link.unwrap(), names[0], "it leads to the same folder");
        let missing = first.join("missing").join("http");
        assert_eq!(name(&ListenerAddress::UnixPath(missing)), None);
        assert_eq!(name(&ListenerAddress::UnixUnnamed), None);
    }

    #[test]
    fn a_long_name_fits() {
        let of = |last: u8| {
            let mut long = vec![b'x'; LONGEST];
            long.push(last);
            name(&ListenerAddress::UnixAbstract(long)).unwrap()
        };
        assert_eq!(of(b'a').len(), LONGEST);
        assert!(UnixAddr::new_abstract(&of(b'a')).is_ok());
        assert_ne!(of(b'a'), of(b'b'));
    }
}
