//! A flood of messages stops nothing else.

use std::thread;
use std::time::{Duration, Instant};

use crate::books::{Workers, ask, with};
use crate::support::service::Service;
use crate::support::status::workers_of;

/// Of `heartbeat_serving`, in seconds.
const LIMIT: f64 = 10.0;

#[test]
fn neither_the_arbiter_nor_the_heartbeat_waits_for_a_flood() {
    flood(1);
}

#[test]
fn nor_where_every_worker_has_several_threads() {
    flood(4);
}

/// What looks at the status have shown.
#[derive(Default)]
struct Looks {
    count: u32,
    slowest: Duration,
    /// Seconds since the oldest heartbeat.
    oldest: f64,
}

impl Looks {
    fn look(&mut self, service: &Service) {
        let start = Instant::now();
        let status = service.status();
        self.slowest = self.slowest.max(start.elapsed());
        let ages = workers_of(&status)
            .iter()
            .filter_map(|w| w["heartbeat"].as_f64());
        self.oldest = ages.fold(self.oldest, f64::max);
        self.count += 1;
        thread::sleep(Duration::from_millis(5));
    }
}

fn flood(threads: u32) {
    let limits =
        format!("workers = 3\nthreads = {threads}\n[timeouts]\nheartbeat_serving = '{LIMIT}s'");
    let service = with(&limits, "").serve();
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    let mut calm = Looks::default();
    while calm.count < 50 {
        calm.look(&service);
    }
    let floods: Vec<_> = pids
        .iter()
        .map(|pid| {
            let mut client = workers.take(*pid);
            thread::spawn(move || ask(&mut client, "/mail/publish?count=10000&burst=20"))
        })
        .collect();
    let mut looks = Looks::default();
    while !floods.iter().all(thread::JoinHandle::is_finished) {
        looks.look(&service);
    }
    floods
        .into_iter()
        .for_each(|flood| drop(flood.join().unwrap()));
    println!(
        "a flood of 30,000 messages, {threads} threads; {} looks at the status, the slowest took {:?}, {:?} without \
         the flood; the oldest heartbeat was {:.3} s old, {:.3} s without",
        looks.count, looks.slowest, calm.slowest, looks.oldest, calm.oldest
    );
    // As far from a heartbeat that is missed as from one that is due, and a little more for a machine that does
    // something else as well.
    assert!(looks.oldest < LIMIT / 2.0, "{}", looks.oldest);
    let most = calm.slowest * 20 + Duration::from_secs(1);
    assert!(looks.count > 1 && looks.slowest < most, "{most:?}");
    service.never("worker-stuck");
    let mut workers = Workers::of(&service);
    for pid in pids {
        workers.wait_for(pid, 30_000);
    }
    assert_eq!(service.stop(), 0);
}
