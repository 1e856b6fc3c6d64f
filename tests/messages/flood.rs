//! A flood of messages stops nothing else.

use std::thread;
use std::time::{Duration, Instant};

use crate::books::{Workers, ask, with};
use crate::support::status::workers_of;

#[test]
fn neither_the_arbiter_nor_the_heartbeat_waits_for_a_flood() {
    let limits = "workers = 3\n[timeouts]\nheartbeat_serving = '10s'";
    let service = with(limits, "").serve();
    let mut workers = Workers::of(&service);
    let pids = workers.pids();
    let floods: Vec<_> = pids
        .iter()
        .map(|pid| {
            let mut client = workers.take(*pid);
            thread::spawn(move || ask(&mut client, "/mail/publish?count=10000&burst=20"))
        })
        .collect();
    let (mut slowest, mut oldest, mut looks) = (Duration::ZERO, 0.0, 0);
    while !floods.iter().all(thread::JoinHandle::is_finished) {
        let start = Instant::now();
        let status = service.status();
        slowest = slowest.max(start.elapsed());
        looks += 1;
        let ages = workers_of(&status)
            .iter()
            .filter_map(|w| w["heartbeat"].as_f64());
        oldest = ages.fold(oldest, f64::max);
        thread::sleep(Duration::from_millis(5));
    }
    floods
        .into_iter()
        .for_each(|flood| drop(flood.join().unwrap()));
    println!(
        "a flood of 30,000 messages; {looks} looks at the status, the slowest took {slowest:?}; the oldest heartbeat was {oldest:.3} s old"
    );
    assert!(looks > 1 && slowest < Duration::from_secs(5), "{slowest:?}");
    service.never("worker-stuck");
    let mut workers = Workers::of(&service);
    for pid in pids {
        workers.wait_for(pid, 30_000);
    }
    assert_eq!(service.stop(), 0);
}
