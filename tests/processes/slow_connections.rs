//! Connections that come more slowly than anything in a worker happens by itself.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use crate::support::http::Client;
use crate::support::service::Setup;

/// Between two connections. Twice in a second a worker looks for connections that it was not told of.
const PAUSE: Duration = Duration::from_millis(600);

#[test]
fn they_are_dealt_out_in_turn() {
    const WORKERS: usize = 3;
    const CONNECTIONS: usize = 18;
    let service = Setup::new(&format!("workers = {WORKERS}")).serve();
    let (held, takers): (Vec<Client>, Vec<u32>) = (0..CONNECTIONS)
        .map(|_| {
            sleep(PAUSE);
            let mut client = service.client();
            let taker = client.get("/").unwrap().number();
            (client, taker)
        })
        .unzip();
    // A worker that was kept from waiting by something else on the machine was passed over, and its turn is another one
    // from then on. By chance every worker would be among three in a row not even each fourth time.
    let rows = takers.windows(WORKERS);
    let all = rows.clone().filter(|row| {
        let different: BTreeSet<&u32> = row.iter().collect();
        different.len() == WORKERS
    });
    assert!(all.count() > rows.len() / 2, "{takers:?}");
    drop(held);
    assert_eq!(service.stop(), 0);
}
