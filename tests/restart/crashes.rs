//! Starts that fail, and ends that nobody planned.

use nix::sys::signal::Signal;

use crate::manager::Manager;
use crate::support::http::{Client, request};
use crate::support::service::Setup;

fn probe() -> Setup {
    Setup::new("workers = 2")
}

#[test]
fn a_start_that_fails_leaves_everything_in_the_store() {
    let manager = Manager::new(100);
    let first = manager.serve(probe());
    let mut clients: Vec<Client> = (0..5).map(|_| manager.client()).collect();
    for client in &mut clients {
        client.get("/").unwrap();
        client.send_bytes(&request("/")[..5]).unwrap();
    }
    first.wait_for_sum("bytes_in", 5 * (5 + request("/").len() as u64));
    manager.end(&first);
    for _ in 0..3 {
        let fails = Setup::new("workers = 2\n[app]\nstartup = \"fail\"");
        assert_eq!(manager.start(fails).start().exit(), 70);
        assert_eq!(manager.stored(), (5, 1, 0));
    }
    let dies = Setup::new("workers = 2\n[app]\nstartup = \"hang\"");
    let service = manager.start(dies).start();
    service.event("worker-forked");
    service.signal(Signal::SIGKILL);
    assert_eq!(service.exit_of_first(), 128 + 9);
    assert_eq!(manager.stored(), (5, 1, 0));
    drop(service);

    let last = manager.serve(probe());
    for client in &mut clients {
        client.send_bytes(&request("/")[5..]).unwrap();
        assert!(last.workers().contains(&client.answer().unwrap().number()));
    }
    manager.emptied();
}

#[test]
fn a_restart_in_the_middle_of_a_start_leaves_everything_in_the_store() {
    let manager = Manager::new(100);
    let first = manager.serve(probe());
    let mut client = manager.client();
    client.get("/").unwrap();
    manager.end(&first);
    let hangs = Setup::new("workers = 2\n[app]\nstartup = \"hang\"");
    let second = manager.start(hangs).start();
    second.record("a start", |record| record["phase"] == "starting");
    manager.end(&second);
    assert_eq!(manager.stored(), (1, 1, 0));
    let third = manager.serve(probe());
    assert!(third.workers().contains(&client.get("/").unwrap().number()));
}

#[test]
fn an_arbiter_that_is_killed_while_it_keeps_leaves_nothing_that_two_could_serve() {
    let manager = Manager::new(100);
    let first = manager.serve(probe());
    let mut clients: Vec<Client> = (0..10).map(|_| manager.client()).collect();
    for client in &mut clients {
        client.get("/").unwrap();
    }
    manager.be_busy(true);
    first.signal(Signal::SIGUSR2);
    first.event("service-stopping");
    // Its messages are on their way, and nobody has an answer.
    first.signal(Signal::SIGKILL);
    assert_eq!(first.exit_of_first(), 128 + 9);
    manager.be_busy(false);
    first.gone();
    manager.catch_up();
    let second = manager.serve(probe());
    // Whatever came into the store has no record; so it is closed, and the client hears of it.
    for client in &mut clients {
        client.expect_end();
    }
    manager.emptied();
    let adopted = second.events("connections-adopted");
    assert!(adopted.iter().all(|record| record.number("adopted") == 0));
}

#[test]
fn a_killed_arbiter_refuses_no_connection_while_it_comes_back() {
    let manager = Manager::new(100);
    let first = manager.serve(probe());
    manager.client().get("/").unwrap();
    first.signal(Signal::SIGKILL);
    assert_eq!(first.exit_of_first(), 128 + 9);
    let mut clients: Vec<Client> = (0..20).map(|_| manager.client()).collect();
    for client in &mut clients {
        client.send("/").unwrap();
    }
    let _second = manager.serve(probe());
    for client in &mut clients {
        // Those that a worker of the first life has accepted in its last moment were answered by it, or ended.
        if let Some(answer) = client.answer_or_end().unwrap() {
            assert_eq!(answer.status, 200);
        }
    }
    assert_eq!(manager.client().get("/").unwrap().status, 200);
}

#[test]
fn connections_without_the_listener_that_they_came_from_are_a_wrong_configuration() {
    let manager = Manager::new(100);
    let first = manager.serve(probe());
    let mut client = manager.client();
    client.get("/").unwrap();
    manager.end(&first);
    let second = manager.start_without_listener(probe()).start();
    let failed = second.message("the service cannot start");
    assert!(
        failed.text("reason").contains("restart its .socket unit"),
        "{failed}"
    );
    assert_eq!(second.exit(), 78);
    assert_eq!(manager.stored(), (1, 1, 0));
}

#[test]
fn a_service_that_binds_its_own_address_keeps_its_connections_too() {
    let manager = Manager::new(100);
    let address = manager.address();
    // Nobody passes a listener, neither now nor then.
    let own = || {
        manager
            .start_without_listener(probe())
            .listen(Some("127.0.0.1:0"))
    };
    let first = own().serve();
    assert_ne!(first.address(), address);
    let mut client = first.client();
    client.get("/").unwrap();
    manager.end(&first);
    assert_eq!(manager.stored(), (1, 1, 0));
    let second = own().serve();
    assert!(
        second
            .workers()
            .contains(&client.get("/").unwrap().number())
    );
    manager.emptied();
}
