//! The way out, one thing after the other.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::http::Client;
use crate::support::notify::Manager;
use crate::support::service::{Service, Setup, signal_to};
use crate::support::status::workers_of;
use crate::support::{DEADLINE, eventually};
use crate::{assert_torn_down, trace};

#[test]
fn each_thing_ends_in_its_turn() {
    let settings = "workers = 1\ntimeouts.graceful = '10m'\n[app]\npayload = 'run'";
    let service = Setup::new(settings).serve();
    let (mut idle, mut short, mut long, mut events) = (
        service.client(),
        service.client(),
        service.client(),
        service.client(),
    );
    idle.get("/").unwrap();
    let gate = service.folder().join("gate");
    short
        .send(&format!("/gate?file={}", gate.display()))
        .unwrap();
    long.send("/sleep?ms=600000").unwrap();
    events.send("/events?ms=20&drain=true").unwrap();
    service.wait_for_sum("in_flight", 3);
    service.signal(Signal::SIGTERM);
    // Nobody waits for what is idle, and who hears the drain token ends by itself.
    idle.expect_end();
    assert!(
        events
            .answer()
            .expect("a stream with an end")
            .body
            .ends_with("\n\n")
    );
    service.write("gate", "");
    assert_eq!(short.answer().expect("it was accepted").status, 200);
    let so_far = trace(&service, 1);
    assert_eq!(
        so_far.last().unwrap(),
        "draining",
        "the long one is waited for"
    );
    // Until the deadline, or until somebody is in a hurry.
    service.signal(Signal::SIGINT);
    assert!(long.answer().is_err());
    assert_eq!(service.exit(), 0);
    let trace = trace(&service, 1);
    let end = &trace[so_far.len()..];
    let expected = [
        "cancelled",
        "cleaning",
        "payload-ended",
        "teardown three",
        "teardown two",
        "teardown one",
        "released",
        "exited",
    ];
    assert_eq!(end, expected);
}

/// In the middle of its drain, with a request that waits for the file `gate`.
fn draining() -> (Service, Client) {
    let settings = "workers = 1\ntimeouts.graceful = '10m'\n[app]\ndrain = 'ok'";
    let service = Setup::new(settings).serve();
    let gate = service.folder().join("gate");
    let mut client = service.client();
    client
        .send(&format!("/gate?file={}", gate.display()))
        .unwrap();
    service.wait_for_sum("in_flight", 1);
    service.signal(Signal::SIGTERM);
    service.record("its step", |record| record.text("probe") == "drain");
    (service, client)
}

/// What came after the beginning of the drain.
fn way_out(service: &Service) -> Vec<String> {
    let trace = trace(service, 1);
    let draining = trace.iter().position(|word| word == "draining");
    trace[draining.expect("a drain")..].to_vec()
}

const LAST: [&str; 6] = [
    "cleaning",
    "teardown three",
    "teardown two",
    "teardown one",
    "released",
    "exited",
];

#[test]
fn a_worker_that_is_told_to_stop_while_it_drains_does_nothing_else() {
    let (service, mut client) = draining();
    let worker = service.event("worker-forked").number("worker_pid");
    signal_to(worker, Signal::SIGTERM);
    service.write("gate", "");
    assert_eq!(client.answer().expect("it is waited for").status, 200);
    assert_eq!(service.exit(), 0);
    assert_eq!(
        way_out(&service),
        [&["draining", "drain"], &LAST[..]].concat()
    );
    service.never("stop-hurried");
}

#[test]
fn a_second_stop_during_the_drain_hurries_and_repeats_nothing() {
    let (service, mut client) = draining();
    // Signals that come closer together than a tenth of a second count as one.
    sleep(Duration::from_millis(150));
    service.signal(Signal::SIGTERM);
    service.event_where("stop-hurried", |event| event.text("stop") == "quick");
    assert!(client.answer().is_err(), "nobody waits for it any more");
    assert_eq!(service.exit(), 0);
    assert_eq!(
        way_out(&service),
        [&["draining", "drain"], &LAST[..]].concat()
    );
    assert_eq!(service.events("service-stopping").len(), 1);
    assert_eq!(service.events("stop-hurried").len(), 1);
}

#[test]
fn a_payload_that_is_dead_is_never_hidden_behind_green() {
    let settings = "workers = 1\ntimeouts.graceful = '10m'\n[app]\npayload = 'fail'";
    let manager = Manager::on_path();
    let service = Setup::new(settings).notify(&manager).serve();
    manager.hear_until("READY=1");
    let old = service.workers()[0];
    let gate = service.folder().join("gate");
    let mut busy = service.client();
    busy.send(&format!("/gate?file={}", gate.display()))
        .unwrap();
    service.wait_for_sum("in_flight", 1);
    let mut client = service.client();
    client.get("/payload").unwrap();
    service.event("payload-failed");
    // It finishes what it has, and is counted as serving no more.
    let draining = service.event_where("worker-phase", |event| event.text("phase") == "draining");
    assert_eq!(draining.worker(), Some(1));
    let replaced = |status: &Value| {
        let serves = |worker: &Value| worker["phase"] == "serving" && worker["pid"] != old;
        workers_of(status).iter().any(serves)
    };
    let is_green = |text: &str| text.contains("1/1 workers");
    let told = |status: &Value| status["arbiter"]["status"].as_str().unwrap().to_owned();
    // As soon as the arbiter has heard of it there is no way back, until somebody else serves.
    let status = service.status_where("it is not counted any more", |status| {
        !is_green(&told(status)) || replaced(status)
    });
    let old_one = workers_of(&status)
        .iter()
        .find(|worker| worker["pid"] == old);
    assert_eq!(
        old_one.expect("it has work")["phase"],
        "draining",
        "{status:#}"
    );
    service.status_where("somebody else serves", |status| {
        assert!(replaced(status) || !is_green(&told(status)), "{status:#}");
        replaced(status)
    });
    eventually("the manager hears so", DEADLINE, || {
        let told = manager.hear(DEADLINE)?;
        let text = told.value("STATUS")?;
        text.contains("0/1 workers").then_some(())
    });
    service.write("gate", "");
    assert_eq!(busy.answer().unwrap().number(), old);
    service.wait_until_replaced(old);
    let failed = service.event("worker-failed");
    assert!(failed.text("reason").contains("'task'"), "{failed}");
}

#[test]
fn a_mounted_app_ends_before_its_parent() {
    let service = Setup::new("workers = 1\n[app]\nmount = true\npayload = 'run'").serve();
    assert_eq!(service.stop(), 0);
    let trace = trace(&service, 1);
    let started = trace
        .iter()
        .filter_map(|word| word.strip_prefix("startup "));
    assert!(started.eq(["one", "two", "three", "inner"]), "{trace:?}");
    let cleaning = trace.iter().position(|word| word == "cleaning");
    let expected = [
        // The payloads, the last one first.
        "payload-ended",
        "payload-ended",
        "teardown inner",
        "teardown three",
        "teardown two",
        "teardown one",
        "released",
        "exited",
    ];
    assert_eq!(trace[cleaning.unwrap() + 1..], expected);
    let ended = service.events("payload-ended");
    let names: Vec<&str> = ended.iter().map(|event| event.text("payload")).collect();
    assert_eq!(names, ["task", "/inner: inner"]);
}

#[test]
fn several_teardowns_that_fail_are_all_attempted_and_told_in_order() {
    for (teardown, limit, errors) in [
        ("fail", "", ["no such table"; 2]),
        ("panic", "", ["asked to panic"; 2]),
        ("hang", "step_timeout = 0.2", ["its limit of 200ms"; 2]),
    ] {
        let service = Setup::new(&format!(
            "workers = 1\ntimeouts.cleanup = '10m'\n[app]\nteardown = '{teardown}'\n\
             teardown_of = ['three', 'one']\n{limit}"
        ))
        .serve();
        assert_eq!(service.stop(), 70, "{teardown}");
        assert_torn_down(&trace(&service, 1));
        let failed = service.events("step-failed");
        let told = failed.iter().map(|event| event.text("step"));
        assert!(told.eq(["three", "one"]), "{failed:#?}");
        for (event, error) in failed.iter().zip(errors) {
            assert!(event.text("error").contains(error), "{event}");
        }
        let end = service.event("worker-failed");
        let reason = end.text("reason");
        assert!(
            reason.contains("'three'") && reason.ends_with("(and 1 more)"),
            "{end}"
        );
    }
}

#[test]
fn a_drain_step_that_fails_skips_neither_the_drain_nor_the_teardown() {
    for (conduct, error) in [
        ("fail", "no such table"),
        ("panic", "asked to panic"),
        ("hang", "was cut off"),
    ] {
        let service = Setup::new(&format!(
            "workers = 1\ntimeouts.graceful = '10m'\n[app]\ndrain = '{conduct}'"
        ))
        .serve();
        let gate = service.folder().join("gate");
        let mut client = service.client();
        client
            .send(&format!("/gate?file={}", gate.display()))
            .unwrap();
        service.wait_for_sum("in_flight", 1);
        service.signal(Signal::SIGTERM);
        service.record("the step", |record| record.text("probe") == "drain");
        // One that hangs is cut off when its share of the cleanup is used up.
        if conduct != "hang" {
            service.event("step-failed");
        }
        service.write("gate", "");
        client.answer().expect("it is served");
        assert_eq!(service.exit(), 70, "{conduct}");
        assert_torn_down(&trace(&service, 1));
        let failed = service.events("step-failed");
        assert_eq!(failed.len(), 1, "{failed:#?}");
        assert_eq!(
            (failed[0].text("stage"), failed[0].text("step")),
            ("drain", "drain")
        );
        assert!(failed[0].text("error").contains(error), "{}", failed[0]);
    }
}
