//! The real binary with passed sockets of every kind, and of every kind that is none of its business.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

const DEADLINE: Duration = Duration::from_secs(20);

/// A run of payload with up to two passed descriptors.
///
/// They travel as standard input and output to a shell, which moves them to 3 and 4 and becomes payload: so its
/// pid is known before it starts, and no other child of this test can inherit them.
struct Passing {
    command: Command,
    count: usize,
}

impl Passing {
    fn new(fds: Vec<OwnedFd>, args: &[&str]) -> Self {
        let count = fds.len();
        let moves = match count {
            0 => "",
            1 => "exec 3<&0 0</dev/null; ",
            2 => "exec 3<&0 4<&1 0</dev/null 1>/dev/null; ",
            more => panic!("{more} are too many"),
        };
        let script = format!(
            "{moves}[ -n \"$NO_PID\" ] || export LISTEN_PID=${{FOREIGN_PID:-$$}}; exec \"$@\""
        );
        let mut command = Command::new("sh");
        command
            .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_payload")])
            .args(args)
            .env("LISTEN_FDS", count.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        for unwanted in [
            "LISTEN_FDNAMES",
            "LISTEN_PIDFDID",
            "LISTEN_FDS_FIRST_FD",
            "SYSTEMD_EXEC_PID",
            "INVOCATION_ID",
            "NOTIFY_SOCKET",
            "JOURNAL_STREAM",
            "RUNTIME_DIRECTORY",
            "XDG_RUNTIME_DIR",
        ] {
            command.env_remove(unwanted);
        }
        let mut fds = fds.into_iter();
        if let Some(first) = fds.next() {
            command.stdin(first);
        }
        if let Some(second) = fds.next() {
            command.stdout(second);
        }
        Self { command, count }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn start(mut self) -> Running {
        let mut child = self.command.spawn().unwrap();
        // The command still holds the descriptors: a listener must live in payload alone.
        drop(self.command);
        let lines = lines_of(child.stderr.take().unwrap());
        Running { child, lines }
    }

    /// Runs to the end: the exit code and standard error.
    fn finish(self) -> (Option<i32>, String) {
        let mut running = self.start();
        let deadline = Instant::now() + DEADLINE;
        let mut text = String::new();
        while let Ok(line) = running
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            text.push_str(&line);
            text.push('\n');
        }
        (running.exit_code(), text)
    }

    /// It must refuse with 78, in `run` as in `check`, and say all of `parts`.
    fn must_be_refused(self, parts: &[&str]) {
        assert!(self.count > 0);
        let (code, text) = self.finish();
        assert_eq!(code, Some(78), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }
}

struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn wait_for_line(&self, part: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        let mut seen = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push_str(&(line + "\n")),
                Err(error) => panic!("{error}: no line with {part:?} in: {seen}"),
            }
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Asks it to stop; it must leave with 0.
    fn stop(mut self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        assert_eq!(self.exit_code(), Some(0));
    }

    /// Standard error closes when the arbiter and all its workers are gone, so the wait has an end.
    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + DEADLINE;
        while let Ok(_line) = self
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {}
        if Instant::now() >= deadline {
            let _ = self.child.kill();
        }
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(stderr: ChildStderr) -> Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

const RUN: &[&str] = &["run", "--workers", "1"];

fn loopback() -> (OwnedFd, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
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
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

const OK: &str = "HTTP/1.1 200 OK";

#[test]
fn ipv4() {
    let (fd, address) = loopback();
    let payload = Passing::new(vec![fd], RUN).start();
    assert_eq!(tcp(address), OK);
    payload.stop();
}

#[test]
fn ipv6_and_dual_stack() {
    let v6 = TcpListener::bind("[::1]:0").unwrap();
    let v6_address = v6.local_addr().unwrap();
    let dual = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    dual.set_only_v6(false).unwrap();
    dual.bind(&"[::]:0".parse::<std::net::SocketAddr>().unwrap().into())
        .unwrap();
    dual.listen(16).unwrap();
    let port = dual.local_addr().unwrap().as_socket().unwrap().port();
    let payload = Passing::new(vec![v6.into(), dual.into()], RUN).start();
    assert_eq!(tcp(v6_address), OK);
    assert_eq!(tcp(("127.0.0.1", port)), OK);
    assert_eq!(tcp(("::1", port)), OK);
    payload.stop();
}

#[test]
fn unix_path_and_abstract() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    let name = format!("payload-test-{}", std::process::id());
    let name = SocketAddr::from_abstract_name(&name).unwrap();
    let by_path = UnixListener::bind(&path).unwrap();
    let by_name = UnixListener::bind_addr(&name).unwrap();
    let payload = Passing::new(vec![by_path.into(), by_name.into()], RUN).start();
    assert_eq!(unix(UnixStream::connect(&path).unwrap()), OK);
    assert_eq!(unix(UnixStream::connect_addr(&name).unwrap()), OK);
    payload.stop();
    assert!(
        path.exists(),
        "a passed socket's file belongs to who passed it"
    );
}

#[test]
fn several_sockets_may_have_one_name() {
    let ((first, one), (second, two)) = (loopback(), loopback());
    let payload = Passing::new(vec![first, second], RUN)
        .env("LISTEN_FDNAMES", "http:http")
        .start();
    assert_eq!(tcp(one), OK);
    assert_eq!(tcp(two), OK);
    payload.stop();
}

#[test]
fn passed_sockets_beat_listen_and_that_is_said() {
    let (fd, address) = loopback();
    let args = ["run", "--workers", "1", "--listen", "127.0.0.1:0"];
    let payload = Passing::new(vec![fd], &args).start();
    payload.wait_for_line("1 socket was passed; `listen` is not used");
    assert_eq!(tcp(address), OK);
    payload.stop();
}

#[test]
fn the_form_without_a_pid_is_taken_outside_systemd_only() {
    let (fd, address) = loopback();
    let payload = Passing::new(vec![fd], RUN).env("NO_PID", "1").start();
    assert_eq!(tcp(address), OK);
    payload.stop();

    let (fd, _) = loopback();
    let args = ["run", "--workers", "1", "--listen", "127.0.0.1:0"];
    let payload = Passing::new(vec![fd], &args)
        .env("NO_PID", "1")
        .env("INVOCATION_ID", "x")
        .start();
    payload.wait_for_line("INVOCATION_ID says that this runs under systemd");
    payload.wait_for_line("every worker serves");
    payload.stop();
}

#[test]
fn sockets_of_another_process_are_left_alone() {
    let (fd, _) = loopback();
    let args = ["run", "--workers", "1", "--listen", "127.0.0.1:0"];
    let payload = Passing::new(vec![fd], &args)
        .env("FOREIGN_PID", "1")
        .start();
    let line = payload.wait_for_line("no socket was passed; listening on http://");
    payload.wait_for_line("every worker serves");
    let address = line.rsplit("http://").next().unwrap();
    assert_eq!(tcp(address), OK);
    payload.stop();
}

#[test]
fn an_own_socket_file_is_gone_after_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    let listen = format!("unix:{}", path.display());
    let payload = Passing::new(vec![], &["run", "--workers", "1", "--listen", &listen]).start();
    payload.wait_for_line("every worker serves");
    assert_eq!(unix(UnixStream::connect(&path).unwrap()), OK);
    payload.stop();
    assert!(!path.exists());
}

#[test]
fn an_address_in_use_is_exit_69_and_named() {
    let (_held, address) = loopback();
    let listen = address.to_string();
    let (code, text) = Passing::new(vec![], &["run", "--listen", &listen]).finish();
    assert_eq!(code, Some(69), "{text}");
    assert!(
        text.contains(&format!("cannot listen on {address}")),
        "{text}"
    );
}

#[test]
fn a_datagram_socket_must_be_refused() {
    for command in ["run", "check"] {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        Passing::new(vec![udp.into()], &[command])
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
    Passing::new(vec![socket.into()], RUN).must_be_refused(&[
        "fd 3 'fd3' is a sequential packet socket",
        "ListenSequentialPacket=",
    ]);
}

#[test]
fn a_connected_socket_must_be_refused() {
    let (fd, address) = loopback();
    let client = TcpStream::connect(address).unwrap();
    Passing::new(vec![client.into()], RUN)
        .must_be_refused(&["fd 3 'fd3' is a connected socket", "Accept=no"]);
    drop(fd);
}

#[test]
fn a_regular_file_and_a_pipe_are_refused_together() {
    let file = tempfile::tempfile().unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    Passing::new(vec![file.into(), pipe.into()], RUN).must_be_refused(&[
        "2 of 2 passed file descriptors cannot be used",
        "fd 3 'fd3' is a regular file",
        "fd 4 'fd4' is a pipe",
    ]);
}

#[test]
fn one_bad_socket_among_good_ones_must_be_refused() {
    let (good, _) = loopback();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    Passing::new(vec![good, udp.into()], RUN)
        .env("LISTEN_FDNAMES", "http:dns")
        .must_be_refused(&["1 of 2 passed", "fd 4 'dns' is a datagram socket"]);
}

#[test]
fn a_stored_connection_without_a_listener_must_be_refused() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    Passing::new(vec![ours.into()], RUN)
        .env("LISTEN_FDNAMES", "stored")
        .must_be_refused(&["fd 3 'stored' comes from the file descriptor store"]);
}

#[test]
fn a_count_that_does_not_match_must_be_refused() {
    let (fd, _) = loopback();
    Passing::new(vec![fd], RUN)
        .env("LISTEN_FDNAMES", "http:https")
        .must_be_refused(&["LISTEN_FDNAMES=http:https has 2 names for LISTEN_FDS=1"]);
    let (fd, _) = loopback();
    Passing::new(vec![fd], RUN)
        .env("LISTEN_FDS", "2")
        .must_be_refused(&["fd 4 'fd4' is not open"]);
    let (fd, _) = loopback();
    Passing::new(vec![fd], RUN)
        .env("LISTEN_FDS", "many")
        .must_be_refused(&["LISTEN_FDS=many is not a number"]);
}
