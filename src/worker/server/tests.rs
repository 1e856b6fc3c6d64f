use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

use super::Server;
use crate::config::Http;
use crate::ipc::orders::Order;
use crate::ipc::scoreboard::{Meter, create};
use crate::sockets::{Listener, ListenerAddress, Origin};
use crate::worker::testing::{Script, get, limits, response, rest, service};

struct Running {
    server: Server,
    script: Arc<Script>,
    address: std::net::SocketAddr,
    meter: Meter,
}

fn start(limits: Http, max_requests: Option<u64>) -> Running {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = Listener {
        fd: socket.into(),
        name: "web".into(),
        address: ListenerAddress::Tcp(address),
        origin: Origin::Bound,
        wanted: None,
    };
    let script = Arc::new(Script::default());
    let meter = Meter::new(create().unwrap(), 0);
    let listeners = Arc::from([listener]);
    let server = Server::new(
        listeners,
        service(script.clone()),
        limits,
        meter.clone(),
        max_requests,
    );
    Running {
        server,
        script,
        address,
        meter,
    }
}

/// Nobody takes over.
async fn drain(running: &Running) {
    running.server.link(Order::Close, None);
    running.server.drain().await;
}

async fn connect(running: &Running) -> TcpStream {
    TcpStream::connect(running.address).await.unwrap()
}

#[tokio::test]
async fn nothing_is_accepted_before_serve_and_nothing_is_lost() {
    let running = start(limits(), None);
    let mut early = connect(&running).await;
    early.write_all(get("/listener").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(running.meter.seat().accepted.load(Relaxed), 0);
    running.server.serve().unwrap();
    assert_eq!(response(&mut early).await.1, "web");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_threads_serve_many_connections() {
    let running = start(limits(), None);
    running.server.serve().unwrap();
    let mut clients = Vec::new();
    for n in 0..60 {
        let mut client = connect(&running).await;
        clients.push(tokio::spawn(async move {
            for round in 0..20 {
                let path = format!("/{n}/{round}");
                client.write_all(get(&path).as_bytes()).await.unwrap();
                assert_eq!(response(&mut client).await.1, path);
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    drain(&running).await;
    assert_eq!(running.meter.seat().requests.load(Relaxed), 1200);
    assert_eq!(running.meter.seat().connections.load(Relaxed), 0);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_in_the_backlog() {
    let limits = Http {
        max_connections: 2,
        ..limits()
    };
    let running = start(limits, None);
    running.server.serve().unwrap();
    let mut first = connect(&running).await;
    let mut second = connect(&running).await;
    for client in [&mut first, &mut second] {
        client.write_all(get("/in").as_bytes()).await.unwrap();
        response(client).await;
    }
    let mut third = connect(&running).await;
    third.write_all(get("/waits").as_bytes()).await.unwrap();
    let early = timeout(Duration::from_millis(100), response(&mut third)).await;
    assert!(early.is_err(), "served beyond the limit");
    assert_eq!(running.meter.seat().connections.load(Relaxed), 2);
    drop(first);
    let late = timeout(Duration::from_secs(5), response(&mut third)).await;
    assert_eq!(late.expect("served when there is room").1, "/waits");
}

#[tokio::test]
async fn drain_leaves_the_backlog_to_the_others() {
    let running = start(limits(), None);
    running.server.serve().unwrap();
    let mut client = connect(&running).await;
    client.write_all(get("/wait").as_bytes()).await.unwrap();
    running.script.begun.notified().await;
    assert!(
        timeout(Duration::from_millis(50), drain(&running))
            .await
            .is_err()
    );
    // Dropping the drain left the server draining.
    let _other = connect(&running).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(running.meter.seat().accepted.load(Relaxed), 1);
    running.script.go.notify_one();
    assert_eq!(response(&mut client).await.1, "waited");
    timeout(Duration::from_secs(5), drain(&running))
        .await
        .expect("drained");
    assert_eq!(rest(&mut client).await, "");
}

/// The clock goes on by itself when nobody does anything.
#[tokio::test(start_paused = true)]
async fn drain_with_nothing_to_do_is_immediate() {
    let running = start(limits(), None);
    running.server.serve().unwrap();
    let begun = Instant::now();
    drain(&running).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn cancel_ends_a_stuck_drain() {
    let running = start(limits(), None);
    running.server.serve().unwrap();
    let mut client = connect(&running).await;
    client.write_all(get("/wait").as_bytes()).await.unwrap();
    running.script.begun.notified().await;
    assert!(
        timeout(Duration::from_millis(50), drain(&running))
            .await
            .is_err()
    );
    let rest = running.server.cancel(Duration::from_secs(5)).await;
    assert!(rest.is_none(), "cancelled");
    assert_eq!(running.script.cancelled.load(Relaxed), 1);
}

#[tokio::test]
async fn the_request_limit_is_reached_once_so_many_were_taken() {
    let running = start(limits(), Some(3));
    running.server.serve().unwrap();
    let mut client = connect(&running).await;
    for n in 0..3 {
        assert!(
            timeout(Duration::from_millis(1), running.server.request_limit())
                .await
                .is_err(),
            "after {n}"
        );
        client.write_all(get("/x").as_bytes()).await.unwrap();
        response(&mut client).await;
    }
    running.server.request_limit().await;
}

#[tokio::test]
async fn a_socket_that_does_not_listen_is_fatal() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut running = start(limits(), None);
    // A connected stream polls like a listener, and accept(2) says EINVAL.
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    running.server.listeners = Arc::from([Listener {
        fd: near.into(),
        name: "broken".into(),
        address: ListenerAddress::UnixPath(path),
        origin: Origin::Passed,
        wanted: None,
    }]);
    running.server.serve().unwrap();
    drop(far);
    let failure = timeout(Duration::from_secs(5), running.server.fatal())
        .await
        .expect("fatal");
    assert!(failure.to_string().contains("'broken'"), "{failure}");
    drop(listener);
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut running = start(limits(), None);
    running.server.listeners = Arc::from([Listener {
        fd: socket.into(),
        name: "unix".into(),
        address: ListenerAddress::UnixPath(path.clone()),
        origin: Origin::Bound,
        wanted: None,
    }]);
    running.server.serve().unwrap();
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(get("/listener").as_bytes()).await.unwrap();
    assert_eq!(response(&mut client).await.1, "unix");
}

async fn pause(running: &Running, round: u64) {
    running.server.link(Order::Pause { round }, None);
    let paused = timeout(Duration::from_secs(10), running.server.paused()).await;
    assert_eq!(paused, Ok(round));
}

#[tokio::test]
async fn in_a_pause_connections_wait_and_after_it_they_are_served() {
    let running = start(limits(), None);
    running.server.serve().unwrap();
    let mut before = connect(&running).await;
    before.write_all(get("/before").as_bytes()).await.unwrap();
    assert_eq!(response(&mut before).await.1, "/before");
    for round in 1..4 {
        pause(&running, round).await;
        let mut client = connect(&running).await;
        client.write_all(get("/listener").as_bytes()).await.unwrap();
        // What is open goes on.
        before.write_all(get("/still").as_bytes()).await.unwrap();
        assert_eq!(response(&mut before).await.1, "/still");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(running.meter.seat().accepted.load(Relaxed), round);
        running.server.link(Order::Resume, None);
        assert_eq!(response(&mut client).await.1, "web");
    }
}

#[tokio::test]
async fn what_comes_in_a_pause_is_left_to_whoever_has_the_listener_next() {
    let running = start(limits(), None);
    running.server.serve().unwrap();
    pause(&running, 1).await;
    let listener = running.server.listeners[0].fd.try_clone().unwrap();
    let _client = connect(&running).await;
    drain(&running).await;
    assert_eq!(running.meter.seat().accepted.load(Relaxed), 0);
    let listener = std::net::TcpListener::from(listener);
    // The kernel may be late.
    listener.set_nonblocking(false).unwrap();
    listener.accept().unwrap();
}
