//! Clients that keep asking while a service is reloaded, and count what is lost.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::http::try_get;

/// What one client does again and again.
type Ask = fn(SocketAddr) -> io::Result<u16>;

/// A new connection for each request. Clients that keep theirs, or take their time to ask, are one line more.
const CLIENTS: [Ask; 4] = [at_once, at_once, in_flight, in_flight];

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Count>>,
}

#[derive(Default)]
struct Count {
    answered: u32,
    lost: Vec<String>,
}

impl Load {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = Instant::now();
        let client = |ask: Ask| {
            let stop = stop.clone();
            thread::spawn(move || {
                let mut count = Count::default();
                // Once at least.
                loop {
                    let asked = start.elapsed();
                    match ask(address) {
                        Ok(200) => count.answered += 1,
                        other => count.lost.push(format!("{asked:?} {other:?}")),
                    }
                    if stop.load(Relaxed) {
                        return count;
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            })
        };
        Self {
            clients: CLIENTS.map(client).into(),
            stop,
        }
    }

    /// Every request was answered.
    #[track_caller]
    pub(crate) fn finish(self) {
        self.stop.store(true, Relaxed);
        let counts: Vec<Count> = self
            .clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .collect();
        let lost: Vec<&String> = counts.iter().flat_map(|count| &count.lost).collect();
        let answered: Vec<u32> = counts.iter().map(|count| count.answered).collect();
        assert!(lost.is_empty(), "of {answered:?}: {lost:#?}");
        assert!(answered.iter().all(|count| *count > 0), "{answered:?}");
    }
}

fn at_once(address: SocketAddr) -> io::Result<u16> {
    Ok(try_get(address, "/")?.status)
}

fn in_flight(address: SocketAddr) -> io::Result<u16> {
    Ok(try_get(address, "/sleep?ms=300")?.status)
}
