//! A service that nobody needs leaves, and no connection is lost by it. The test is the manager: it keeps the
//! listening socket, and starts the service whenever a connection waits there.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::support::http::Client;
use crate::support::notify::Manager;
use crate::support::service::{Service, Setup};
use crate::support::status::workers_of;
use crate::support::{DEADLINE, eventually};

const CYCLES: u32 = 500;

struct Held {
    listener: TcpListener,
    address: SocketAddr,
}

impl Held {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    fn setup(&self, configuration: &str) -> Setup {
        Setup::new(configuration).pass(self.listener.try_clone().unwrap())
    }

    /// A connection that waits, as the manager sees it.
    fn waits(&self, limit: Duration) -> bool {
        let mut watched = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(limit).unwrap();
        poll(&mut watched, limit).unwrap() > 0
    }

    fn client(&self) -> Client {
        Client::connect(self.address).expect("no connection is refused")
    }
}

#[track_caller]
fn left_idle(service: &Service) {
    assert_eq!(service.exit(), 0, "{}", service.text());
    service.event("service-idle");
}

#[test]
fn what_has_left_is_started_by_the_next_connection_and_says_why_it_leaves() {
    let (held, manager) = (Held::new(), Manager::on_path());
    let service = held.setup("idle_exit = '300ms'").notify(&manager).start();
    let said = manager.hear_line("STOPPING=1");
    left_idle(&service);
    let status = said.value("STATUS").expect("a status");
    assert_eq!(
        status,
        "idle for 300ms: leaving, and the next connection starts the service"
    );
    let idle = service.event("service-idle").seconds("idle_seconds");
    assert!((0.3..30.0).contains(&idle), "{idle} s");
    drop(service);

    let mut client = held.client();
    client.send("/").unwrap();
    assert!(held.waits(DEADLINE));
    let service = held.setup("idle_exit = '300ms'").start();
    assert_eq!(client.answer().expect("an answer").status, 200);
    drop(client);
    left_idle(&service);
}

#[test]
fn an_open_connection_keeps_it() {
    let held = Held::new();
    // There before it could be idle.
    let mut silent = held.client();
    let service = held.setup("idle_exit = '50ms'").serve();
    let mut slow = held.client();
    slow.get("/sleep?ms=1000").expect("an answer");
    service.never("service-idle");
    drop(slow);
    sleep(Duration::from_millis(500));
    silent.get("/").expect("the connection is still there");
    service.never("service-idle");
    drop(silent);
    left_idle(&service);
}

#[test]
fn what_the_app_declares_busy_keeps_it() {
    let held = Held::new();
    let mut client = held.client();
    let service = held.setup("idle_exit = '50ms'").serve();
    let done = service.folder().join("done");
    let path = format!("/busy?file={}", done.display());
    client.get(&path).expect("an answer");
    drop(client);
    service.status_where("it is busy and nobody is connected", |status| {
        let sum = |key: &str| -> u64 {
            let counts = workers_of(status).iter().map(|one| one[key].as_u64());
            counts.map(|count| count.expect("a number")).sum()
        };
        sum("busy") == 1 && sum("connections") == 0
    });
    // Ten times as long as it may be idle.
    sleep(Duration::from_millis(500));
    service.never("service-idle");
    service.write("done", "");
    left_idle(&service);
}

/// It cannot say that it accepts nothing, so the others serve on.
#[test]
fn a_worker_that_is_blocked_keeps_nobody_waiting_for_long() {
    let held = Held::new();
    // Nothing is idle while this one is open.
    let first = held.client();
    let service = held
        .setup("workers = 2\nidle_exit = '100ms'\ntimeouts.heartbeat_serving = '10m'\n[app]\npayload = 'block'\nslot = 0\ngo = '@FOLDER@/go'")
        .filled_in()
        .serve();
    // Keeps it until the other one is blocked.
    let well = service.workers()[1].to_string();
    let client = eventually("a connection to the other one", DEADLINE, || {
        let mut client = held.client();
        let pid = client.get("/").expect("an answer").body;
        (pid.trim() == well).then_some(client)
    });
    drop(first);
    service.wait_for_sum("connections", 1);
    service.write("go", "");
    service.status_where("slot 0 is blocked", |status| {
        let beat = workers_of(status)[0]["heartbeat"].as_f64();
        beat.is_some_and(|seconds| seconds > 2.0)
    });
    drop(client);
    // Now in a pause, and now between two of them.
    let mut waited = Vec::new();
    for pause in 0..20 {
        sleep(Duration::from_millis(pause * 13));
        let begun = Instant::now();
        let mut client = held.client();
        client.send("/").unwrap();
        client.answer().expect("an answer");
        waited.push(begun.elapsed());
    }
    // A pause is over after a second. Only a busy machine can add to that, and not each time.
    waited.sort_unstable();
    assert!(waited[10] < Duration::from_secs(5), "{waited:?}");
    service.never("service-idle");
    service.interrupt_group();
}

#[test]
fn a_reload_can_set_the_time() {
    let held = Held::new();
    let service = held.setup("reload.trial = '0s'").serve();
    service.configure("idle_exit = '100ms'\nreload.trial = '0s'");
    let output = service.reload();
    assert!(output.status.success(), "{output:?}");
    left_idle(&service);
}

#[test]
fn a_stop_is_a_stop_although_it_would_leave_by_itself() {
    let held = Held::new();
    let service = held.setup("idle_exit = '1m'").serve();
    service.signal(Signal::SIGTERM);
    assert_eq!(service.exit(), 0);
    service.never("service-idle");
}

#[test]
fn sockets_of_its_own_are_not_left() {
    let service = Setup::new("idle_exit = '5m'").start();
    assert_eq!(service.exit(), 78);
    let said = service.text();
    assert!(said.contains("needs sockets that systemd keeps"), "{said}");
}

#[test]
fn five_hundred_exits_lose_no_connection() {
    let held = Held::new();
    let (over, served) = (AtomicBool::new(false), AtomicU32::new(0));
    let begun = Instant::now();
    let starts = thread::scope(|scope| {
        let clients = [1, 2].map(|seed| {
            let (held, over, served) = (&held, &over, &served);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                while !over.load(Relaxed) {
                    sleep(Duration::from_millis(random.u64(0..60)));
                    let mut client = held.client();
                    // Accepted, maybe, and silent.
                    sleep(Duration::from_millis(random.u64(0..10)));
                    for _ in 0..random.u32(1..3) {
                        let response = client.get("/").expect("an answer");
                        assert_eq!(response.status, 200);
                    }
                    served.fetch_add(1, Relaxed);
                }
            })
        });
        let mut starts = 0;
        while starts < CYCLES {
            assert!(held.waits(DEADLINE), "the clients come again and again");
            let service = held.setup("idle_exit = '5ms'\nworkers = 2").start();
            starts += 1;
            over.store(starts == CYCLES, Relaxed);
            left_idle(&service);
        }
        // Who comes after the last of them.
        while !clients.iter().all(thread::ScopedJoinHandle::is_finished) {
            if held.waits(Duration::from_millis(20)) {
                left_idle(&held.setup("idle_exit = '50ms'\nworkers = 1").start());
            }
        }
        starts
    });
    println!(
        "{starts} starts, {} connections, {:.1?}",
        served.into_inner(),
        begun.elapsed()
    );
}
