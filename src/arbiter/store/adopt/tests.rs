use std::os::unix::net::UnixStream;

use bytes::Bytes;
use nix::sys::epoll::EpollCreateFlags;

use super::*;
use crate::arbiter::store::ledger::Ledger;
use crate::ipc::parcel::Incoming;
use crate::systemd::fd_store::fake::Manager;

fn parcel(number: usize) -> Parcel {
    Parcel {
        id: 0,
        listener: "http".into(),
        peer: None,
        http1: true,
        requests: 1,
        unread: Bytes::from(number.to_string()),
    }
}

fn stored(name: Name, fd: impl Into<OwnedFd>) -> Stored {
    let fd = fd.into();
    Stored { name, fd }
}

/// What the manager passes: the first so many of the connections have a record. And their clients.
fn left(known: usize, unknown: usize) -> (Vec<Stored>, Vec<UnixStream>) {
    let mut ledger = Ledger::new(true).unwrap();
    let (mut all, mut clients) = (Vec::new(), Vec::new());
    for number in 0..known + unknown {
        let (client, server) = UnixStream::pair().unwrap();
        client.set_nonblocking(true).unwrap();
        if number < known {
            let cookie = SockRef::from(&server).cookie().unwrap();
            ledger.append(cookie, &parcel(number)).unwrap();
        }
        clients.push(client);
        all.push(stored(Name::Connections(2), server));
    }
    let file = ledger.as_fd().try_clone_to_owned().unwrap();
    all.insert(all.len() / 2, stored(Name::Ledger(1), file));
    all.push(stored(Name::Check, std::io::pipe().unwrap().1));
    (all, clients)
}

fn now() -> Moment {
    Moment::from_nanos(5)
}

struct Bench {
    adoption: Adoption,
    manager: Manager,
    epoll: Epoll,
    closing: Closing,
}

impl Bench {
    fn new(stored: Vec<Stored>) -> Self {
        let (mut manager, line) = Manager::new(100);
        for one in &stored {
            let copy = one.fd.try_clone().unwrap();
            manager.stored.push((one.name.to_string(), copy));
        }
        Self {
            adoption: Adoption::new(Leftover::new(stored), Some(line)),
            manager,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap(),
            closing: Closing::default(),
        }
    }

    fn worker(&mut self) -> Link {
        let (theirs, ours) = Link::pair().unwrap();
        self.adoption.add(ours, &self.epoll).unwrap();
        Link::over(theirs)
    }

    fn pump(&mut self) {
        self.adoption.pump(now(), &mut self.closing);
    }
}

/// The next connection over a link: its number in the offer, its number in the test, its socket.
fn offered(link: &Link) -> Option<(u64, usize, OwnedFd)> {
    match link.receive().unwrap() {
        Incoming::Parcel(parcel, socket) => {
            let text = std::str::from_utf8(&parcel.unread).unwrap();
            Some((parcel.id, text.parse().unwrap(), socket))
        }
        Incoming::Empty => None,
        other => panic!("{other:?}"),
    }
}

fn has_ended(client: &UnixStream) -> bool {
    let mut byte = [0];
    matches!(io::Read::read(&mut &*client, &mut byte), Ok(0))
}

#[test]
fn what_has_a_record_goes_to_workers_in_equal_parts_and_leaves_the_store_before() {
    let (stored, clients) = left(6, 0);
    let mut bench = Bench::new(stored);
    let links = [bench.worker(), bench.worker()];
    assert!(!bench.adoption.is_done());
    bench.pump();
    // Sent before the first offer, and in the manager's queue even if this process dies now.
    let removed: BTreeSet<String> = bench.manager.work().into_iter().collect();
    let expected = ["ledger-1", "connections-2", "check"];
    assert_eq!(
        removed,
        expected
            .map(|name| format!("FDSTOREREMOVE=1\nFDNAME=payload-{name}"))
            .into()
    );
    assert_eq!(bench.manager.names(), [""; 0]);
    let mut seen = BTreeSet::new();
    let mut sockets = Vec::new();
    for link in &links {
        let offers: Vec<_> = std::iter::from_fn(|| offered(link)).collect();
        assert_eq!(offers.len(), 3);
        for (id, number, socket) in offers {
            seen.insert(number);
            link.answer(&Answer::Taken { id }).unwrap();
            sockets.push(socket);
        }
    }
    assert_eq!(seen, (0..6).collect());
    assert!(!bench.adoption.is_done());
    bench.pump();
    assert!(bench.adoption.is_done());
    assert_eq!((bench.adoption.adopted, bench.adoption.closed), (6, 0));
    // The arbiter holds no copy: the end is the workers' to make.
    assert!(!clients.iter().any(has_ended));
    drop(sockets);
    assert!(clients.iter().all(has_ended));
}

#[test]
fn what_has_no_record_is_closed_and_counted() {
    let (stored, clients) = left(1, 2);
    let mut bench = Bench::new(stored);
    let link = bench.worker();
    bench.pump();
    let (id, number, _socket) = offered(&link).unwrap();
    assert_eq!(number, 0);
    link.answer(&Answer::Taken { id }).unwrap();
    bench.pump();
    assert!(bench.adoption.is_done());
    assert_eq!((bench.adoption.adopted, bench.adoption.closed), (1, 2));
    let ended: Vec<bool> = clients.iter().map(has_ended).collect();
    assert_eq!(ended, [false, true, true]);
}

#[test]
fn nothing_is_offered_while_it_is_still_in_the_store() {
    let (stored, _clients) = left(1, 1);
    let mut bench = Bench::new(stored);
    // The manager's queue is full.
    let line = bench.adoption.line.take().unwrap();
    while line.remove(&Name::Check).unwrap() {}
    bench.adoption.line = Some(line);
    let link = bench.worker();
    bench.pump();
    assert!(offered(&link).is_none() && bench.adoption.poll_timeout().is_some());
    assert_eq!(bench.adoption.closed, 0);
    assert!(!bench.adoption.has_left_the_store());
    bench.manager.work();
    bench.pump();
    assert!(bench.adoption.has_left_the_store());
    assert!(offered(&link).is_some());
}

#[test]
fn what_one_worker_refuses_or_dies_with_another_gets() {
    let (stored, _clients) = left(2, 0);
    let mut bench = Bench::new(stored);
    let (dies, refuses) = (bench.worker(), bench.worker());
    bench.pump();
    let (id, ..) = offered(&refuses).unwrap();
    let reason = "it leaves".to_owned();
    refuses.answer(&Answer::Refused { id, reason }).unwrap();
    drop(dies);
    let takes = bench.worker();
    bench.pump();
    bench.pump();
    let mut taken = Vec::new();
    for link in [&takes, &refuses] {
        while let Some((id, number, _)) = offered(link) {
            link.answer(&Answer::Taken { id }).unwrap();
            taken.push(number);
        }
    }
    bench.pump();
    taken.sort_unstable();
    assert_eq!(taken, [0, 1]);
    assert!(bench.adoption.is_done());
}

/// Before they have looked at all that they were sent.
#[test]
fn workers_that_leave_leave_everything_that_they_have_not_taken() {
    let (stored, clients) = left(8, 0);
    let mut bench = Bench::new(stored);
    let links = [bench.worker(), bench.worker()];
    bench.pump();
    let (id, _, _socket) = offered(&links[0]).unwrap();
    links[0].answer(&Answer::Taken { id }).unwrap();
    drop(links);
    bench.pump();
    assert_eq!((bench.adoption.adopted, bench.adoption.closed), (1, 0));
    assert!(bench.adoption.wants_heirs() && !clients.iter().any(has_ended));
    assert_eq!(bench.adoption.take_waiting().len(), 7);
}

#[test]
fn without_workers_it_waits_and_says_so() {
    let (stored, _clients) = left(1, 0);
    let mut bench = Bench::new(stored);
    let link = bench.worker();
    bench.pump();
    assert!(!bench.adoption.wants_heirs());
    drop(link);
    bench.pump();
    assert!(bench.adoption.wants_heirs() && !bench.adoption.is_done());
    assert_eq!(bench.adoption.take_waiting().len(), 1);
    assert!(bench.adoption.is_done());
}

/// recvmsg(2) says the same about it each time: the arbiter has other things to do.
#[test]
fn answers_that_cannot_be_received_are_looked_for_later() {
    let mut bench = Bench::new(Vec::new());
    let (reader, writer) = nix::unistd::pipe().unwrap();
    nix::unistd::write(&writer, b"x").unwrap();
    bench.adoption.add(reader, &bench.epoll).unwrap();
    bench.pump();
    assert_eq!(bench.adoption.poll_timeout(), Some(now() + DEAF));
    assert!(!bench.adoption.wants_heirs());
}

#[test]
fn one_that_nobody_takes_is_closed_at_last() {
    let (stored, clients) = left(1, 0);
    let mut bench = Bench::new(stored);
    let link = bench.worker();
    for _ in 0..TRIES {
        bench.pump();
        let (id, ..) = offered(&link).unwrap();
        let reason = "no room".to_owned();
        link.answer(&Answer::Refused { id, reason }).unwrap();
    }
    bench.pump();
    assert!(bench.adoption.is_done());
    assert_eq!((bench.adoption.adopted, bench.adoption.closed), (0, 1));
    assert!(has_ended(&clients[0]));
}

#[test]
fn a_ledger_that_cannot_be_read_leaves_connections_of_which_nothing_is_known() {
    let (mut stored, _clients) = left(3, 0);
    let ledger = stored.iter_mut().find(|one| one.name == Name::Ledger(1));
    ledger.unwrap().fd = std::io::pipe().unwrap().0.into();
    let leftover = Leftover::new(stored);
    assert_eq!((leftover.connections.len(), leftover.unknown.len()), (0, 3));
    assert_eq!(leftover.count, 5);
}
