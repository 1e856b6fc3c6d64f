//! Connections that come more slowly than anything in a worker happens by itself.

use std::thread::sleep;
use std::time::Duration;

use crate::support::http::Client;
use crate::support::service::{Setup, number};

/// Between two connections. Twice in a second a worker looks for connections that it was not told of.
const PAUSE: Duration = Duration::from_millis(600);

#[test]
fn they_are_dealt_out_in_turn() {
    const WORKERS: u32 = 3;
    const EACH: u32 = 3;
    let service = Setup::new(&format!("workers = {WORKERS}")).serve();
    let held: Vec<Client> = (0..WORKERS * EACH)
        .map(|_| {
            sleep(PAUSE);
            let mut client = service.client();
            client.get("/").unwrap();
            client
        })
        .collect();
    let status = service.status();
    let workers = status["workers"].as_array().unwrap().iter();
    let accepted: Vec<u32> = workers.map(|worker| number(&worker["accepted"])).collect();
    assert_eq!(accepted.iter().sum::<u32>(), WORKERS * EACH);
    // A worker that was kept from waiting by something else on the machine was passed over.
    assert!(
        accepted.iter().all(|count| count.abs_diff(EACH) <= 1),
        "{accepted:?}"
    );
    drop(held);
    assert_eq!(service.stop(), 0);
}
