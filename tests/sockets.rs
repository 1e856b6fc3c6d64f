//! The real binary with passed sockets of every kind, and of every kind that is none of its business.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use socket2::{Domain, Socket, Type};
use support::service::Setup;
use support::{DEADLINE, skip};

const OK: &str = "HTTP/1.1 200 OK";

fn payload() -> Setup {
    Setup::shipped("workers = 1")
}

impl Setup {
    /// It must leave with this code, and say all of `parts`.
    #[track_caller]
    fn must_fail(self, code: i32, parts: &[&str]) {
        let service = self.start();
        assert_eq!(service.exit(), code);
        let text = service.text();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }

    #[track_caller]
    fn must_be_refused(self, parts: &[&str]) {
        self.must_fail(78, parts);
    }
}

fn loopback() -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn tcp(address: impl std::net::ToSocketAddrs) -> String {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    answer(stream)
}

fn unix(stream: UnixStream) -> String {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    answer(stream)
}

/// The status line of one request. An early connection waits in the backlog until the worker serves.
fn answer(mut stream: impl Read + Write) -> String {
    let request = support::http::last_request("/");
    stream.write_all(request.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[test]
fn ipv4() {
    let (socket, address) = loopback();
    let service = payload().pass(socket).start();
    assert_eq!(tcp(address), OK);
    assert_eq!(service.stop(), 0);
}

#[test]
fn ipv6_and_dual_stack() {
    let v6 = match TcpListener::bind("[::1]:0") {
        Ok(socket) => socket,
        Err(error) => return skip(&format!("IPv6 sockets: cannot listen on [::1]: {error}")),
    };
    let v6_address = v6.local_addr().unwrap();
    let dual = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    dual.set_only_v6(false).unwrap();
    dual.bind(&"[::]:0".parse::<std::net::SocketAddr>().unwrap().into())
        .unwrap();
    dual.listen(16).unwrap();
    let port = dual.local_addr().unwrap().as_socket().unwrap().port();
    let service = payload().pass(v6).pass(dual).start();
    assert_eq!(tcp(v6_address), OK);
    assert_eq!(tcp(("127.0.0.1", port)), OK);
    assert_eq!(tcp(("::1", port)), OK);
    assert_eq!(service.stop(), 0);
}

#[test]
fn unix_path_and_abstract() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    let name = format!("payload-test-{}", std::process::id());
    let name = SocketAddr::from_abstract_name(&name).unwrap();
    let by_path = UnixListener::bind(&path).unwrap();
    let by_name = UnixListener::bind_addr(&name).unwrap();
    let service = payload().pass(by_path).pass(by_name).start();
    assert_eq!(unix(UnixStream::connect(&path).unwrap()), OK);
    assert_eq!(unix(UnixStream::connect_addr(&name).unwrap()), OK);
    assert_eq!(service.stop(), 0);
    assert!(
        path.exists(),
        "a passed socket's file belongs to who passed it"
    );
}

#[test]
fn several_sockets_may_have_one_name() {
    let ((first, one), (second, two)) = (loopback(), loopback());
    let service = payload()
        .pass(first)
        .pass(second)
        .env("LISTEN_FDNAMES", "http:http")
        .start();
    assert_eq!(tcp(one), OK);
    assert_eq!(tcp(two), OK);
    assert_eq!(service.stop(), 0);
}

#[test]
fn passed_sockets_beat_listen_and_that_is_said() {
    let (socket, address) = loopback();
    let service = payload().pass(socket).listen(Some("127.0.0.1:0")).start();
    service.message("1 socket was passed; `listen` is not used");
    assert_eq!(tcp(address), OK);
    assert_eq!(service.stop(), 0);
}

#[test]
fn the_form_without_a_pid_is_taken_outside_systemd_only() {
    let (socket, address) = loopback();
    let service = payload().pass(socket).env("LISTEN_PID", "").start();
    assert_eq!(tcp(address), OK);
    assert_eq!(service.stop(), 0);

    let (socket, _) = loopback();
    let service = payload()
        .pass(socket)
        .listen(Some("127.0.0.1:0"))
        .env("LISTEN_PID", "")
        .env("INVOCATION_ID", "x")
        .start();
    service.message("INVOCATION_ID says that this runs under systemd");
    service.message("every worker serves");
    assert_eq!(service.stop(), 0);
}

#[test]
fn sockets_of_another_process_are_left_alone() {
    let (socket, _) = loopback();
    let service = payload()
        .pass(socket)
        .listen(Some("127.0.0.1:0"))
        .env("LISTEN_PID", "1")
        .start();
    service.message("no socket was passed; listening on http://");
    service.message("every worker serves");
    assert_eq!(tcp(service.address()), OK);
    assert_eq!(service.stop(), 0);
}

#[test]
fn an_own_socket_file_is_gone_after_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    let listen = format!("unix:{}", path.display());
    let service = payload().listen(Some(&listen)).start();
    service.message("every worker serves");
    assert_eq!(unix(UnixStream::connect(&path).unwrap()), OK);
    assert_eq!(service.stop(), 0);
    assert!(!path.exists());
}

#[test]
fn an_address_in_use_is_exit_69_and_named() {
    let (_held, address) = loopback();
    payload()
        .listen(Some(&address.to_string()))
        .must_fail(69, &[&format!("cannot listen on {address}")]);
}

#[test]
fn a_datagram_socket_must_be_refused() {
    for command in ["run", "check"] {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        payload()
            .pass(udp)
            .args(&[command])
            .env("LISTEN_FDNAMES", "web")
            .must_be_refused(&[
                "fd 3 'web' is a datagram socket",
                "ListenStream= instead of ListenDatagram=",
            ]);
    }
}

#[test]
fn a_seqpacket_socket_must_be_refused() {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    payload().pass(socket).must_be_refused(&[
        "fd 3 'fd3' is a sequential packet socket",
        "ListenSequentialPacket=",
    ]);
}

#[test]
fn a_connected_socket_must_be_refused() {
    let (_listener, address) = loopback();
    let client = TcpStream::connect(address).unwrap();
    payload()
        .pass(client)
        .must_be_refused(&["fd 3 'fd3' is a connected socket", "Accept=no"]);
}

#[test]
fn a_regular_file_and_a_pipe_are_refused_together() {
    let file = tempfile::tempfile().unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    payload().pass(file).pass(pipe).must_be_refused(&[
        "2 of 2 passed file descriptors cannot be used",
        "fd 3 'fd3' is a regular file",
        "fd 4 'fd4' is a pipe",
    ]);
}

#[test]
fn one_bad_socket_among_good_ones_must_be_refused() {
    let (good, _) = loopback();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    payload()
        .pass(good)
        .pass(udp)
        .env("LISTEN_FDNAMES", "http:dns")
        .must_be_refused(&["1 of 2 passed", "fd 4 'dns' is a datagram socket"]);
}

#[test]
fn a_stored_connection_without_a_listener_must_be_refused() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    payload()
        .pass(ours)
        .env("LISTEN_FDNAMES", "stored")
        .must_be_refused(&["fd 3 'stored' comes from the file descriptor store"]);
}

#[test]
fn a_count_that_does_not_match_must_be_refused() {
    for (name, value, reason) in [
        (
            "LISTEN_FDNAMES",
            "http:https",
            "LISTEN_FDNAMES=http:https has 2 names for LISTEN_FDS=1",
        ),
        ("LISTEN_FDS", "2", "fd 4 'fd4' is not open"),
        ("LISTEN_FDS", "many", "LISTEN_FDS=many is not a number"),
    ] {
        let (socket, _) = loopback();
        payload()
            .pass(socket)
            .env(name, value)
            .must_be_refused(&[reason]);
    }
}
