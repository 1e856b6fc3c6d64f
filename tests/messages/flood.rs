//! A flood of messages stops nothing else.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::books::{Workers, ask, with};
use crate::support::service::Service;
use crate::support::status::workers_of;

/// Of `heartbeat_serving`, in seconds.
const LIMIT: f64 = 30.0;
/// So many looks, before the flood and while it goes on.
const LOOKS: usize = 50;
/// Of one round of a worker's.
const MESSAGES: u64 = 10_000;

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
    took: Vec<Duration>,
    /// Seconds since the oldest heartbeat.
    oldest: f64,
}

impl Looks {
    fn of(service: &Service) -> Self {
        let mut looks = Self::default();
        while looks.took.len() < LOOKS {
            looks.look(service);
        }
        looks.took.sort_unstable();
        looks
    }

    fn look(&mut self, service: &Service) {
        let start = Instant::now();
        let status = service.status();
        self.took.push(start.elapsed());
        let ages = workers_of(&status)
            .iter()
            .filter_map(|w| w["heartbeat"].as_f64());
        self.oldest = ages.fold(self.oldest, f64::max);
        thread::sleep(Duration::from_millis(5));
    }

    /// One that a busy machine has kept waiting says nothing.
    fn median(&self) -> Duration {
        self.took[LOOKS / 2]
    }
}

/// The floods end.
struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn flood(threads: u32) {
    let limits =
        format!("workers = 3\nthreads = {threads}\n[timeouts]\nheartbeat_serving = '{LIMIT}s'");
    let service = with(&limits, "").serve();
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    let calm = Looks::of(&service);
    let enough = AtomicBool::new(false);
    let (looks, rounds) = thread::scope(|scope| {
        let floods: Vec<_> = pids
            .iter()
            .map(|pid| {
                let (mut client, enough) = (workers.take(*pid), &enough);
                scope.spawn(move || {
                    let mut rounds = 0;
                    while !enough.load(Relaxed) {
                        ask(
                            &mut client,
                            &format!("/mail/publish?count={MESSAGES}&burst=20"),
                        );
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        // Also when it panics: the floods would be waited for without an end.
        let end = Enough(&enough);
        let looks = Looks::of(&service);
        drop(end);
        let rounds = floods.into_iter().map(|flood| flood.join().unwrap());
        (looks, rounds.sum::<u64>())
    });
    println!(
        "a flood of {} messages, {threads} threads; a look at the status took {:?}, and {:?} without the flood; the \
         oldest heartbeat was {:.3} s old, {:.3} s without",
        rounds * MESSAGES,
        looks.median(),
        calm.median(),
        looks.oldest,
        calm.oldest
    );
    // As far from a heartbeat that is missed as from one that is due, and a little more for a machine that does
    // something else as well.
    assert!(looks.oldest < LIMIT / 2.0, "{}", looks.oldest);
    let most = calm.median() * 20 + Duration::from_secs(1);
    assert!(looks.median() < most, "{:?}", looks.took);
    service.never("worker-stuck");
    let mut workers = Workers::of(&service);
    for pid in pids {
        workers.wait_for(pid, rounds * MESSAGES);
    }
    assert_eq!(service.stop(), 0);
}
