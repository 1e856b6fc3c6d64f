//! Healthy workers that have reached a limit are replaced, and nobody notices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use crate::support::http::{Client, get};
use crate::support::service::{Service, Setup, number};
use crate::support::status::workers_of;

#[test]
fn by_requests_under_load() {
    let service = Setup::new("workers = 2")
        .args(&["--max-requests=150", "--max-requests-jitter=50"])
        .serve();
    let load = Load::start(service.address(), 4);
    service.count("six replacements", 6, |record| record.is("worker-replaced"));
    let (served, moved) = load.finish();
    assert!(served >= 6 * 150, "{served}");
    assert!(moved > 0, "connections outlive their workers");
    for recycle in service.events("recycle") {
        assert_eq!(recycle["cause"], "max_requests", "{recycle}");
    }
    assert_replaced_well(&service);
}

#[test]
fn by_age_under_load() {
    let service = Setup::new("workers = 2").args(&["--max-age=1s"]).serve();
    let load = Load::start(service.address(), 2);
    service.count("three replacements", 3, |record| {
        record.is("worker-replaced")
    });
    // A worker that is replaced has its connections for a while.
    service.status_where("those that answered first are gone", |status| {
        let mut pids = workers_of(status)
            .iter()
            .map(|worker| number(&worker["pid"]));
        pids.all(|pid| !load.first.contains(&pid))
    });
    let (_, moved) = load.finish();
    assert!(moved > 0, "connections outlive their workers");
    for recycle in service.events("recycle") {
        assert_eq!(recycle["cause"], "max_age", "{recycle}");
    }
    assert_replaced_well(&service);
}

#[test]
fn by_memory_under_load() {
    let service = Setup::new("workers = 2")
        .args(&["--max-memory=64MiB"])
        .serve();
    let load = Load::start(service.address(), 2);
    let grown = get(service.address(), "/grow?mib=80").number();
    let recycle = service.event("recycle");
    assert_eq!(recycle["cause"], "max_memory", "{recycle}");
    service.event("worker-replaced");
    service.event("worker-exited");
    load.finish();
    assert!(!service.each("pid").contains(&grown.into()));
    assert_eq!(service.events("recycle").len(), 1, "the other one is small");
    assert_replaced_well(&service);
}

/// Each replacement was prepared before the one that it replaces began to drain, took over its slot, and counts
/// as no restart.
#[track_caller]
fn assert_replaced_well(service: &Service) {
    let status = service.status();
    let workers = workers_of(&status);
    let slots: BTreeSet<_> = workers
        .iter()
        .filter(|worker| worker["phase"] == "serving")
        .map(|worker| worker["slot"].as_u64().unwrap())
        .collect();
    assert_eq!(slots, BTreeSet::from([0, 1]), "{status}");
    for worker in workers {
        assert_eq!(worker["restarts"], 0, "{worker}");
    }
    service.never("worker-failed");

    // What one process writes is in its order. Between two: the replacement writes that it is prepared before
    // it can be told to serve, and the arbiter writes that it serves before it lets the old one drain.
    let records = service.records();
    let mut reached: BTreeMap<(u64, String), usize> = BTreeMap::new();
    for (index, record) in records.iter().enumerate() {
        if let (Some(worker), Some(phase)) =
            (record["payload_worker"].as_u64(), record["phase"].as_str())
            && record["payload_event"] == "worker-phase"
        {
            reached.entry((worker, phase.to_owned())).or_insert(index);
        }
    }
    let mut drained = 0;
    for (taken_over, replaced) in records.iter().enumerate() {
        if replaced["payload_event"] != "worker-replaced" {
            continue;
        }
        let new = replaced["payload_worker"].as_u64().unwrap();
        let old = replaced["replaced_worker"].as_u64().unwrap();
        let slot = |worker: u64| {
            let forked = records.iter().find(|record| {
                record["payload_event"] == "worker-forked" && record["payload_worker"] == worker
            });
            forked.expect("it was forked")["payload_slot"].clone()
        };
        assert_eq!(slot(new), slot(old));
        let Some(draining) = reached.get(&(old, "draining".to_owned())) else {
            continue;
        };
        drained += 1;
        let prepared = reached[&(new, "prepared".to_owned())];
        assert!(
            prepared < taken_over && taken_over < *draining,
            "{replaced}"
        );
    }
    assert!(drained > 0);
}

/// Clients with one connection each, which outlives the workers.
struct Load {
    clients: Vec<thread::JoinHandle<()>>,
    /// The workers that have answered first.
    first: BTreeSet<u32>,
    shared: &'static Shared,
}

#[derive(Default)]
struct Shared {
    done: AtomicBool,
    served: AtomicU64,
    /// Connections on which more than one worker has answered.
    moved: AtomicU64,
}

impl Load {
    fn start(address: SocketAddr, clients: usize) -> Self {
        let shared: &'static Shared = Box::leak(Box::default());
        let mut first = BTreeSet::new();
        let clients = (0..clients)
            .map(|_| {
                let mut client = Client::connect(address).unwrap();
                let worker = client.get("/").expect("a response").number();
                first.insert(worker);
                thread::spawn(move || ask_on(client, worker, shared))
            })
            .collect();
        Self {
            clients,
            first,
            shared,
        }
    }

    /// Ends the load; fails if a single request was lost, or a connection closed. How many requests were answered,
    /// and how many connections have moved.
    #[track_caller]
    fn finish(self) -> (u64, u64) {
        self.shared.done.store(true, Relaxed);
        for client in self.clients {
            client.join().expect("a client that has lost nothing");
        }
        let Shared { served, moved, .. } = self.shared;
        (served.load(Relaxed), moved.load(Relaxed))
    }
}

fn ask_on(mut client: Client, first: u32, shared: &Shared) {
    let mut workers = BTreeSet::from([first]);
    let mut is_last = false;
    while !is_last {
        // One more after the end: whoever has the connection then answers it.
        is_last = shared.done.load(Relaxed);
        let response = client.get("/sleep?ms=5").expect("a response");
        assert_eq!(response.status, 200);
        assert!(!response.announces_close());
        workers.insert(response.number());
        shared.served.fetch_add(1, Relaxed);
    }
    shared
        .moved
        .fetch_add(u64::from(workers.len() > 1), Relaxed);
}
