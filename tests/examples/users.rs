//! Users of a service, who go on while things happen to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use crate::support::http::{Client, Response};
use crate::support::{DEADLINE, eventually};

/// So many of them, each with a connection that it keeps.
pub(crate) struct Users<T> {
    threads: Vec<JoinHandle<Vec<T>>>,
    done: Arc<AtomicBool>,
    /// How often each has acted.
    acts: Arc<Vec<AtomicU64>>,
}

impl<T: Send + 'static> Users<T> {
    /// Each acts again and again, and fails by panicking; what it makes of its acts is kept. An act gets the user's
    /// connection, his number and how often he has acted.
    pub(crate) fn start(
        address: SocketAddr,
        count: usize,
        act: impl Fn(&mut Client, usize, usize) -> T + Clone + Send + 'static,
    ) -> Self {
        let done = Arc::<AtomicBool>::default();
        let acts: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
        let acts = Arc::new(acts);
        let threads = (0..count).map(|user| {
            let (done, acts, act) = (Arc::clone(&done), Arc::clone(&acts), act.clone());
            let mut client = Client::connect(address).expect("no connection is refused");
            thread::spawn(move || {
                let mut made = Vec::new();
                while !done.load(Relaxed) {
                    made.push(act(&mut client, user, made.len()));
                    acts[user].fetch_add(1, Relaxed);
                }
                made
            })
        });
        Self {
            threads: threads.collect(),
            done,
            acts,
        }
    }

    /// Waits until they have acted so many times more.
    #[track_caller]
    pub(crate) fn advance(&self, count: u64) {
        let goal = self.acts().iter().sum::<u64>() + count;
        self.wait_until(|acts| acts.iter().sum::<u64>() >= goal);
    }

    /// Waits until each of them has begun and ended an act that was not under way.
    #[track_caller]
    pub(crate) fn advance_each(&self) {
        let before = self.acts();
        let goals = before.iter().map(|acts| acts + 2).collect::<Vec<_>>();
        self.wait_until(|acts| acts.iter().zip(&goals).all(|(acts, goal)| acts >= goal));
    }

    #[track_caller]
    fn wait_until(&self, fits: impl Fn(&[u64]) -> bool) {
        eventually("the users go on", DEADLINE, || {
            assert!(
                !self.threads.iter().any(JoinHandle::is_finished),
                "a user could not go on"
            );
            fits(&self.acts()).then_some(())
        });
    }

    fn acts(&self) -> Vec<u64> {
        self.acts.iter().map(|acts| acts.load(Relaxed)).collect()
    }

    /// Sends them home; what each has made.
    #[track_caller]
    pub(crate) fn finish(self) -> Vec<Vec<T>> {
        self.done.store(true, Relaxed);
        let made = self.threads.into_iter().map(JoinHandle::join);
        made.map(|made| made.expect("a user for whom all went well"))
            .collect()
    }
}

/// A request with a body.
pub(crate) fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Sends it, waits for the answer, and sees that it is this one.
#[track_caller]
pub(crate) fn ask(client: &mut Client, request: &str, status: u16) -> Response {
    client.send_bytes(request).expect("an open connection");
    let response = client.answer().expect("an answer");
    assert_eq!(
        response.status, status,
        "{}{}",
        response.head, response.body
    );
    response
}

/// The answer, if it is this one. Else the user has lost his request, and goes on with another connection.
#[track_caller]
pub(crate) fn ask_or_lose(
    client: &mut Client,
    address: SocketAddr,
    request: &str,
    status: u16,
) -> Option<Response> {
    let answer = client.send_bytes(request).and_then(|()| client.answer());
    let answer = answer.ok().filter(|answer| answer.status == status);
    if answer.is_none() {
        *client = Client::connect(address).expect("no connection is refused");
    }
    answer
}
