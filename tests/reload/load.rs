//! Clients that keep asking while a service is reloaded, and count what is lost.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::http::{Client, try_get};

/// What one client does again and again.
type Ask = Box<dyn FnMut() -> io::Result<u16> + Send>;

/// Two of each kind.
fn clients(address: SocketAddr) -> [Ask; 6] {
    let short =
        |path: &'static str| -> Ask { Box::new(move || Ok(try_get(address, path)?.status)) };
    // One connection for the whole life.
    let kept = || -> Ask {
        let mut client = None;
        Box::new(move || {
            let client = match &mut client {
                Some(client) => client,
                none => none.insert(Client::connect(address)?),
            };
            Ok(client.get("/")?.status)
        })
    };
    [
        short("/"),
        short("/"),
        short("/sleep?ms=300"),
        short("/sleep?ms=300"),
        kept(),
        kept(),
    ]
}

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Count>>,
}

/// Without an end it would ask whoever listens on that port later, maybe the service of another test.
impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
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
        let client = |mut ask: Ask| {
            let stop = stop.clone();
            thread::spawn(move || {
                let mut count = Count::default();
                // Once at least.
                loop {
                    let asked = start.elapsed();
                    match ask() {
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
            clients: clients(address).map(client).into(),
            stop,
        }
    }

    /// Every request was answered.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.stop.store(true, Relaxed);
        let counts: Vec<Count> = self
            .clients
            .drain(..)
            .map(|client| client.join().expect("a client"))
            .collect();
        let lost: Vec<&String> = counts.iter().flat_map(|count| &count.lost).collect();
        let answered: Vec<u32> = counts.iter().map(|count| count.answered).collect();
        assert!(lost.is_empty(), "of {answered:?}: {lost:#?}");
        assert!(answered.iter().all(|count| *count > 0), "{answered:?}");
    }
}
