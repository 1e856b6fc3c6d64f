//! `examples/behind_proxy`, behind real proxies that run with the configurations beside it.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::manager::Manager;
use crate::support::http::{Client, get, request};
use crate::support::service::{Record, Service, Setup, number, signal_to};
use crate::support::status::workers_of;
use crate::support::{DEADLINE, eventually, skip};
use crate::users::{Users, ask, ask_or_lose, post};

fn setup() -> Setup {
    Setup::example("behind_proxy", "workers = 2\n[reload]\ntrial = '200ms'")
}

fn service() -> Service {
    setup().serve()
}

/// A proxy in front of a service. Dropping it kills it.
struct Proxy {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Proxy {
    fn nginx(service: SocketAddr) -> Option<Self> {
        let server = include_str!("../../examples/behind_proxy/nginx.conf");
        let around = "
            daemon off; user root; worker_processes 2; pid @FOLDER@/pid; error_log @FOLDER@/log;
            events {}
            http {
                access_log off; keepalive_requests 1000000;
                client_body_temp_path @FOLDER@/1; proxy_temp_path @FOLDER@/2; fastcgi_temp_path @FOLDER@/3;
                uwsgi_temp_path @FOLDER@/4; scgi_temp_path @FOLDER@/5;
                include @FOLDER@/server.conf;
            }";
        Self::start("nginx", |folder, address| {
            let server = replaced(server, "127.0.0.1:8080", &service.to_string());
            let server = replaced(&server, "listen 80;", &format!("listen {address};"));
            fs::write(folder.join("server.conf"), server).unwrap();
            let around = around.replace("@FOLDER@", folder.to_str().unwrap());
            fs::write(folder.join("nginx.conf"), around).unwrap();
            let mut command = Command::new("nginx");
            command.arg("-e").arg(folder.join("log"));
            command.arg("-c").arg(folder.join("nginx.conf"));
            // As if it were upgraded: it takes the listening socket over, which is its standard input.
            command.env("NGINX", "0;");
            command
        })
    }

    fn haproxy(service: SocketAddr) -> Option<Self> {
        let configuration = include_str!("../../examples/behind_proxy/haproxy.cfg");
        Self::start("haproxy", |folder, _| {
            let text = replaced(configuration, "127.0.0.1:8080", &service.to_string());
            let text = replaced(&text, "bind :80", "bind fd@0");
            fs::write(folder.join("haproxy.cfg"), text).unwrap();
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(folder.join("haproxy.cfg"));
            command
        })
    }

    /// With a port that nobody else can have meanwhile.
    fn start(program: &str, command: impl FnOnce(&Path, SocketAddr) -> Command) -> Option<Self> {
        if Command::new(program).arg("-v").output().is_err() {
            skip(&format!("{program} is not installed"));
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // nginx takes it for granted: its processes would block in `accept`.
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut child = command(folder.path(), address)
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        eventually("the proxy serves", DEADLINE, || {
            let log = || fs::read_to_string(folder.path().join("log")).unwrap();
            assert!(child.try_wait().unwrap().is_none(), "{program}: {}", log());
            let answer = Client::connect(address).ok()?.get("/healthz").ok()?;
            (answer.status == 200).then_some(())
        });
        Some(Self {
            child,
            address,
            folder,
        })
    }

    /// From another address of this machine than the proxy's own.
    fn client(&self) -> Client {
        client_from([127, 0, 0, 2], self.address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Not SIGKILL, which its workers would survive.
        signal_to(self.child.id(), Signal::SIGTERM);
        let _ = self.child.wait();
        if thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log"));
            eprintln!("---- the proxy's log\n{}----", log.unwrap_or_default());
        }
    }
}

/// What is shipped must be what is tested.
#[track_caller]
fn replaced(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "no '{old}'");
    text.replace(old, new)
}

fn client_from(own: [u8; 4], address: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((own, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    Client::over(TcpStream::from(socket)).unwrap()
}

fn with(path: &str, headers: &str) -> String {
    request(path).replace("Host: test\r\n", &format!("Host: test\r\n{headers}"))
}

const FORGED: &str =
    "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Request-Id: forged\r\n";

#[test]
fn a_stranger_is_believed_nothing() {
    let service = service();
    let mut stranger = client_from([127, 0, 0, 2], service.address());
    let answer = ask(&mut stranger, &with("/", FORGED), 200);
    assert!(
        answer.body.starts_with("127.0.0.2 by http, "),
        "{}",
        answer.body
    );
    assert_ne!(answer.header("x-request-id"), Some("forged"));
    let mut proxy = client_from([127, 0, 0, 1], service.address());
    let answer = ask(&mut proxy, &with("/", FORGED), 200);
    assert_eq!(answer.body, "203.0.113.9 by https, request forged\n");
    assert_eq!(answer.header("x-request-id"), Some("forged"));
    assert_eq!(service.stop(), 0);
}

/// Each worker draws its own.
#[test]
fn no_two_requests_have_the_same_number() {
    let service = service();
    let mut numbers = Vec::new();
    eventually("both have answered", DEADLINE, || {
        for _ in 0..20 {
            let answer = get(service.address(), "/");
            numbers.push(answer.header("x-request-id").unwrap().to_owned());
        }
        let both = service.each("requests").iter().all(|count| *count > 0);
        (both && numbers.len() >= 40).then_some(())
    });
    let count = numbers.len();
    assert!(
        numbers.iter().all(|number| number.len() == 32),
        "{numbers:?}"
    );
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count);
    assert_eq!(service.stop(), 0);
}

#[test]
fn nginx() {
    let service = service();
    if let Some(proxy) = Proxy::nginx(service.address()) {
        behind(&proxy, &service, 502);
    }
}

#[test]
fn haproxy() {
    let service = service();
    if let Some(proxy) = Proxy::haproxy(service.address()) {
        behind(&proxy, &service, 503);
    }
}

#[test]
fn nginx_over_a_restart() {
    a_restart_is_a_moments_wait(Proxy::nginx);
}

#[test]
fn haproxy_over_a_restart() {
    a_restart_is_a_moments_wait(Proxy::haproxy);
}

/// What a proxy sees of a service as long as that goes on, and of its end.
fn behind(proxy: &Proxy, service: &Service, gone: u16) {
    clients_are_known(proxy, service);
    a_reload_is_not_seen(proxy, service);
    a_worker_that_is_killed_loses_what_it_had_in_its_hands(proxy, service);
    a_stop_answers_what_is_in_flight(proxy, service, gone);
}

fn clients_are_known(proxy: &Proxy, service: &Service) {
    let mut client = proxy.client();
    let answer = ask(&mut client, &with("/", FORGED), 200);
    assert!(
        answer.body.starts_with("127.0.0.2 by http, "),
        "{}",
        answer.body
    );
    let number = answer.header("x-request-id").unwrap().to_owned();
    assert_ne!(number, "forged");
    let logged = service.record("the request", |record| record.text("id") == number);
    assert_eq!(logged.text("client"), "127.0.0.2");
    // And another one for another request on the same connection.
    let second = ask(&mut client, &request("/"), 200);
    assert_ne!(second.header("x-request-id"), Some(number.as_str()));
}

fn users_of(proxy: &Proxy) -> Users<()> {
    Users::start(proxy.address, 6, |client, user, _| {
        if user == 0 {
            // A request that a proxy does not send again: if it failed, that would be seen.
            ask(client, &post("/slow", ""), 200);
        } else {
            ask(client, &request("/"), 200);
        }
    })
}

fn a_reload_is_not_seen(proxy: &Proxy, service: &Service) {
    let users = users_of(proxy);
    for _ in 0..4 {
        users.advance(200);
        let reload = service.reload();
        assert!(reload.status.success(), "{reload:?}");
    }
    let killed = service.workers()[0];
    signal_to(killed, Signal::SIGTERM);
    service.wait_until_replaced(killed);
    users.advance(200);
    users.finish();
}

/// The request that is known to be there, and on each other connection the one that can have been. A proxy lends a
/// connection to one user after the other.
fn a_worker_that_is_killed_loses_what_it_had_in_its_hands(proxy: &Proxy, service: &Service) {
    let address = proxy.address;
    let users = Users::start(address, 6, move |client, _, _| {
        ask_or_lose(client, address, &request("/"), 200).is_some()
    });
    users.advance(200);
    let before = slow(service).len();
    let mut waiting = proxy.client();
    waiting.send_bytes(post("/slow", "")).unwrap();
    let begun = service.count("it is in flight", before + 1, is_slow).pop();
    let worker = begun.unwrap().worker();
    let its = |key: &str| {
        let status = service.status();
        let is_it = |at: &&Value| at["worker"].as_u64() == worker;
        number(&workers_of(&status).iter().find(is_it).unwrap()[key])
    };
    let killed = its("pid");
    // So it takes nothing on, and answers nothing.
    freeze(killed);
    let held = its("connections") as usize;
    signal_to(killed, Signal::SIGKILL);
    if let Ok(answer) = waiting.answer() {
        assert_eq!(answer.status, 502, "{}", answer.head);
    }
    service.wait_until_replaced(killed);
    users.advance(200);
    let made = users.finish().concat();
    let lost = made.iter().filter(|had_answer| !**had_answer).count();
    assert!(lost < held, "{lost} of users, with {held} connections");
    assert_eq!(slow(service).len(), before + 1, "no proxy sends it again");
}

/// Until all its threads stand still.
fn freeze(pid: u32) {
    signal_to(pid, Signal::SIGSTOP);
    eventually("it is stopped", DEADLINE, || {
        let mut threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        let stands = |path: &Path| {
            let stat = fs::read_to_string(path.join("stat"));
            stat.is_ok_and(|stat| stat.contains(") T "))
        };
        threads.all(|thread| stands(&thread.path())).then_some(())
    });
}

/// As `systemctl restart` does it, with a socket that is the manager's.
fn a_restart_is_a_moments_wait(proxy: impl Fn(SocketAddr) -> Option<Proxy>) {
    let manager = Manager::new(100);
    let mut service = manager.serve(setup());
    let Some(proxy) = proxy(manager.address()) else {
        return;
    };
    let users = users_of(&proxy);
    for _ in 0..2 {
        users.advance(200);
        manager.end(&service);
        let kept = service.event("connections-kept");
        assert!(kept.number("kept") > 0, "{kept}");
        assert_eq!(kept.number("closed"), 0, "{kept}");
        service = manager.serve(setup());
    }
    users.advance(200);
    users.finish();
    drop(proxy);
    assert_eq!(service.stop(), 0);
}

fn is_slow(record: &Record) -> bool {
    record.text("message") == "this takes a while"
}

/// The slow requests that have begun.
fn slow(service: &Service) -> Vec<Record> {
    let mut records = service.records();
    records.retain(is_slow);
    records
}

fn a_stop_answers_what_is_in_flight(proxy: &Proxy, service: &Service, gone: u16) {
    let mut client = proxy.client();
    let before = slow(service).len();
    client.send("/slow").unwrap();
    service.count("it is in flight", before + 1, is_slow);
    service.signal(Signal::SIGTERM);
    assert_eq!(client.answer().unwrap().body, "at last\n");
    assert_eq!(service.exit(), 0);
    assert_eq!(proxy.client().get("/").unwrap().status, gone);
}
