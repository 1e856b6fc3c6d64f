//! `examples/chat`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::SockRef;
use tungstenite::error::ProtocolError;

use crate::manager::Manager;
use crate::support::service::{Service, Setup, signal_to};
use crate::support::websocket::{self, CloseCode, Error, Message, WebSocket};
use crate::support::{DEADLINE, eventually};

fn chat(workers: u32) -> Service {
    let configuration = format!("workers = {workers}\n[reload]\ntrial = '200ms'\n");
    Setup::example("chat", &configuration).serve()
}

/// Does what the page does: connects again when asked to, and drops what it has.
struct Guest {
    name: String,
    address: SocketAddr,
    socket: Option<WebSocket<TcpStream>>,
    /// Every line that was heard, by its number.
    heard: BTreeMap<String, (String, String)>,
    said: usize,
    /// Why its connections ended.
    ends: Vec<Option<CloseCode>>,
}

impl Guest {
    fn new(name: &str, address: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            address,
            socket: None,
            heard: BTreeMap::new(),
            said: 0,
            ends: Vec::new(),
        }
    }

    fn socket(&mut self) -> &mut WebSocket<TcpStream> {
        self.socket.get_or_insert_with(|| {
            let socket = websocket::connect(self.address, &format!("/chat?name={}", self.name));
            let wait = Some(Duration::from_millis(5));
            socket.get_ref().set_read_timeout(wait).unwrap();
            socket
        })
    }

    /// Says its next line; false: it has just heard that this connection is over.
    fn say(&mut self) -> bool {
        let line = format!("{}-{}", self.name, self.said);
        match self.socket().send(line.into()) {
            Ok(()) => self.said += 1,
            Err(Error::Protocol(ProtocolError::SendAfterClosing)) => return false,
            Err(error) => panic!("{} cannot say anything: {error}", self.name),
        }
        true
    }

    /// Takes one message, or looks in vain for a moment.
    fn listen(&mut self) {
        match self.socket().read() {
            Ok(Message::Text(line)) => {
                let line: Value = serde_json::from_str(line.as_str()).unwrap();
                let text = |key: &str| line[key].as_str().unwrap().to_owned();
                let told = (text("name"), text("text"));
                if let Some(before) = self.heard.insert(text("id"), told.clone()) {
                    assert_eq!(before, told, "two lines have one number");
                }
            }
            Ok(Message::Close(frame)) => self.ends.push(frame.map(|frame| frame.code)),
            Ok(other) => panic!("{other}"),
            Err(Error::ConnectionClosed) => self.socket = None,
            Err(Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => panic!("{} hears {error}", self.name),
        }
    }

    /// Whether its connection has ended without a goodbye.
    fn is_cut_off(&mut self) -> bool {
        let stream = self.socket().get_ref();
        stream.set_nonblocking(true).unwrap();
        let ended = stream.peek(&mut [0]).map_or_else(
            |error| error.kind() != ErrorKind::WouldBlock,
            |count| count == 0,
        );
        stream.set_nonblocking(false).unwrap();
        ended
    }

    /// What it has heard, each line once.
    #[track_caller]
    fn lines(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        for (name, text) in self.heard.values() {
            assert!(text.starts_with(name), "{name} did not say {text}");
            assert!(lines.insert(text.clone()), "{text} was said twice");
        }
        lines
    }

    /// By each of so many reloads; more often where it met an old worker again that had yet to leave.
    #[track_caller]
    fn was_sent_away(&self, reloads: usize) {
        let away = self.ends.iter().all(|end| *end == Some(CloseCode::Away));
        assert!(away && self.ends.len() >= reloads, "{:?}", self.ends);
    }

    #[track_caller]
    fn listen_until_heard(&mut self, count: usize) {
        eventually(
            &format!("{} hears {count} lines", self.name),
            DEADLINE,
            || {
                for _ in self.heard.len()..count {
                    self.listen();
                }
                (self.heard.len() >= count).then_some(())
            },
        );
    }
}

/// Guests in each of two workers.
fn guests(service: &Service) -> Vec<Guest> {
    let mut guests: Vec<Guest> = Vec::new();
    eventually("guests in every worker", DEADLINE, || {
        let mut guest = Guest::new(&format!("guest{}", guests.len()), service.address());
        guest.socket();
        guests.push(guest);
        let everywhere = service.each("connections").iter().all(|count| *count > 0);
        if !everywhere && guests.len() == 8 {
            // It came to the one that has all the others.
            guests.pop();
        }
        (everywhere && guests.len() >= 4).then_some(())
    });
    guests
}

#[test]
fn everybody_hears_everybody_in_whichever_worker() {
    let service = chat(2);
    let mut guests = guests(&service);
    for guest in &mut guests {
        assert!(guest.say());
    }
    let everything: BTreeSet<String> = guests
        .iter()
        .map(|guest| format!("{}-0", guest.name))
        .collect();
    for guest in &mut guests {
        guest.listen_until_heard(everything.len());
        assert_eq!(guest.lines(), everything);
    }
    // Who comes later sees what was said before.
    let mut late = Guest::new("late", service.address());
    late.listen_until_heard(everything.len());
    assert_eq!(late.lines(), everything);
    drop((guests, late));
    assert!(service.get("/").contains("new WebSocket"));
    assert_eq!(service.stop(), 0);
}

#[test]
fn nobody_loses_a_line_over_reloads() {
    let service = chat(2);
    let guests = guests(&service);
    let (done, said) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let count = guests.len();
    let threads: Vec<_> = guests
        .into_iter()
        .map(|mut guest| {
            let (done, said) = (Arc::clone(&done), Arc::clone(&said));
            thread::spawn(move || {
                let mut next = Instant::now();
                while !done.load(Relaxed) {
                    if Instant::now() >= next && guest.say() {
                        said.fetch_add(1, Relaxed);
                        next = Instant::now() + Duration::from_millis(80);
                    }
                    guest.listen();
                }
                guest
            })
        })
        .collect();
    let advance = |lines| {
        let goal = said.load(Relaxed) + lines;
        eventually("the guests go on", DEADLINE, || {
            (said.load(Relaxed) >= goal).then_some(())
        });
    };
    for _ in 0..3 {
        advance(40);
        assert!(service.reload().status.success());
    }
    advance(40);
    done.store(true, Relaxed);
    let guests: Vec<Guest> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let everything: BTreeSet<String> = guests
        .iter()
        .flat_map(|guest| (0..guest.said).map(|line| format!("{}-{line}", guest.name)))
        .collect();
    assert_eq!(guests.len(), count);
    for mut guest in guests {
        guest.listen_until_heard(everything.len());
        assert_eq!(guest.lines(), everything);
        guest.was_sent_away(3);
    }
    assert_eq!(service.stop(), 0);
}

/// Its workers are numbered from 1 again; a line that has the name of an older one would not be heard.
#[test]
fn nobody_loses_a_line_over_a_restart_of_the_service() {
    let manager = Manager::new(100);
    let life = || manager.serve(Setup::example("chat", "workers = 1"));
    let mut guest = Guest::new("guest", manager.address());
    let say = |guest: &mut Guest, lines| {
        for count in lines {
            assert!(guest.say());
            guest.listen_until_heard(count);
        }
    };
    let first = life();
    say(&mut guest, 1..=3);
    first.signal(Signal::SIGUSR2);
    eventually("a goodbye", DEADLINE, || {
        guest.listen();
        guest.socket.is_none().then_some(())
    });
    assert_eq!(guest.ends, [Some(CloseCode::Away)]);
    assert_eq!(first.exit(), 0);
    let second = life();
    say(&mut guest, 4..=6);
    assert_eq!(guest.lines().len(), 6);
    drop(guest);
    assert_eq!(second.stop(), 0);
}

#[test]
fn guests_of_a_worker_that_is_killed_go_on_with_another() {
    let service = chat(2);
    let mut guests = guests(&service);
    for guest in &mut guests {
        assert!(guest.say());
    }
    let count = guests.len();
    for guest in &mut guests {
        guest.listen_until_heard(count);
    }
    let killed = service.workers()[0];
    signal_to(killed, Signal::SIGKILL);
    service.wait_until_replaced(killed);
    let mut lost = 0;
    for guest in &mut guests {
        if guest.is_cut_off() {
            guest.socket = None;
            lost += 1;
        }
    }
    assert!(
        lost > 0 && lost < count,
        "{lost} of {count} lost their connection"
    );
    for guest in &mut guests {
        guest.socket();
    }
    for guest in &mut guests {
        assert!(guest.say());
    }
    for guest in &mut guests {
        guest.listen_until_heard(2 * count);
    }
    drop(guests);
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_stop_says_goodbye_and_waits_for_the_answer() {
    let service = chat(1);
    let mut guest = Guest::new("guest", service.address());
    assert!(guest.say());
    guest.listen_until_heard(1);
    service.signal(Signal::SIGTERM);
    let mut socket = guest.socket.take().unwrap();
    socket.get_ref().set_read_timeout(Some(DEADLINE)).unwrap();
    let (code, lines) = websocket::rest(&mut socket);
    assert_eq!((code, lines.len()), (1001, 0));
    assert_eq!(service.exit(), 0);
}

#[test]
fn a_stop_does_not_wait_long_for_a_guest_who_is_silent() {
    let service = chat(1);
    let mut guest = Guest::new("guest", service.address());
    assert!(guest.say());
    guest.listen_until_heard(1);
    let begun = Instant::now();
    assert_eq!(service.stop(), 0);
    // `timeouts.graceful` is 30 s.
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_stop_does_not_wait_long_for_a_guest_who_reads_nothing() {
    let settings = "workers = 1\n[timeouts]\ngraceful = '2m'\n";
    let service = Setup::example("chat", settings).serve();
    let deaf = websocket::connect(service.address(), "/chat?name=deaf");
    SockRef::from(deaf.get_ref())
        .set_recv_buffer_size(4096)
        .unwrap();
    // More than the worker's side can have in its buffer.
    let buffer = fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").unwrap();
    let most: usize = buffer.split_whitespace().last().unwrap().parse().unwrap();
    let line = "x".repeat(8000);
    let mut speaker = websocket::connect(service.address(), "/chat?name=speaker");
    for _ in 0..(most + (1 << 20)) / line.len() {
        speaker.send(line.as_str().into()).unwrap();
        assert!(websocket::text(&mut speaker).contains(&line));
    }
    drop(speaker);
    assert_eq!(service.stop(), 0);
    drop(deaf);
}

/// A line crosses the goodbye on its way: the guest has not read that yet.
#[test]
fn what_is_said_into_a_goodbye_is_heard() {
    let service = chat(2);
    let mut guests = guests(&service);
    let count = guests.len();
    assert!(service.reload().status.success());
    for guest in &mut guests {
        assert!(guest.say(), "it has read nothing");
    }
    for guest in &mut guests {
        guest.listen_until_heard(count);
        guest.was_sent_away(1);
    }
    drop(guests);
    assert_eq!(service.stop(), 0);
}
