use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use nix::sys::epoll::EpollCreateFlags;

use super::*;
use crate::arbiter::store::ledger::{self, Contents};
use crate::ipc::parcel;
use crate::systemd::fd_store::fake::Manager;

struct Bench {
    keep: Keep,
    manager: Manager,
    epoll: Epoll,
    closing: Closing,
    now: Moment,
}

/// A worker's end of a link, and the clients of the connections that it gave.
struct Worker {
    link: Link,
    clients: Vec<UnixStream>,
}

impl Bench {
    /// `said`: whether the manager says how much it takes.
    fn new(most: usize, said: bool) -> Self {
        Self::with(most, said, 0)
    }

    fn with(most: usize, said: bool, used: usize) -> Self {
        let (mut manager, line) = Manager::new(most);
        for _ in 0..used {
            let (one, _) = UnixStream::pair().unwrap();
            let name = "payload-connections-4".to_owned();
            manager.stored.push((name, one.into()));
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let room = Room {
            most: said.then_some(most),
            used,
            last: 4,
        };
        Self {
            keep: Keep::new(line, room, true, &epoll).unwrap(),
            manager,
            epoll,
            closing: Closing::default(),
            now: Moment::from_nanos(1_000_000_000),
        }
    }

    fn worker(&mut self) -> Worker {
        let (ours, theirs) = Link::pair().unwrap();
        self.keep.add(ours, &self.epoll).unwrap();
        Worker {
            link: Link::over(theirs),
            clients: Vec::new(),
        }
    }

    fn pump(&mut self) {
        self.keep.pump(self.now, &self.epoll, &mut self.closing);
    }

    /// Until nothing moves any more, over the time that a doubt lasts.
    fn run(&mut self) {
        for _ in 0..100 {
            self.pump();
            self.manager.work();
            self.now = self.now + Duration::from_millis(5);
        }
    }

    fn finish(&mut self) -> Outcome {
        self.keep.finish(
            Duration::ZERO,
            Moment::default,
            &self.epoll,
            &mut self.closing,
        )
    }

    /// What the next process finds: the bytes of each connection in the store that has a record.
    fn found(&self) -> Vec<String> {
        let of = |kind: &'static str| {
            let all = self.manager.stored.iter();
            all.filter(move |(name, _)| name.starts_with(kind))
                .map(|(_, fd)| fd.try_clone().unwrap())
        };
        let mut known = Contents::default();
        for file in of("payload-ledger") {
            let (mut contents, trouble) = ledger::read(file);
            assert_eq!(trouble, None);
            known.records.append(&mut contents.records);
        }
        let mut found: Vec<String> = of("payload-connections")
            .filter_map(|socket| {
                known
                    .records
                    .remove(&SockRef::from(&socket).cookie().unwrap())
            })
            .map(|parcel| String::from_utf8(parcel.unread.to_vec()).unwrap())
            .collect();
        assert!(known.records.is_empty(), "a record without its connection");
        found.sort();
        found
    }
}

impl Worker {
    fn give(&mut self, id: u64) {
        let (client, server) = UnixStream::pair().unwrap();
        self.clients.push(client);
        let parcel = Parcel {
            id,
            listener: "http".into(),
            peer: None,
            http1: true,
            requests: 2,
            unread: Bytes::from(format!("GET /{id:03}")),
        };
        self.link.send(&parcel, server.as_fd()).unwrap();
    }

    /// The numbers of those taken and of those refused. 0 stands for what is to come.
    fn answers(&self) -> (Vec<u64>, Vec<u64>) {
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        while let parcel::Outcome::Answer(answer) = self.link.outcome().unwrap() {
            match answer {
                Answer::Taken { id } => taken.push(id),
                Answer::Refused { id: 0, .. } => {}
                Answer::Refused { id, .. } => refused.push(id),
            }
        }
        (taken, refused)
    }
}

#[test]
fn a_connection_is_taken_when_it_is_in_the_store_and_not_before() {
    for said in [true, false] {
        let mut bench = Bench::new(100, said);
        let mut worker = bench.worker();
        worker.give(1);
        bench.pump();
        bench.manager.work();
        bench.pump();
        // The ledger is there; the connection is only sent.
        assert_eq!(worker.answers(), (vec![], vec![]));
        assert_eq!(bench.found(), [""; 0]);
        bench.run();
        assert_eq!(worker.answers(), (vec![1], vec![]));
        assert_eq!(bench.found(), ["GET /001"]);
        let outcome = bench.finish();
        assert_eq!((outcome.kept, outcome.closed, outcome.why), (1, 0, None));
        bench.manager.work();
        assert_eq!(
            bench.manager.names(),
            ["payload-ledger-5", "payload-connections-6"]
        );
    }
}

#[test]
fn a_connection_in_the_store_is_open_and_the_arbiter_holds_no_copy() {
    let mut bench = Bench::new(100, true);
    let mut worker = bench.worker();
    worker.give(1);
    bench.run();
    bench.finish();
    bench.manager.work();
    let (_, socket) = bench.manager.stored.pop().unwrap();
    UnixStream::from(socket).write_all(b"response").unwrap();
    let mut read = String::new();
    // The end comes only when nobody has it any more.
    worker.clients[0].read_to_string(&mut read).unwrap();
    assert_eq!(read, "response");
}

#[test]
fn many_connections_of_many_workers_are_all_taken() {
    let mut bench = Bench::new(10_000, true);
    let mut workers: Vec<Worker> = (0..5).map(|_| bench.worker()).collect();
    for id in 1..=120 {
        for worker in &mut workers {
            worker.give(id);
        }
    }
    bench.run();
    for worker in &workers {
        assert_eq!(worker.answers().0, Vec::from_iter(1..=120));
    }
    assert_eq!(bench.found().len(), 600);
    assert_eq!(bench.finish().kept, 600);
}

#[test]
fn a_store_that_is_full_takes_what_it_can_and_the_rest_is_refused() {
    for (most, used, count) in [
        (10, 0, 30),
        (10, 3, 30),
        (3, 0, 5),
        (4, 0, 2),
        (150, 0, 140),
    ] {
        for said in [true, false] {
            let mut bench = Bench::with(most, said, used);
            let mut worker = bench.worker();
            for id in 0..count {
                worker.give(id);
            }
            bench.run();
            let (taken, refused) = worker.answers();
            let room = u64::try_from(most - used - 2).unwrap().min(count);
            let name = format!("{most} {used} {count} {said}");
            assert_eq!(taken, Vec::from_iter(0..room), "{name}");
            assert_eq!(refused, Vec::from_iter(room..count), "{name}");
            // One that comes later is refused as well.
            if room < count {
                worker.give(999);
                bench.run();
                assert_eq!(worker.answers(), (vec![], vec![999]), "{name}");
            }
            let outcome = bench.finish();
            assert_eq!(outcome.kept as u64, room, "{name}");
            assert_eq!(outcome.closed > 0, room < count, "{name}");
            assert_eq!(outcome.why.is_some(), room < count, "{name}");
            bench.manager.work();
            assert_eq!(bench.found().len() as u64, room, "{name}");
            assert!(!bench.manager.names().contains(&"payload-check"));
            // Nothing is there that was refused.
            assert_eq!(bench.manager.stored.len(), used + 1 + taken.len());
        }
    }
}

#[test]
fn a_store_that_is_off_refuses_everything_and_nothing_stays() {
    for (most, said) in [(0, false), (0, true), (1, true), (2, true), (1, false)] {
        let mut bench = Bench::new(most, said);
        let mut worker = bench.worker();
        worker.give(1);
        bench.run();
        worker.give(2);
        bench.run();
        assert_eq!(worker.answers(), (vec![], vec![1, 2]), "{most} {said}");
        let outcome = bench.finish();
        assert_eq!((outcome.kept, outcome.closed), (0, 2));
        assert!(outcome.why.is_some());
        bench.manager.work();
        assert_eq!(bench.manager.names(), [""; 0]);
    }
}

#[test]
fn workers_hear_when_the_store_is_full() {
    let full = |worker: &Worker| {
        matches!(
            worker.link.outcome().unwrap(),
            parcel::Outcome::Answer(Answer::Refused { id: 0, .. })
        )
    };
    let mut bench = Bench::new(0, false);
    let early = bench.worker();
    bench.run();
    assert!(full(&early));
    let late = bench.worker();
    bench.run();
    assert!(full(&late));
}

#[test]
fn without_a_connection_nothing_stays_in_the_store() {
    let mut bench = Bench::new(100, true);
    bench.run();
    let outcome = bench.finish();
    assert_eq!((outcome.kept, outcome.closed, outcome.why), (0, 0, None));
    bench.manager.work();
    assert_eq!(bench.manager.names(), [""; 0]);
}

#[test]
fn what_a_worker_sent_before_it_died_is_kept() {
    let mut bench = Bench::new(100, true);
    let mut worker = bench.worker();
    worker.give(1);
    worker.give(2);
    let clients = std::mem::take(&mut worker.clients);
    drop(worker);
    bench.run();
    assert_eq!(bench.found(), ["GET /001", "GET /002"]);
    assert_eq!(bench.finish().kept, 2);
    drop(clients);
}

#[test]
fn what_a_dead_worker_sent_and_the_store_does_not_take_is_closed() {
    let mut bench = Bench::new(0, true);
    let mut worker = bench.worker();
    worker.give(1);
    let mut clients = std::mem::take(&mut worker.clients);
    drop(worker);
    bench.run();
    assert_eq!(bench.finish().closed, 1);
    let mut nothing = Vec::new();
    clients[0].read_to_end(&mut nothing).unwrap();
    assert!(nothing.is_empty());
}

#[test]
fn a_link_without_sense_is_given_up_and_its_worker_keeps_what_has_no_answer() {
    let mut bench = Bench::new(100, true);
    let (mut bad, mut good) = (bench.worker(), bench.worker());
    bad.give(1);
    bench.pump();
    nix::unistd::write(bad.link.channel(), b"nonsense").unwrap();
    good.give(7);
    bench.run();
    assert_eq!(bad.link.outcome().unwrap(), parcel::Outcome::Closed);
    assert_eq!(good.answers(), (vec![7], vec![]));
    // Whatever lies in the store of the other: it has no record, so nobody else serves it.
    assert_eq!(bench.found(), ["GET /007"]);
    assert_eq!(bench.finish().kept, 1);
}

#[test]
fn a_manager_that_is_gone_takes_nothing_and_nobody_waits() {
    let mut bench = Bench::new(100, true);
    let mut worker = bench.worker();
    worker.give(1);
    bench.run();
    let (manager, _) = Manager::new(0);
    drop(std::mem::replace(&mut bench.manager, manager));
    worker.give(2);
    bench.run();
    assert_eq!(worker.answers(), (vec![1], vec![2]));
    let outcome = bench.finish();
    assert_eq!(outcome.closed, 1);
    assert!(outcome.why.is_some());
}

#[test]
fn a_manager_that_does_not_answer_does_not_hold_up_the_end() {
    let mut bench = Bench::new(100, true);
    let mut worker = bench.worker();
    worker.give(1);
    bench.pump();
    drop(worker.link);
    let outcome = bench.finish();
    assert_eq!((outcome.kept, outcome.closed), (0, 1));
    assert!(outcome.why.is_some());
}

#[test]
fn connections_that_no_worker_had_are_kept_as_well() {
    let mut bench = Bench::new(100, true);
    let mut worker = bench.worker();
    worker.give(3);
    bench.run();
    let (_client, server) = UnixStream::pair().unwrap();
    let parcel = Parcel {
        id: 0,
        listener: "http".into(),
        peer: None,
        http1: false,
        requests: 0,
        unread: Bytes::from_static(b"G"),
    };
    bench.keep.take(parcel, server.into());
    bench.run();
    assert_eq!(bench.found(), ["G", "GET /003"]);
}
