//! WebSockets whose worker drains: they stay with it, and its app is told.

use nix::sys::signal::Signal;

use crate::support::service::Setup;
use crate::support::status::workers_of;
use crate::support::websocket::{connect, rest, text, worker_of};

#[test]
fn a_reload_leaves_them_with_their_worker_and_new_ones_go_to_the_new() {
    let service = Setup::new("workers = 1").serve();
    let old = service.workers()[0];
    let mut stays = connect(service.address(), "/socket");
    let mut leaves = connect(service.address(), "/socket?drain=true");
    assert_eq!((worker_of(&mut stays), worker_of(&mut leaves)), (old, old));

    let output = service.reload();
    assert!(output.status.success(), "{output:?}");
    let (code, messages) = rest(&mut leaves);
    assert_eq!((code, messages.len()), (1001, 0));
    let mut new = connect(service.address(), "/socket");
    assert_ne!(worker_of(&mut new), old);
    assert_eq!(worker_of(&mut stays), old);
    stays.send("still there".into()).unwrap();
    assert_eq!(text(&mut stays), "still there");
    // A client sees the end of its connection before that is counted.
    service.status_where("the old one has that one", |status| {
        let mut workers = workers_of(status).iter();
        workers.any(|worker| worker["pid"] == old && worker["connections"] == 1)
    });
    service.never("worker-exited");

    // It is the last one.
    stays.close(None).unwrap();
    rest(&mut stays);
    let exited = service.event("worker-exited");
    assert_eq!(exited["payload_generation"], 1);
    assert_ne!(worker_of(&mut new), old);
}

#[test]
fn a_stop_is_the_apps_to_announce() {
    let service = Setup::new("workers = 2").serve();
    let mut sockets: Vec<_> = (0..20)
        .map(|_| connect(service.address(), "/socket?drain=true"))
        .collect();
    for socket in &mut sockets {
        worker_of(socket);
    }
    service.signal(Signal::SIGTERM);
    for socket in &mut sockets {
        assert_eq!(rest(socket).0, 1001);
    }
    assert_eq!(service.exit(), 0);
}
