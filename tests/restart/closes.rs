//! What cannot be kept is closed as at any stop, and counted.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;

use crate::manager::Manager;
use crate::support::http::Client;
use crate::support::service::{Service, Setup, signal_to};

fn probe() -> Setup {
    Setup::new("workers = 2")
}

/// Connections that were served once.
fn clients(manager: &Manager, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| manager.client()).collect();
    for client in &mut clients {
        client.get("/").unwrap();
    }
    clients
}

/// Restarts, and counts the connections that live on.
#[track_caller]
fn lived_on(manager: &Manager, first: &Service, clients: &mut [Client]) -> usize {
    manager.end(first);
    let second = manager.serve(probe());
    let mut alive = 0;
    for client in clients {
        if client.has_ended() {
            client.expect_end();
        } else {
            assert!(!client.get("/").unwrap().announces_close());
            alive += 1;
        }
    }
    manager.emptied();
    assert_eq!(second.stop(), 0);
    alive
}

#[test]
fn what_a_full_store_has_no_room_for_is_closed_and_counted() {
    for manager in [Manager::new(9), Manager::silent(9)] {
        let first = manager.serve(probe());
        let mut all = clients(&manager, 30);
        assert_eq!(lived_on(&manager, &first, &mut all), 7);
        let kept = first.event("connections-kept");
        assert_eq!((kept.number("kept"), kept.number("closed")), (7, 23));
        assert!(kept.text("reason").contains("full"), "{kept}");
    }
}

#[test]
fn a_response_in_flight_announces_the_close_when_the_store_is_full() {
    let manager = Manager::new(2);
    let first = manager.serve(Setup::new("workers = 1"));
    let (mut client, mut idle) = (manager.client(), manager.client());
    client.send(&first.gated()).unwrap();
    idle.get("/").unwrap();
    first.wait_for_sum("in_flight", 1);
    first.signal(Signal::SIGUSR2);
    // It is refused: by now its worker knows that the store is full.
    idle.expect_end();
    first.open_gate();
    assert_eq!(first.exit(), 0);
    assert!(client.answer().unwrap().announces_close());
    client.expect_end();
}

#[test]
fn without_a_store_every_connection_is_closed_and_counted() {
    for manager in [Manager::new(0), Manager::silent(1), Manager::new(2)] {
        let first = manager.serve(probe());
        let mut all = clients(&manager, 5);
        assert_eq!(lived_on(&manager, &first, &mut all), 0);
        let kept = first.event("connections-kept");
        assert_eq!((kept.number("kept"), kept.number("closed")), (0, 5));
        assert_eq!(manager.stored(), (0, 0, 0));
    }
}

#[test]
fn without_a_manager_it_is_a_stop_like_any_other() {
    let service = probe().serve();
    let mut client = service.client();
    client.get("/").unwrap();
    service.signal(Signal::SIGUSR2);
    client.expect_end();
    assert_eq!(service.exit(), 0);
    service.never("connections-kept");
}

#[test]
fn a_stop_closes_and_leaves_nothing_in_the_store() {
    let manager = Manager::new(100);
    let service = manager.serve(probe());
    let mut all = clients(&manager, 5);
    assert_eq!(service.stop(), 0);
    for client in &mut all {
        client.expect_end();
    }
    assert_eq!(manager.stored(), (0, 0, 0));
    service.never("connections-kept");
}

#[test]
fn a_second_signal_cancels_what_is_in_flight_and_keeps_what_was_idle() {
    let manager = Manager::new(100);
    let first = manager.serve(probe());
    let mut idle = clients(&manager, 3);
    let mut slow = manager.client();
    slow.send("/sleep?ms=60000").unwrap();
    first.wait_for_sum("in_flight", 1);
    first.signal(Signal::SIGUSR2);
    first.status_where("three are kept", |status| {
        let line = status["arbiter"]["status"].as_str();
        line.is_some_and(|line| line.ends_with("3 connections kept"))
    });
    first.signal(Signal::SIGINT);
    assert_eq!(first.exit(), 0);
    slow.expect_end();
    let _second = manager.serve(probe());
    for client in &mut idle {
        client.get("/").unwrap();
    }
}

/// A file with this content.
fn file(bytes: &[u8]) -> OwnedFd {
    let mut file = File::from(memfd_create("test", MFdFlags::MFD_CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    file.into()
}

fn content(ledger: OwnedFd) -> Vec<u8> {
    let file = File::from(ledger);
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn connections_of_an_unreadable_ledger_are_closed_and_counted() {
    type Change = fn(Vec<u8>) -> OwnedFd;
    let changes: [(&str, usize, Change); 5] = [
        ("no memory file", 0, |_| {
            OwnedFd::from(std::io::pipe().unwrap().0)
        }),
        ("empty", 0, |_| file(b"")),
        ("without sense", 0, |bytes| file(&bytes[1..])),
        ("cut off in the last record", 3, |bytes| {
            file(&bytes[..bytes.len() - 1])
        }),
        ("of a newer version", 0, |bytes| {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let newer = text.replace("\"version\":1", "\"version\":2");
            file(newer.as_bytes())
        }),
    ];
    for (name, readable, change) in changes {
        let manager = Manager::new(100);
        let first = manager.serve(probe());
        let mut all = clients(&manager, 4);
        manager.end(&first);
        manager.replace_ledger(|fd| change(content(fd)));
        // What a client sends meanwhile does not make the end a reset.
        for client in &mut all {
            client.send("/").unwrap();
        }
        let second = manager.serve(probe());
        let mut served = 0;
        for client in &mut all {
            match client.answer_or_end() {
                Ok(Some(_)) => served += 1,
                Ok(None) => {}
                Err(error) => panic!("{name}: {error}"),
            }
        }
        assert_eq!(served, readable, "{name}");
        let adopted = second.event("connections-adopted");
        let counts = (adopted.number("adopted"), adopted.number("closed"));
        assert_eq!(
            counts,
            (
                u32::try_from(readable).unwrap(),
                u32::try_from(4 - readable).unwrap()
            ),
            "{name}"
        );
        second.message("connections in the file descriptor store cannot be read");
        assert_eq!(manager.client().get("/").unwrap().status, 200);
        manager.emptied();
    }
}

#[test]
fn a_manager_that_is_slow_to_read_loses_nothing() {
    let manager = Manager::new(100);
    let first = manager.serve(probe());
    let mut all = clients(&manager, 10);
    manager.be_busy(true);
    first.signal(Signal::SIGUSR2);
    first.event("service-stopping");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!all.iter_mut().any(Client::has_ended));
    manager.be_busy(false);
    assert_eq!(first.exit(), 0);
    assert_eq!(manager.stored(), (10, 1, 0));
    let _second = manager.serve(probe());
    for client in &mut all {
        client.get("/").unwrap();
    }
}

#[test]
fn http_2_is_told_to_come_again() {
    // With empty settings, RFC 9113, section 3.4.
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let manager = Manager::new(100);
    let first = manager.serve(probe());
    let mut client = std::net::TcpStream::connect(manager.address()).unwrap();
    client.write_all(PREFACE).unwrap();
    first.wait_for_sum("connections", 1);
    first.wait_for_sum("bytes_in", PREFACE.len() as u64);
    manager.end(&first);
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert!(
        bytes.windows(2).any(|pair| pair == [7, 0]),
        "a GOAWAY frame in {bytes:?}"
    );
    assert_eq!(manager.stored(), (0, 0, 0));
}

/// Its workers are told to leave before they have looked at what they are to take over, and there is no room for
/// anything else than that, a ledger and a check.
#[test]
fn a_restart_that_follows_at_once_closes_nothing() {
    let manager = Manager::new(242);
    let mut service = manager.serve(probe());
    let mut all = clients(&manager, 240);
    for _ in 0..5 {
        manager.end(&service);
        service = manager.serve(probe());
        let workers = service.events("worker-forked");
        let signal = |signal| {
            for worker in &workers {
                signal_to(worker.number("worker_pid"), signal);
            }
        };
        signal(Signal::SIGSTOP);
        service.signal(Signal::SIGUSR2);
        service.event("service-stopping");
        signal(Signal::SIGCONT);
        assert_eq!(service.exit(), 0);
        service = manager.serve(probe());
    }
    for client in &mut all {
        assert!(!client.get("/").unwrap().announces_close());
    }
    manager.emptied();
    assert_eq!(service.stop(), 0);
}
