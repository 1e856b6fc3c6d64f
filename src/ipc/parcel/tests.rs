use super::*;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

fn links() -> (Link, Link) {
    let (a, b) = Link::pair().unwrap();
    (Link::over(a), Link::over(b))
}

fn parcel(id: u64, unread: &[u8]) -> Parcel {
    Parcel {
        id,
        listener: "listen".to_owned(),
        peer: Some("127.0.0.1:4711".parse().unwrap()),
        http1: true,
        requests: 3,
        unread: Bytes::copy_from_slice(unread),
    }
}

fn received(link: &Link) -> (Parcel, OwnedFd) {
    match link.receive().unwrap() {
        Incoming::Parcel(parcel, socket) => (parcel, socket),
        other => panic!("{other:?}"),
    }
}

fn raw(link: &Link, head: &str, fds: &[BorrowedFd<'_>]) {
    let length = u32::try_from(head.len()).unwrap().to_le_bytes();
    let parts = [IoSlice::new(&length), IoSlice::new(head.as_bytes())];
    passing::send(link.channel().as_fd(), &parts, fds).unwrap();
}

#[test]
fn a_connection_arrives_with_its_unread_bytes_whether_few_or_many() {
    let (sender, receiver) = links();
    for length in [0, 1, INLINE, INLINE + 1, 400_000] {
        let (near, mut far) = UnixStream::pair().unwrap();
        let sent = parcel(7, &vec![b'x'; length]);
        sender.send(&sent, near.as_fd()).unwrap();
        drop(near);
        let (parcel, socket) = received(&receiver);
        assert_eq!(parcel, sent);
        UnixStream::from(socket).write_all(b"here").unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "here");
    }
    assert!(matches!(receiver.receive().unwrap(), Incoming::Empty));
}

#[test]
fn answers_come_back_in_order_and_then_the_end() {
    let (sender, receiver) = links();
    let refused = Answer::Refused {
        id: 2,
        reason: "no".to_owned(),
    };
    receiver.answer(&Answer::Taken { id: 1 }).unwrap();
    receiver.answer(&refused).unwrap();
    drop(receiver);
    let taken = Outcome::Answer(Answer::Taken { id: 1 });
    assert_eq!(sender.outcome().unwrap(), taken);
    assert_eq!(sender.outcome().unwrap(), Outcome::Answer(refused));
    assert_eq!(sender.outcome().unwrap(), Outcome::Closed);
}

#[test]
fn answers_are_read_behind_the_reset_of_a_receiver_that_left_parcels_unread() {
    let (sender, receiver) = links();
    let (near, mut far) = UnixStream::pair().unwrap();
    for id in 1..=2 {
        sender.send(&parcel(id, b""), near.as_fd()).unwrap();
    }
    let (first, _socket) = received(&receiver);
    receiver.answer(&Answer::Taken { id: first.id }).unwrap();
    drop(receiver);
    let error = sender.send(&parcel(3, b""), near.as_fd()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    let taken = Outcome::Answer(Answer::Taken { id: 1 });
    assert_eq!(sender.outcome().unwrap(), taken);
    assert_eq!(sender.outcome().unwrap(), Outcome::Closed);
    // The second is still the sender's, and nobody else's.
    drop(_socket);
    (&near).write_all(b"mine").unwrap();
    drop(near);
    let mut text = String::new();
    far.read_to_string(&mut text).unwrap();
    assert_eq!(text, "mine");
}

#[test]
fn the_receiver_hears_of_a_sender_that_is_gone_after_its_last_parcel() {
    let (sender, receiver) = links();
    let (near, _far) = UnixStream::pair().unwrap();
    sender.send(&parcel(1, b"half"), near.as_fd()).unwrap();
    drop(sender);
    assert_eq!(received(&receiver).0.unread, "half");
    let error = receiver.answer(&Answer::Taken { id: 1 }).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert!(matches!(receiver.receive().unwrap(), Incoming::Closed));
}

#[test]
fn a_full_link_is_would_block_and_goes_on_when_it_is_read() {
    let (sender, receiver) = links();
    let (near, _far) = UnixStream::pair().unwrap();
    let mut sent = 0;
    let error = loop {
        match sender.send(&parcel(sent, &[b'x'; 1000]), near.as_fd()) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 100_000);
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    for id in 0..sent {
        assert_eq!(received(&receiver).0.id, id);
    }
    sender.send(&parcel(sent, b""), near.as_fd()).unwrap();
}

#[test]
fn what_a_newer_program_sends_is_refused_and_what_it_adds_is_passed_over() {
    let (sender, receiver) = links();
    let (near, _far) = UnixStream::pair().unwrap();
    let newer = r#"{"version":2,"id":5,"bundle":{"of":"things"}}"#;
    raw(&sender, newer, &[near.as_fd()]);
    let incoming = receiver.receive().unwrap();
    assert!(
        matches!(incoming, Incoming::Unusable { id: 5, .. }),
        "{incoming:?}"
    );

    let more = r#"{"version":1,"id":6,"hint":true,"parcel":{"listener":"l","peer":null,"http1":false,"requests":0,"unread":0,"aside":false,"tls":null}}"#;
    raw(&sender, more, &[near.as_fd()]);
    let (parcel, _) = received(&receiver);
    assert_eq!((parcel.id, parcel.listener.as_str()), (6, "l"));
    assert!(!parcel.http1 && parcel.peer.is_none());

    raw(&receiver, r#"{"id":6,"taken":{"by":7},"at":1}"#, &[]);
    let taken = Outcome::Answer(Answer::Taken { id: 6 });
    assert_eq!(sender.outcome().unwrap(), taken);
}

#[test]
fn a_parcel_without_its_socket_or_its_bytes_is_refused() {
    let (sender, receiver) = links();
    let (near, _far) = UnixStream::pair().unwrap();
    let head = |unread: usize, aside: bool| {
        format!(
            r#"{{"version":1,"id":9,"parcel":{{"listener":"l","peer":null,"http1":true,"requests":0,"unread":{unread},"aside":{aside}}}}}"#
        )
    };
    raw(&sender, &head(0, false), &[]);
    raw(&sender, &head(5, false), &[near.as_fd()]);
    raw(&sender, &head(40_000, true), &[near.as_fd()]);
    raw(&sender, &head(40_000, true), &[near.as_fd(), near.as_fd()]);
    for _ in 0..4 {
        let incoming = receiver.receive().unwrap();
        assert!(
            matches!(incoming, Incoming::Unusable { id: 9, .. }),
            "{incoming:?}"
        );
    }
}

#[test]
fn garbage_is_an_error() {
    let (sender, receiver) = links();
    for garbage in [
        &b"x"[..],
        b"\xff\xff\xff\xff{}",
        b"\x02\0\0\0{}",
        &[0; 60_000],
    ] {
        passing::send(sender.channel().as_fd(), &[IoSlice::new(garbage)], &[]).unwrap();
        assert!(receiver.receive().is_err(), "{garbage:?}");
    }
    raw(&sender, r#"{"version":1,"id":1,"taken":{}}"#, &[]);
    assert!(receiver.receive().is_err());
    raw(&receiver, r#"{"version":1,"id":1,"taken":"#, &[]);
    assert!(matches!(sender.outcome().unwrap(), Outcome::Unreadable(_)));
}

/// In a process of its own, since limits count for all its threads.
#[test]
fn without_descriptors_a_parcel_is_refused_and_none_leaks() {
    if std::env::var_os("PARCEL_TEST_LIMITED").is_none() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "ipc::parcel::tests::without_descriptors_a_parcel_is_refused_and_none_leaks",
                "--test-threads=1",
            ])
            .env("PARCEL_TEST_LIMITED", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    let (sender, receiver) = links();
    let (near, far) = UnixStream::pair().unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let next = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&near.try_clone().unwrap())).unwrap();
    for (free, unread) in [(0, 10), (1, INLINE + 1), (2, INLINE + 1)] {
        // The memfd is made while there is room.
        sender
            .send(&parcel(4, &vec![b'x'; unread]), near.as_fd())
            .unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, next + free, hard).unwrap();
        let incoming = receiver.receive();
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(1024), hard).unwrap();
        match incoming.unwrap() {
            Incoming::Unusable { id: 4, .. } if free < 2 => {}
            Incoming::Parcel(..) if free == 2 => {}
            other => panic!("{free}: {other:?}"),
        }
        let free_again =
            u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&near.try_clone().unwrap())).unwrap();
        assert_eq!(free_again, next, "a descriptor is left behind");
    }
    drop((near, far));
}
