//! The end of a worker as its clients see it.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::http::{get, last_request};
use crate::support::http2;
use crate::support::service::{Setup, number, signal_to};
use crate::support::status::workers_of;

#[test]
fn what_is_in_flight_completes_and_announces_the_close() {
    let service = Setup::new("workers = 1").serve();
    let mut idle = service.client();
    idle.get("/").unwrap();
    let mut fresh = service.client();
    let gate = service.folder().join("gate");
    let mut busy = service.client();
    busy.send(&format!("/gate?file={}", gate.display()))
        .unwrap();
    let mut streaming = service.client();
    streaming
        .send(&format!("/gate-body?file={}", gate.display()))
        .unwrap();
    service.wait_for_sum("in_flight", 2);
    service.wait_for_sum("connections", 4);

    service.signal(Signal::SIGTERM);
    // Before the others are done.
    idle.expect_end();
    fresh.expect_end();
    assert!(!busy.has_answer() && !busy.has_ended());
    service.never("service-stopped");
    fs::write(gate, "").unwrap();
    let response = busy.answer().unwrap();
    assert_eq!(response.status, 200);
    assert!(response.announces_close(), "{response:?}");
    busy.expect_end();
    let response = streaming.answer().unwrap();
    assert_eq!((response.status, &*response.body), (200, "chunk\nchunk\n"));
    streaming.expect_end();
    assert_eq!(service.exit(), 0);
}

#[test]
fn with_nothing_to_do_it_is_prompt() {
    // The middle of eleven, since a poll by the second is over at once now and then; and by what the start took, since
    // other processes have their share of the machine.
    let ratios = (0..11).map(|_| {
        let begun = Instant::now();
        let service = Setup::new("workers = 2").serve();
        let start = begun.elapsed();
        let mut idle = service.client();
        idle.get("/").unwrap();
        let begun = Instant::now();
        assert_eq!(service.stop(), 0);
        let stop = begun.elapsed();
        idle.expect_end();
        stop.as_secs_f64() / start.as_secs_f64()
    });
    let mut ratios: Vec<f64> = ratios.collect();
    ratios.sort_by(f64::total_cmp);
    assert!(ratios[5] < 10.0, "{ratios:?} times the start");
    assert!(ratios[0] < 4.0, "{ratios:?}: what is waited for each time");
}

#[test]
fn http2_gets_goaway_and_its_streams_finish() {
    let service = Setup::new("workers = 1").serve();
    let address = service.address();
    let outcome = http2::run(async {
        let mut client = http2::Client::connect(address).await;
        let gate = service.folder().join("gate");
        let slow = client.get(&format!("/gate?file={}", gate.display()));
        let slow = tokio::spawn(slow);
        while service.sum("in_flight") != 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        service.signal(Signal::SIGTERM);
        client.wait_for_goaway().await;
        assert!(!slow.is_finished(), "the stream goes on behind it");
        fs::write(gate, "").unwrap();
        let answer = slow.await.unwrap();
        client.expect_end().await;
        answer
    });
    assert_eq!(outcome.status, 200);
    assert_eq!(service.exit(), 0);
}

#[test]
fn the_deadline_cancels_a_handler_and_the_cleanup_still_runs() {
    let service = Setup::new("workers = 1")
        .args(&["--graceful-timeout=500ms"])
        .serve();
    let mut slow = service.client();
    slow.send("/sleep?ms=60000").unwrap();
    service.wait_for_sum("in_flight", 1);
    service.signal(Signal::SIGTERM);
    slow.expect_end();
    assert_eq!(service.exit(), 0);
    service.message("requests did not end within timeouts.graceful and are cancelled");
    let phases = service.phases(1);
    assert_eq!(
        phases,
        [
            "loading", "starting", "prepared", "serving", "draining", "cleaning", "exited"
        ]
    );
    let records = service.records();
    let torn_down = records
        .iter()
        .filter(|record| record["probe"] == "teardown");
    let steps: Vec<_> = torn_down
        .map(|record| record["step"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["three", "two", "one"]);
}

#[test]
fn while_one_worker_drains_the_others_take_what_is_new() {
    let service = Setup::new("workers = 2").serve();
    let address = service.address();
    let mut slow = service.client();
    let gate = service.folder().join("gate");
    let wait = format!("/gate?file={}", gate.display());
    slow.send_bytes(last_request(&wait)).unwrap();
    service.wait_for_sum("in_flight", 1);
    let status = service.status();
    let busy = workers_of(&status).iter().find(|w| w["in_flight"] == 1);
    let draining = number(&busy.expect("a busy worker")["pid"]);
    signal_to(draining, Signal::SIGTERM);
    service.record("the drain", |record| record["phase"] == "draining");
    let answers: Vec<u32> = (0..40).map(|_| get(address, "/").number()).collect();
    // It says so before it leaves the listener's queue, and takes one then that was dealt to it until then.
    let taken = answers.iter().filter(|pid| **pid == draining).count();
    assert!(taken <= 1, "{draining} in {answers:?}");
    assert!(
        !slow.has_answer() && !slow.has_ended(),
        "and all that while the slow request was running"
    );
    fs::write(gate, "").unwrap();
    assert_eq!(slow.answer().unwrap().number(), draining);
}
