//! Workers that begin with no connections get their share of those that are there.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::http::Client;
use crate::support::service::{Service, Setup};
use crate::support::status::workers_of;
use crate::support::{DEADLINE, eventually};

const LONG: usize = 512;
/// Workers differ by no more connections than this.
const FEW: u64 = 8;

#[test]
fn idle_connections_spread_over_new_workers() {
    let service = Setup::new("workers = 2").serve();
    let mut clients: Vec<Client> = (0..LONG).map(|_| service.client()).collect();
    // Some have been used, some have not.
    for client in clients.iter_mut().step_by(2) {
        client.get("/").unwrap();
    }
    // A worker that had no processor meanwhile gets its share now.
    wait_until_even(&service, 2);
    let before = service.sum("given");
    for workers in 3..=4 {
        service.signal(Signal::SIGTTIN);
        service.wait_until_serving(workers);
        wait_until_even(&service, workers);
    }
    let given = service.sum("given") - before;
    assert!(
        (200..LONG as u64).contains(&given),
        "{given} moves for two new workers"
    );
    let workers = service.workers();
    for client in &mut clients {
        let answer = client.get("/").unwrap();
        assert!(workers.contains(&answer.number()));
        assert!(!answer.announces_close());
    }
    // One can be on its way still.
    service.status_where("nothing went elsewhere", |status| {
        let sum = |key: &str| {
            let counts = workers_of(status).iter();
            counts
                .filter_map(|worker| worker[key].as_u64())
                .sum::<u64>()
        };
        sum("received") == sum("given")
    });

    service.signal(Signal::SIGTTOU);
    service.count("two less", 1, |record| record.is("worker-exited"));
    service.signal(Signal::SIGTTOU);
    service.count("two less", 2, |record| record.is("worker-exited"));
    wait_until_even(&service, 2);
    for client in &mut clients {
        assert!(!client.get("/").unwrap().announces_close());
    }

    let status = service.status();
    assert_eq!(service.stop(), 0);
    for worker in workers_of(&status) {
        let said = service.event_where("connections-handed-on", |event| {
            event.worker() == worker["worker"].as_u64()
        });
        let given = worker["given"].as_u64().unwrap();
        assert!(given > 0, "{worker}");
        // Some may have gone elsewhere since then.
        assert!(u64::from(said.number("given")) >= given, "{said}");
    }
}

#[track_caller]
fn wait_until_even(service: &Service, workers: usize) {
    let mut last = Vec::new();
    let spread = |counts: &[u64]| counts.iter().max().unwrap() - counts.iter().min().unwrap();
    eventually("an even spread", DEADLINE, || {
        last = service.each("connections");
        let whole = last.iter().sum::<u64>() == LONG as u64 && last.len() == workers;
        (whole && spread(&last) <= FEW).then_some(())
    });
}

#[test]
fn what_cannot_move_is_left_alone_after_some_attempts() {
    use crate::support::http2;
    let service = Setup::new("workers = 1").serve();
    let address = service.address();
    http2::run(async {
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = http2::Client::connect(address).await;
            assert_eq!(client.get("/").await.status, 200);
            clients.push(client);
        }
        service.signal(Signal::SIGTTIN);
        service.wait_until_serving(2);
        tokio::time::sleep(Duration::from_secs(3)).await;
        for client in &mut clients {
            assert_eq!(client.get("/").await.status, 200, "it is still open");
        }
        assert_eq!(service.sum("given"), 0);
        assert_eq!(service.each("connections"), [20, 0]);
    });
}
