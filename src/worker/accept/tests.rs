use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::sockets::Origin;
use crate::worker::testing::{Fixture, get, response};

fn listener() -> (Listener, std::net::SocketAddr) {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = Listener {
        fd: socket.into(),
        name: "web".into(),
        address: ListenerAddress::Tcp(address),
        origin: Origin::Bound,
        wanted: None,
    };
    (listener, address)
}

/// An acceptor that does not run yet, and where to connect.
fn acceptor_of(fixture: &Fixture) -> (Acceptor, std::net::SocketAddr) {
    let (listener, address) = listener();
    (acceptor(&listener, &fixture.server).unwrap(), address)
}

/// Connects and asks; an answer proves that the worker accepts.
async fn ask(address: std::net::SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(get("/hello").as_bytes()).await.unwrap();
    let answer = timeout(Duration::from_secs(10), response(&mut client));
    let (_, body) = answer.await.expect("it is accepted");
    assert_eq!(body, "/hello");
    client
}

#[tokio::test]
async fn without_memory_for_its_place_in_the_queue_a_worker_tries_again() {
    let fixture = Fixture::new();
    let (mut acceptor, address) = acceptor_of(&fixture);
    acceptor
        .queued
        .refuse(&[Errno::ENOMEM, Errno::ENOSPC, Errno::ENOMEM]);
    fixture.server.tasks.spawn(acceptor.run());
    // The refusals come after the first one is accepted, as the worker goes to the end of the queue.
    let _held = ask(address).await;
    let _next = ask(address).await;
}

#[tokio::test]
async fn a_worker_that_waits_for_memory_drains() {
    let fixture = Fixture::new();
    let (mut acceptor, address) = acceptor_of(&fixture);
    acceptor.queued.refuse(&[Errno::ENOMEM; 10_000]);
    fixture.server.tasks.spawn(acceptor.run());
    drop(ask(address).await);
    fixture.server.signal().raise(Order::Drain);
    let over = timeout(Duration::from_secs(10), fixture.server.tasks.over());
    over.await.expect("no task is left");
}

#[tokio::test]
async fn a_place_in_the_queue_that_cannot_be_had_ends_the_worker() {
    let fixture = Fixture::new();
    let (mut acceptor, address) = acceptor_of(&fixture);
    acceptor.queued.refuse(&[Errno::EBADF]);
    let accepting = tokio::spawn(async move { acceptor.accept_until_drain().await });
    drop(ask(address).await);
    let failure = timeout(Duration::from_secs(10), accepting);
    let failure = failure.await.expect("an end").unwrap().unwrap_err();
    assert!(failure.to_string().contains("'web'"), "{failure}");
}

#[tokio::test]
async fn a_connection_that_was_dealt_to_a_worker_that_does_not_take_it_is_found() {
    let fixture = Fixture::new();
    let (listener, address) = listener();
    // The other worker: first in the queue, told of the connection, and gone.
    let other = Epoll::new(EpollCreateFlags::empty()).unwrap();
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET | EpollFlags::EPOLLEXCLUSIVE;
    other.add(&listener.fd, EpollEvent::new(flags, 0)).unwrap();
    start(&listener, &fixture.server).unwrap();
    let (send, tid) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        send.send(nix::unistd::gettid()).unwrap();
        other.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE)
    });
    let stat = format!("/proc/self/task/{}/stat", tid.recv().unwrap());
    while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
        std::thread::yield_now();
    }
    drop(ask(address).await);
    assert_eq!(other.join().unwrap(), Ok(1), "the other one was told");
}

/// Whoever hears that this one accepts no more may rely on it: a reload ends with it, for example.
#[tokio::test]
async fn once_they_have_ended_a_connection_is_left_to_who_comes_next() {
    let fixture = Fixture::new();
    let (listener, address) = listener();
    start(&listener, &fixture.server).unwrap();
    drop(ask(address).await);
    fixture.server.signal().raise(Order::HandOff);
    let ended = timeout(
        Duration::from_secs(10),
        fixture.server.tasks.nobody_accepts(),
    );
    ended.await.expect("no acceptor is left");
    let _client = std::net::TcpStream::connect(address).unwrap();
    // The kernel may be late.
    let mut there = [PollFd::new(listener.fd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut there, PollTimeout::from(10_000_u16)), Ok(1));
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    let next = SockRef::from(&listener.fd).accept();
    assert!(next.is_ok(), "it was taken: {next:?}");
}
