//! `examples/hello.rs`.

use std::collections::BTreeSet;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::http::request;
use crate::support::service::{Service, Setup, example, number, signal_to};
use crate::support::status::workers_of;
use crate::users::{Users, ask, ask_or_lose};

fn hello() -> Service {
    Setup::example("hello", "workers = 2\n[reload]\ntrial = '200ms'").serve()
}

/// The workers that have said this, or of which it was said.
fn workers(service: &Service, count: usize, text: &str) -> BTreeSet<Option<u64>> {
    let records = service.count(text, count, |record| {
        record.text("message") == text || record.is(text)
    });
    assert_eq!(records.len(), count, "once each: {text}");
    records.iter().map(|record| record.worker()).collect()
}

#[test]
fn each_worker_starts_its_app_once_and_tears_it_down() {
    let service = hello();
    assert_eq!(service.get("/"), "hello\n");
    assert!(service.reload().status.success());
    assert_eq!(service.get("/"), "hello\n");
    let alive = workers(&service, 4, "the payload is alive");
    assert_eq!(service.stop(), 0);
    assert_eq!(alive.len(), 4);
    for text in [
        "worker-forked",
        "this worker's app starts up",
        "this worker's app is torn down",
        "worker-exited",
    ] {
        assert_eq!(workers(&service, 4, text), alive, "{text}");
    }
}

#[test]
fn its_users_see_nothing_of_a_reload() {
    let service = hello();
    let users = Users::start(service.address(), 6, |client, _, _| {
        assert_eq!(ask(client, &request("/"), 200).body, "hello\n");
    });
    for _ in 0..3 {
        users.advance(200);
        let reload = service.reload();
        assert!(reload.status.success(), "{reload:?}");
    }
    users.advance(200);
    users.finish();
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_worker_that_is_killed_takes_its_own_connections_along_and_no_other() {
    let service = hello();
    let address = service.address();
    // However they come to the workers, these are too few to be moved for balance.
    let users = Users::start(address, 4, move |client, _, _| {
        let answer = ask_or_lose(client, address, &request("/"), 200);
        assert!(
            answer
                .as_ref()
                .is_none_or(|answer| answer.body == "hello\n")
        );
        answer.is_some()
    });
    users.advance(200);
    service.wait_for_sum("connections", 4);
    let status = service.status();
    let (killed, held) = workers_of(&status)
        .iter()
        .map(|worker| (worker["pid"].clone(), worker["connections"].clone()))
        .find(|(_, held)| *held != 0)
        .unwrap();
    let (killed, held) = (number(&killed), number(&held));
    signal_to(killed, Signal::SIGKILL);
    service.wait_until_replaced(killed);
    users.advance_each();
    let made = users.finish();
    let lost = |made: &Vec<bool>| made.iter().filter(|had_answer| !**had_answer).count();
    let lost: Vec<usize> = made.iter().map(lost).collect();
    assert!(lost.iter().all(|lost| *lost <= 1), "{lost:?}");
    assert_eq!(lost.iter().sum::<usize>(), held as usize, "{lost:?}");
    assert_eq!(service.stop(), 0);
}

/// Each example finds its own service by its name, as its first lines say.
#[test]
fn its_own_commands_find_it() {
    let setup = Setup::example("hello", "workers = 1").control(None);
    let login = setup.folder().to_str().unwrap().to_owned();
    let service = setup.env("XDG_RUNTIME_DIR", &login).serve();
    for (command, said) in [
        ("status", "1/1 workers serving"),
        ("reload", "generation 2 serves"),
    ] {
        let mut client = Command::new(example("hello"));
        client.arg(command).env("XDG_RUNTIME_DIR", &login);
        let output = client.env_remove("RUNTIME_DIRECTORY").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(said), "{output:?}");
    }
    assert_eq!(service.stop(), 0);
}
