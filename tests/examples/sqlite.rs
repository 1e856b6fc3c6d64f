//! `examples/sqlite.rs`.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::http::request;
use crate::support::service::{Service, Setup, signal_to};
use crate::users::{Users, ask, post};

fn notes(workers: u32) -> Setup {
    let configuration = format!(
        "workers = {workers}\n[reload]\ntrial = '200ms'\n[app]\ndatabase = '@FOLDER@/notes.db'\n"
    );
    Setup::example("sqlite", &configuration).filled_in()
}

fn texts(service: &Service) -> Vec<String> {
    let notes: Value = serde_json::from_str(&service.get("/notes")).unwrap();
    let notes = notes.as_array().unwrap().iter();
    notes
        .map(|note| note["text"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn notes_are_added_listed_and_removed() {
    let service = notes(2).serve();
    let mut client = service.client();
    let added = ask(&mut client, &post("/notes", "buy milk"), 201);
    let added: Value = serde_json::from_str(&added.body).unwrap();
    assert_eq!(
        (&added["id"], &added["text"]),
        (&1.into(), &"buy milk".into())
    );
    assert!(added["created"].as_i64().unwrap() > 1_700_000_000);
    assert_eq!(texts(&service), ["buy milk"]);
    let delete = request("/notes/1").replace("GET", "DELETE");
    ask(&mut client, &delete, 204);
    ask(&mut client, &delete, 404);
    assert!(texts(&service).is_empty());
    assert_eq!(service.get("/healthz"), "ok\n");
    // Of two that close it at the same moment, each can take the other one for the last.
    service.signal(Signal::SIGTTOU);
    service.wait_until_serving(1);
    assert_eq!(service.stop(), 0);
    // SQLite removes it when its last connection is closed.
    let log = service.folder().join("notes.db-wal");
    assert!(!log.exists(), "a connection was not closed");
}

/// However many start together, each version is reached once.
#[test]
fn one_of_many_workers_migrates() {
    let service = notes(8).serve();
    let migrated = service.records().into_iter();
    let versions: Vec<u64> = migrated
        .filter(|record| record.text("message") == "the schema was migrated")
        .map(|record| record["version"].as_u64().unwrap())
        .collect();
    assert_eq!(versions, [1, 2]);
    assert_eq!(service.stop(), 0);
}

#[test]
fn no_note_is_lost_over_reloads_and_none_is_there_twice() {
    let service = notes(2).serve();
    let users = Users::start(service.address(), 4, |client, user, act| {
        let text = format!("{user}/{act}");
        ask(client, &post("/notes", &text), 201);
        text
    });
    for _ in 0..3 {
        users.advance(50);
        let reload = service.reload();
        assert!(reload.status.success(), "{reload:?}");
    }
    users.advance(50);
    let written = users.finish().concat();
    let kept = texts(&service);
    assert_eq!(kept.len(), written.len());
    assert_eq!(BTreeSet::from_iter(kept), BTreeSet::from_iter(written));
    assert_eq!(service.stop(), 0);
}

#[test]
fn what_was_answered_survives_a_worker_that_is_killed() {
    let service = notes(2).serve();
    for number in 0..10 {
        ask(
            &mut service.client(),
            &post("/notes", &number.to_string()),
            201,
        );
    }
    let killed = service.workers()[0];
    signal_to(killed, Signal::SIGKILL);
    service.wait_until_replaced(killed);
    assert_eq!(texts(&service).len(), 10);
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_database_that_cannot_be_opened_is_named_with_the_step() {
    let configuration = "workers = 1\n[app]\ndatabase = '@FOLDER@/missing/notes.db'\n";
    let setup = Setup::example("sqlite", configuration).filled_in();
    let file = setup.folder().join("missing/notes.db");
    let service = setup.start();
    assert_eq!(service.exit(), 70);
    let log = service.text();
    assert!(log.contains("step 'database'"), "{log}");
    assert!(log.contains(file.to_str().unwrap()), "{log}");
}

#[test]
fn its_settings_are_checked_before_anything_starts() {
    let service = Setup::example("sqlite", "[app]\ndatabse = 'notes.db'\n").start();
    assert_eq!(service.exit(), 78);
    let log = service.text();
    assert!(log.contains("did you mean 'app.database'?"), "{log}");
    service.never("worker-forked");
}
