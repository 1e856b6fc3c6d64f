//! Very many connections that do nothing.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::support::http::Client;
use crate::support::service::{Setup, number};
use crate::support::skip;

const CONNECTIONS: u32 = 10_000;

#[test]
fn ten_thousand_idle_connections() {
    let Some(connections) = enough_descriptors() else {
        return;
    };
    let service = Setup::new("workers = 2\nhttp.keep_alive_timeout = '10m'").serve();
    let memory = || -> u64 {
        let status = service.status();
        let workers = status["workers"].as_array().unwrap().iter();
        workers.map(|w| w["memory"].as_u64().unwrap()).sum()
    };
    let before = memory();
    let mut clients: Vec<Client> = (0..connections)
        .map(|number| {
            let mut client = Client::over(connect(service.address(), number)).unwrap();
            assert_eq!(client.get("/").expect("an answer").status, 200);
            client
        })
        .collect();
    // A worker that was kept from accepting for a while gets its share from the other one.
    service.status_where("all are open, and each worker has its share", |status| {
        let workers = status["workers"].as_array().unwrap().iter();
        let shares: Vec<u32> = workers.map(|w| number(&w["connections"])).collect();
        let mean = connections / 2;
        let fair = |share: &u32| share.abs_diff(mean) <= mean / 10;
        shares.iter().sum::<u32>() == connections && shares.iter().all(fair)
    });
    let per_connection = (memory().saturating_sub(before)) / u64::from(connections);
    println!("{connections} connections: {per_connection} bytes each");
    assert!(per_connection < 32 * 1024, "{per_connection} bytes each");
    for client in &mut clients {
        assert_eq!(client.get("/").expect("it still answers").status, 200);
    }
    assert_eq!(service.stop(), 0);
}

/// One local address has too few ports for all where the range is small.
fn connect(to: SocketAddr, number: u32) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from = Ipv4Addr::new(127, 0, 1, 1 + u8::try_from(number % 8).unwrap());
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

/// For both ends of half of them and one end of the others; the service inherits the limit.
fn enough_descriptors() -> Option<u32> {
    let needed = u64::from(CONNECTIONS) + 2_000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let hard = if hard < needed && nix::unistd::geteuid().is_root() {
        needed
    } else {
        hard
    };
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(needed), hard).unwrap();
    if hard < needed {
        let fewer = u32::try_from(hard.saturating_sub(1_000)).unwrap().max(100);
        skip(&format!(
            "{CONNECTIONS} connections, {fewer} instead: RLIMIT_NOFILE is {hard}"
        ));
        return Some(fewer);
    }
    Some(CONNECTIONS)
}
