//! Clients that each open one connection, use it in every way, and fail if it ends or anything on it is lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use fastrand::Rng;

use crate::support::http::{Client, Response, request};

/// The seed of a test: what `PAYLOAD_TEST_SEED` says, else another one each time. Printed, so that a failure can be
/// repeated.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("PAYLOAD_TEST_SEED").map_or_else(
        |_| fastrand::u64(..),
        |text| text.parse().expect("PAYLOAD_TEST_SEED is a number"),
    );
    eprintln!("PAYLOAD_TEST_SEED={seed}");
    seed
}

pub(crate) struct Load {
    clients: Vec<JoinHandle<BTreeMap>>,
    done: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
}

/// How often each worker answered, by pid.
type BTreeMap = std::collections::BTreeMap<u32, u64>;

impl Load {
    pub(crate) fn start(address: SocketAddr, clients: usize, seed: u64) -> Self {
        let (done, requests) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let clients = (0..clients as u64)
            .map(|number| {
                let mut user = User {
                    client: Client::connect(address).expect("no connection is refused"),
                    random: Rng::with_seed(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
                    workers: BTreeMap::new(),
                    requests: Arc::clone(&requests),
                };
                let done = Arc::clone(&done);
                thread::spawn(move || {
                    while !done.load(Relaxed) {
                        user.act();
                    }
                    user.workers
                })
            })
            .collect();
        Self {
            clients,
            done,
            requests,
        }
    }

    /// Waits until so many more requests were answered.
    #[track_caller]
    pub(crate) fn advance(&self, count: u64) {
        let goal = self.requests.load(Relaxed) + count;
        crate::support::eventually("the load goes on", crate::support::DEADLINE, || {
            let failed = self.clients.iter().any(JoinHandle::is_finished);
            assert!(!failed, "a client has lost something");
            (self.requests.load(Relaxed) >= goal).then_some(())
        });
    }

    /// Ends the load; fails if anything was lost. Gives back how many workers served each of the connections.
    #[track_caller]
    pub(crate) fn finish(self) -> Vec<usize> {
        self.done.store(true, Relaxed);
        let joined = self.clients.into_iter().map(JoinHandle::join);
        joined
            .map(|workers| workers.expect("a client that has lost nothing").len())
            .collect()
    }
}

/// A client with its one connection.
struct User {
    client: Client,
    random: Rng,
    workers: BTreeMap,
    requests: Arc<AtomicU64>,
}

impl User {
    fn act(&mut self) {
        match self.random.u8(..10) {
            0..3 => {
                self.write(&request("/"));
                self.expect_pid();
            }
            3 => {
                let ms = self.random.u64(..30);
                self.write(&request(&format!("/sleep?ms={ms}")));
                self.expect_pid();
            }
            // The handler does not read the body.
            4 => {
                self.write(&post("/", &request("/planted")));
                self.expect_pid();
            }
            5 => {
                let body = "x".repeat(self.random.usize(1..200_000));
                self.write(&post("/echo", &body));
                assert_eq!(self.expect().body, body);
            }
            6 => {
                self.write(&request("/slow-body?ms=3&chunks=4"));
                assert_eq!(self.expect().body, "chunk\n".repeat(4));
            }
            7 => self.pipeline(4),
            8 => self.pipeline(16),
            _ => {
                for byte in request("/").bytes() {
                    self.write_bytes(&[byte]);
                    self.pause(1);
                }
                self.expect_pid();
            }
        }
        self.pause(20);
    }

    /// Requests in one piece, or in two.
    fn pipeline(&mut self, count: usize) {
        let bytes = format!("{}{}", request("/"), post("/echo", "abc")).repeat(count / 2);
        let cut = self.random.usize(..=bytes.len());
        self.write_bytes(&bytes.as_bytes()[..cut]);
        self.pause(5);
        self.write_bytes(&bytes.as_bytes()[cut..]);
        for _ in 0..count / 2 {
            self.expect_pid();
            assert_eq!(self.expect().body, "abc");
        }
    }

    fn write(&mut self, text: &str) {
        self.write_bytes(text.as_bytes());
    }

    fn write_bytes(&mut self, bytes: &[u8]) {
        self.client
            .send_bytes(bytes)
            .expect("the connection is open");
    }

    fn expect_pid(&mut self) {
        let pid = self.expect().number();
        *self.workers.entry(pid).or_default() += 1;
    }

    fn expect(&mut self) -> Response {
        let response = self.client.answer().expect("a response");
        assert_eq!(response.status, 200, "{}", response.head);
        assert!(!response.announces_close(), "{}", response.head);
        self.requests.fetch_add(1, Relaxed);
        response
    }

    fn pause(&mut self, most: u64) {
        sleep(Duration::from_millis(self.random.u64(..=most)));
    }
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}")
}
