//! Who asks for a reload, what he hears, and what others see meanwhile.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::stage::{OLD, Stage};
use crate::support::service::{Quiet as _, Setup};
use crate::support::status::workers_of;

#[test]
fn a_signal_reloads() {
    let stage = Stage::set();
    stage.service.configure(&new());
    stage.service.signal(Signal::SIGHUP);
    stage.hear_reload();
    stage.wait_for_generation_after(1);
    assert_eq!(stage.word(), "new");
    stage.ends();
}

#[test]
fn a_signal_into_what_is_wrong_is_answered_by_the_status_and_the_journal() {
    let stage = Stage::set();
    stage.service.configure("workers = = 2");
    stage.service.signal(Signal::SIGHUP);
    stage.rolled_back_unasked("payload.toml:1:11");
    stage.recovers();
}

#[test]
fn the_command_says_which_generation_serves() {
    let stage = Stage::set();
    stage.service.configure(&new());
    for generation in 2..5 {
        let output = stage.service.reload();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, format!("payload: generation {generation} serves\n"));
        stage.hear_reload();
    }
    stage.ends();
}

#[test]
fn whoever_asks_during_a_reload_joins_it() {
    let stage = Stage::set();
    let gate = stage.service.folder().join("gate");
    stage
        .service
        .configure(&format!("{}gate = '{}'\n", new(), gate.display()));
    let reload = || stage.service.reload_command().spawn_quiet();
    let mut all = vec![reload()];
    stage.service.status_where("the new ones start", starting);
    let first = stage.manager.hear_line("RELOADING=1");
    all.extend([reload(), reload()]);
    stage.service.signal(Signal::SIGHUP);
    // The manager hears a new moment for each: it waits for one after its own question.
    let moment = |told: &crate::support::notify::Datagram| {
        told.value("MONOTONIC_USEC")
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let mut last = moment(&first);
    for _ in 0..3 {
        let again = moment(&stage.manager.hear_line("RELOADING=1"));
        assert!(again > last);
        last = again;
    }
    stage.service.write("gate", "");
    for reload in all {
        let output = reload.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "payload: generation 2 serves\n"
        );
    }
    stage.manager.hear_line("READY=1");
    stage.service.event("reloaded");
    for event in ["reload-started", "reloaded"] {
        assert_eq!(stage.service.events(event).len(), 1, "{event}");
    }
    stage.ends();
}

#[test]
fn whoever_joins_a_reload_that_fails_hears_the_same_reason() {
    let stage = Stage::set();
    let gate = stage.service.folder().join("gate");
    let app = format!("gate = '{}'\nstartup = 'fail'\n", gate.display());
    stage.service.configure(&(new() + &app));
    let reload = || stage.service.reload_command().spawn_quiet();
    let first = reload();
    stage.service.status_where("the new ones start", starting);
    stage.manager.hear_line("RELOADING=1");
    let second = reload();
    // It has been heard.
    stage.manager.hear_line("RELOADING=1");
    stage.service.write("gate", "");
    for reload in [first, second] {
        let output = reload.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(70));
        assert!(said.contains("no such table"), "{said}");
    }
    stage.service.event("reload-failed");
    assert_eq!(stage.service.events("reload-failed").len(), 1);
    std::fs::remove_file(gate).unwrap();
    stage.manager.hear_line("READY=1");
    stage.recovers();
}

#[test]
fn a_reload_that_is_asked_for_during_the_boot_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let text = format!("{OLD}gate = '{}'\n", gate.display());
    let service = Setup::new(&text).installed().start();
    service.status_where("it boots", |status| status["arbiter"]["state"] == "booting");
    let mut reload = service.reload_command().spawn_quiet();
    assert!(reload.try_wait().unwrap().is_none());
    service.configure(&new());
    std::fs::write(gate, "").unwrap();
    let output = reload.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // The old ones have gone.
    service.wait_until_serving(2);
    assert_eq!(service.get("/word"), "new");
    assert_eq!(service.stop(), 0);
}

#[test]
fn both_generations_are_shown_while_it_goes_on() {
    let stage = Stage::set();
    let gate = stage.service.folder().join("gate");
    stage
        .service
        .configure(&format!("{}gate = '{}'\n", new(), gate.display()));
    let reload = stage.service.reload_command().spawn_quiet();
    let status = stage.service.status_where("the new ones start", starting);
    assert_eq!(status["arbiter"]["state"], "reloading");
    assert_eq!(status["arbiter"]["generation"], 1, "that one serves");
    let shown: Vec<(u64, &str)> = workers_of(&status)
        .iter()
        .map(|one| {
            (
                one["generation"].as_u64().unwrap(),
                one["phase"].as_str().unwrap(),
            )
        })
        .collect();
    let mut by_generation = shown.clone();
    by_generation.sort_unstable();
    let (old, new) = ((1, "serving"), (2, "starting"));
    assert_eq!(by_generation, [old, old, new, new], "{status:#}");
    let line = status["arbiter"]["status"].as_str().unwrap();
    let begin = "reloading (preparing): 2/2 workers serving, generation 1, ";
    assert!(line.starts_with(begin), "{line}");
    let told = stage.manager.hear(Duration::from_secs(30));
    assert!(told.is_some());
    stage.service.write("gate", "");
    assert!(reload.wait_with_output().unwrap().status.success());
    stage.ends();
}

#[test]
fn the_number_of_workers_follows_the_file_when_it_changes_and_the_operator_when_not() {
    let stage = Stage::set();
    stage
        .service
        .configure(&new().replace("workers = 2", "workers = 3"));
    stage.reload();
    assert_eq!(stage.service.workers().len(), 3);
    stage.service.signal(Signal::SIGTTOU);
    stage.service.wait_until_serving(2);
    stage.reload();
    assert_eq!(
        stage.service.workers().len(),
        2,
        "as the operator wanted it"
    );
    stage
        .service
        .configure(&new().replace("workers = 2", "workers = 1"));
    stage.reload();
    assert_eq!(stage.service.workers().len(), 1);
    stage.ends();
}

#[test]
fn a_change_of_their_number_during_a_reload_comes_after_it() {
    let stage = Stage::set();
    let gate = stage.service.folder().join("gate");
    stage
        .service
        .configure(&format!("{}gate = '{}'\n", new(), gate.display()));
    let reload = stage.service.reload_command().spawn_quiet();
    stage.service.status_where("the new ones start", starting);
    stage.service.signal(Signal::SIGTTIN);
    stage
        .service
        .event_where("signal-received", |event| event.text("signal") == "SIGTTIN");
    stage.service.write("gate", "");
    assert!(reload.wait_with_output().unwrap().status.success());
    stage.service.wait_until_serving(3);
    stage.ends();
}

#[test]
fn the_watchdog_is_fed_on() {
    let setup = Setup::new(OLD).installed().env("WATCHDOG_USEC", "1000000");
    let stage = Stage::of(setup);
    stage.service.configure(&new());
    stage.reload();
    let first = stage.manager.hear_line("WATCHDOG=1");
    let third = (
        stage.manager.hear_line("WATCHDOG=1"),
        stage.manager.hear_line("WATCHDOG=1"),
    )
        .1;
    // Twice half a second; the rest is for a busy machine.
    let apart = third.at - first.at;
    assert!(apart < Duration::from_secs(10), "{apart:?}");
    stage.ends();
}

#[test]
fn three_generations_at_once() {
    let stage = Stage::set();
    stage.service.configure(&new());
    let mut busy = Vec::new();
    for _ in 0..3 {
        let mut client = stage.service.client();
        client.send("/sleep?ms=4000").unwrap();
        stage
            .service
            .status_where("it is being answered", |status| {
                let busy_now = workers_of(status)
                    .iter()
                    .map(|one| one["in_flight"].as_u64().unwrap());
                busy_now.sum::<u64>() > busy.len() as u64
            });
        busy.push(client);
        let output = stage.service.reload();
        assert!(output.status.success(), "{output:?}");
        stage.hear_reload();
    }
    for client in &mut busy {
        assert_eq!(client.answer().unwrap().status, 200);
    }
    stage.service.wait_until_serving(2);
    stage.ends();
}

fn new() -> String {
    OLD.replace("old", "new")
}

fn starting(status: &Value) -> bool {
    let new = |worker: &&Value| worker["generation"] == 2 && worker["phase"] == "starting";
    workers_of(status).iter().filter(new).count() == 2
}
