//! Background tasks that end as they should not.

use crate::support::eventually;
use crate::support::notify::Manager;
use crate::support::service::{LIMIT, Record, Service, Setup, number, wait_for_end_of};
use crate::{assert_torn_down, trace, worker_of};

fn with(payload: &str, policy: &str) -> Service {
    let app = format!("workers = 2\n[app]\nslot = 0\npayload = '{payload}'\npolicy = '{policy}'");
    Setup::new(&app).serve()
}

/// Lets the payload of slot 0 do what it is set to; waits until that is known.
#[track_caller]
fn ends(service: &Service) -> Record {
    let of_slot = service.workers()[0].to_string();
    // Connections go to the workers in turn.
    let mut client = eventually("a connection to that worker", LIMIT, || {
        let mut client = service.client();
        let answer = client.get("/").ok()?;
        (answer.body.trim() == of_slot).then_some(client)
    });
    client.get("/payload").unwrap();
    service.record("the payload's end", |record| {
        record.is("payload-failed") || record.is("payload-ended")
    })
}

fn critical(payload: &str, cause: &str) {
    let service = with(payload, "critical");
    let workers = service.workers();
    let failed = ends(&service);
    assert!(failed.is("payload-failed"));
    assert_eq!(failed.text("payload"), "task");
    assert_eq!(failed.text("cause"), cause);
    assert_eq!(failed.0["again"], false);
    wait_for_end_of(workers[0]);
    let worker = worker_of(&service, workers[0]);
    let exited = service.event_where("worker-failed", |event| event.worker() == Some(worker));
    assert!(exited.text("reason").contains("task"), "{}", exited.0);
    assert!(exited.text("reason").contains(cause), "{}", exited.0);
    let status = service.status_where("it is replaced", |status| {
        let workers = status["workers"].as_array().unwrap();
        status["arbiter"]["state"] == "ready" && workers.len() == 2
    });
    assert_ne!(number(&status["workers"][0]["pid"]), workers[0]);
    assert_eq!(number(&status["workers"][1]["pid"]), workers[1]);
    let trace = trace(&service, worker);
    assert_torn_down(&trace);
    let reported = trace
        .iter()
        .filter(|word| *word == "payload-failed")
        .count();
    assert_eq!(reported, 1, "it is logged once");
    let draining = trace.iter().position(|word| word == "draining");
    assert!(draining.is_some(), "it drains: {trace:?}");
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_critical_one_that_returns_takes_its_worker_along() {
    critical("return", "returned although nobody told it to stop");
}

#[test]
fn a_critical_one_that_fails_takes_its_worker_along() {
    critical("fail", "failed: read the table: no such queue");
}

#[test]
fn a_critical_one_that_panics_takes_its_worker_along() {
    critical("panic", "panicked: asked to panic");
}

#[test]
fn a_restarting_one_is_started_again() {
    for payload in ["return", "fail", "panic"] {
        let service = with(payload, "restart");
        let workers = service.workers();
        let failed = ends(&service);
        assert!(failed.is("payload-failed"), "{}", failed.0);
        assert_eq!(failed.0["again"], true);
        service.event_where("payload-started", |event| event.number("restarts") == 1);
        let status = service.status();
        let payload = &status["workers"][0]["payloads"][0];
        assert_eq!(payload["name"], "task");
        assert_eq!(payload["state"], "running");
        assert_eq!(payload["restarts"], 1);
        assert_eq!(service.workers(), workers);
        assert_eq!(service.stop(), 0);
    }
}

/// Nobody dies of it, and every worker serves: it has to be seen all the same, by whoever looks and by the manager.
#[test]
fn a_restarting_one_that_fails_again_and_again_is_seen() {
    let manager = Manager::on_path();
    let app = "workers = 2\nreload.trial = '200ms'\n[app]\nslot = 0\npayload = 'fail'\npolicy = 'restart'";
    let setup = Setup::new(app);
    let go = setup.folder().join("go");
    let set = format!("go = '{}'", go.display());
    let service = setup.with_app(&set).notify(&manager).serve();
    let line = service.status()["arbiter"]["status"].to_string();
    assert!(!line.contains("payload"), "{line}");

    std::fs::write(&go, "").unwrap();
    let status = service.status_where("three failures", |status| {
        number(&status["workers"][0]["payloads"][0]["restarts"]) >= 2
            && status["workers"][0]["payloads"][0]["state"] == "restarting"
    });
    let reason = "failed: read the table: no such queue";
    let told = &status["workers"][0]["payloads"][0]["last_failure"];
    assert_eq!(told["reason"], reason);
    assert!(told["ago"].as_f64().is_some_and(|ago| ago < 30.0), "{told}");
    let line = status["arbiter"]["status"].as_str().unwrap();
    assert!(line.starts_with("2/2 workers serving"), "{line}");
    assert!(line.contains("; payload 'task' has failed "), "{line}");
    assert!(
        line.ends_with(&format!(" times, the last time it {reason}")),
        "{line}"
    );

    let text = service.status_command(&[]).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    let second = text.lines().nth(1).unwrap();
    assert!(second.contains("; payload 'task' has failed "), "{text}");
    let table = text.lines().find(|line| line.starts_with("0 ")).unwrap();
    assert!(table.contains("  task:") && table.ends_with("×)"), "{text}");
    let last = text
        .lines()
        .find(|line| line.starts_with("payload task has failed "));
    assert!(last.unwrap().ends_with(reason), "{text}");

    manager.hear_where("its failures in STATUS", |heard| {
        let status = heard.value("STATUS");
        status.is_some_and(|status| status.contains("payload 'task' has failed"))
    });
    // The new generation has it as well, and is no worse for it.
    assert!(service.reload().status.success());
    service.status_where("it fails in the new generation", |status| {
        let worker = &status["workers"][0];
        worker["generation"] == 2 && worker["payloads"][0]["last_failure"]["reason"] == reason
    });
    assert_eq!(service.stop(), 0);
}

#[test]
fn one_that_waits_for_its_restart_at_the_stop_has_had_its_end() {
    let service = with("fail", "restart");
    ends(&service);
    assert_eq!(service.stop(), 0);
    // The rules of every trace count the ends.
    service.check_trace();
}

#[test]
fn one_that_runs_once_may_end() {
    for (payload, end, state) in [
        ("return", "payload-ended", "done"),
        ("fail", "payload-failed", "failed"),
        ("panic", "payload-failed", "failed"),
    ] {
        let service = with(payload, "once");
        let workers = service.workers();
        assert!(ends(&service).is(end));
        let status = service.status();
        assert_eq!(status["workers"][0]["payloads"][0]["state"], state);
        assert_eq!(service.workers(), workers, "the worker lives on");
        assert_eq!(service.stop(), 0);
    }
}

#[test]
fn one_that_does_not_stop_is_aborted() {
    let service = with("ignore-stop", "critical");
    let worker = worker_of(&service, service.workers()[0]);
    assert_eq!(service.stop(), 70, "an abort is a failure of the teardown");
    let failed = service.event("payload-failed");
    assert!(failed.text("cause").contains("1s"), "{}", failed.0);
    assert_torn_down(&trace(&service, worker));
}

/// It cannot be aborted, and the teardown cannot run on the thread that it holds.
#[test]
fn one_that_blocks_its_thread_at_the_stop_is_ended_with_its_worker() {
    let service = Setup::new(
        "workers = 1\ntimeouts.cleanup = '1s'\ntimeouts.graceful = '1s'\n[app]\npayload = 'block'",
    )
    .serve();
    let worker = service.workers()[0];
    assert_eq!(service.stop(), 70);
    wait_for_end_of(worker);
    assert!(service.processes().is_empty());
}

/// With a thread to spare the teardown runs all the same.
#[test]
fn one_that_blocks_a_thread_of_several() {
    let service =
        Setup::new("workers = 1\nthreads = 2\ntimeouts.cleanup = '5s'\n[app]\npayload = 'block'")
            .serve();
    assert_eq!(service.stop(), 70);
    let failed = service.event("payload-failed");
    assert!(failed.text("cause").contains("block"), "{}", failed.0);
    assert_torn_down(&trace(&service, 1));
}
