//! What the workers have heard, and how to reach a certain one of them.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::support::eventually;
use crate::support::http::Client;
use crate::support::service::{LIMIT, Service, Setup};

/// What one worker has heard.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Heard {
    pub(crate) worker: u64,
    pub(crate) missed: u64,
    pub(crate) lags: u64,
    pub(crate) arrived: u64,
    pub(crate) held: bool,
    pub(crate) from: BTreeMap<u64, Voice>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Voice {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) count: u64,
    pub(crate) gaps: u64,
    pub(crate) faults: u64,
}

/// What a run of messages took its publisher, in nanoseconds for each call.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Timed {
    pub(crate) p99: u64,
}

impl Heard {
    /// Messages of all workers.
    pub(crate) fn count(&self) -> u64 {
        self.from.values().map(|voice| voice.count).sum()
    }

    /// With those that it has missed.
    pub(crate) fn total(&self) -> u64 {
        self.count() + self.missed
    }

    /// Each worker's messages came in their order, and none twice; nothing is missing that was not told.
    #[track_caller]
    pub(crate) fn is_in_order(&self) {
        let gaps: u64 = self.from.values().map(|voice| voice.gaps).sum();
        assert!(
            self.from.values().all(|voice| voice.faults == 0),
            "{self:#?}"
        );
        assert!(gaps <= self.missed, "{self:#?}");
    }

    /// The same, and nothing is missing at all.
    #[track_caller]
    pub(crate) fn is_complete(&self) {
        self.is_in_order();
        assert_eq!(self.missed, 0, "{self:#?}");
    }
}

/// A service of which the workers keep books.
pub(crate) fn with(lines: &str, app: &str) -> Setup {
    Setup::new(&format!("{lines}\n[app]\nmail = true\n{app}"))
}

/// A connection to each worker.
pub(crate) struct Workers(BTreeMap<u32, Client>);

impl Workers {
    #[track_caller]
    pub(crate) fn of(service: &Service) -> Self {
        Self::among(service, &service.workers())
    }

    /// The same to each of these, and to those that happen to be found meanwhile.
    #[track_caller]
    pub(crate) fn among(service: &Service, wanted: &[u32]) -> Self {
        let mut clients = BTreeMap::new();
        eventually("a connection to every worker", LIMIT, || {
            let mut client = service.client();
            let pid = client.get("/").ok()?.number();
            clients.entry(pid).or_insert(client);
            wanted
                .iter()
                .all(|pid| clients.contains_key(pid))
                .then_some(())
        });
        Self(clients)
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.0.keys().copied().collect()
    }

    /// A worker's connection, for another thread.
    pub(crate) fn take(&mut self, pid: u32) -> Client {
        self.0.remove(&pid).expect("a connection to that worker")
    }

    #[track_caller]
    pub(crate) fn get(&mut self, pid: u32, path: &str) -> String {
        let client = self.0.get_mut(&pid).expect("a connection to that worker");
        ask(client, path)
    }

    #[track_caller]
    pub(crate) fn publish(&mut self, pid: u32, query: &str) -> Timed {
        serde_json::from_str(&self.get(pid, &format!("/mail/publish?{query}"))).unwrap()
    }

    /// The same in pieces that everybody has room for, each of them when those who hear them have the one before: nobody
    /// of them misses anything for having been kept from running. Gives back the calls of the piece in the middle.
    #[track_caller]
    pub(crate) fn publish_to(
        &mut self,
        hearers: &[u32],
        pid: u32,
        pieces: (u64, u64),
        how: &str,
    ) -> Timed {
        let (pieces, each) = pieces;
        let before: Vec<u64> = hearers.iter().map(|pid| self.heard(*pid).arrived).collect();
        let mut times = Vec::new();
        for piece in 1..=pieces {
            times.push(self.publish(pid, &format!("count={each}&{how}")));
            for (pid, before) in hearers.iter().zip(&before) {
                eventually("a piece of the messages", LIMIT, || {
                    let heard = self.heard(*pid);
                    let arrived = heard.arrived - before >= piece * each;
                    (arrived && (heard.held || heard.total() == heard.arrived)).then_some(())
                });
            }
        }
        times.sort_by_key(|timed| timed.p99);
        times.swap_remove(times.len() / 2)
    }

    #[track_caller]
    pub(crate) fn heard(&mut self, pid: u32) -> Heard {
        serde_json::from_str(&self.get(pid, "/mail/heard")).unwrap()
    }

    /// Waits until a worker has heard so many messages, or of so many that it has missed them.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, pid: u32, total: u64) -> Heard {
        let mut last = None;
        let found = crate::support::within(LIMIT, || {
            let heard = self.heard(pid);
            let is_there = heard.total() >= total;
            last = Some(heard.clone());
            is_there.then_some(heard)
        });
        let heard = found.unwrap_or_else(|| panic!("{total} were not heard: {last:#?}"));
        assert_eq!(heard.total(), total, "{heard:#?}");
        heard.is_in_order();
        heard
    }
}

#[track_caller]
pub(crate) fn ask(client: &mut Client, path: &str) -> String {
    let response = client.get(path).expect("an answer");
    assert_eq!(response.status, 200, "{path}: {}", response.body);
    response.body
}
