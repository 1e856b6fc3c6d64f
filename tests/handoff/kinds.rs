//! Unix sockets, HTTP/2, and what else is not plain HTTP/1.1 over TCP.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::http::request;
use crate::support::http2;
use crate::support::service::Setup;

#[test]
fn connections_of_a_unix_socket_move_as_well() {
    let setup = Setup::new("workers = 2");
    let path = setup.folder().join("http");
    let listen = format!("unix:{}", path.display());
    let service = setup.listen(Some(&listen)).serve();
    let leaving = format!("\r\n\r\n{}\n", service.workers()[1]);
    let (mut clients, mut of_leaving) = (Vec::new(), 0);
    while of_leaving < 3 {
        let mut client = UnixStream::connect(&path).unwrap();
        of_leaving += u64::from(ask(&mut client).ends_with(&leaving));
        clients.push(client);
    }
    service.signal(Signal::SIGTTOU);
    service.event("worker-exited");
    let stays = service.workers()[0];
    for client in &mut clients {
        assert!(ask(client).ends_with(&format!("\r\n\r\n{stays}\n")));
    }
    // Before, one may have been moved for balance.
    assert!(service.sum("received") >= of_leaving);
}

fn ask(client: &mut UnixStream) -> String {
    client.write_all(request("/").as_bytes()).unwrap();
    let mut answer = String::new();
    while !answer.ends_with('\n') || answer.ends_with("\r\n") {
        let mut buffer = [0; 1024];
        let count = client.read(&mut buffer).unwrap();
        assert!(count > 0, "the end after {answer:?}");
        answer.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    answer
}

#[test]
fn http2_gets_goaway_and_finishes_its_streams() {
    let service = Setup::new("workers = 2").serve();
    let address = service.address();
    let gate = format!("/gate?file={}", service.folder().join("gate").display());
    http2::run(async {
        let mut clients = Vec::new();
        // Both workers have some.
        while clients.len() < 8 || service.each("connections").contains(&0) {
            assert!(clients.len() < 200, "all of them came to one worker");
            clients.push(http2::Client::connect(address).await);
            if clients.len() > 8 {
                // One that does not run for a moment has its turn.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let mut streams = Vec::new();
        for client in &mut clients {
            streams.push(tokio::spawn(client.get(&gate)));
        }
        service.wait_for_sum("in_flight", streams.len() as u64);
        let leaving = service.workers()[1];
        service.signal(Signal::SIGTTOU);
        service.record("the drain", |record| record["phase"] == "draining");
        service.write("gate", "");
        let mut ended = 0;
        for (mut client, stream) in clients.into_iter().zip(streams) {
            let response = stream.await.expect("a response");
            assert_eq!(response.status, 200);
            if String::from_utf8_lossy(&response.body).trim() == leaving.to_string() {
                client.wait_for_goaway().await;
                client.expect_end().await;
                ended += 1;
            }
        }
        assert!(ended > 0, "the one that leaves had some");
    });
    service.event("worker-exited");
    assert_eq!(service.event("connections-handed-on").number("given"), 0);
    service.never("worker-failed");
}
