//! The stop's deadline, and the slice of it that nobody else can use up.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::service::{Setup, signal_to};
use crate::{assert_torn_down, trace};

/// The requests would take the whole time, and a payload that does not stop takes what it can: each step still runs.
#[test]
fn stuck_requests_and_a_deaf_payload_leave_every_step_its_time() {
    let settings = "workers = 1\ntimeouts.graceful = '1s'\ntimeouts.cleanup = '6s'\n[app]\n\
                    payload = 'ignore-stop'\nteardown = 'hang'\nteardown_of = ['three', 'two']";
    let service = Setup::new(settings).serve();
    let mut client = service.client();
    client.send("/sleep?ms=600000").unwrap();
    service.wait_for_sum("in_flight", 1);
    assert_eq!(service.stop(), 70);
    let stopped = service.event("service-stopped");
    let took = stopped.seconds_after(&service.event("service-stopping"));
    // Both slices are 7 s, of which the last step leaves one. Without one deadline for all it would be 14 s.
    assert!((1.0..12.0).contains(&took), "{took} s");
    let trace = trace(&service, 1);
    assert_torn_down(&trace);
    let failed: Vec<_> = service.events("step-failed");
    let failed: Vec<_> = failed.iter().map(|event| event.text("step")).collect();
    assert_eq!(failed, ["three", "two"]);
    service.never("worker-stuck");
}

/// When it goes on, all its deadlines have passed, and nothing of it has had its time.
#[test]
fn a_service_that_is_frozen_in_its_cleanup_attempts_the_rest_of_it_afterwards() {
    // Its first step is frozen in the two seconds that it has.
    let settings = "workers = 1\ntimeouts.cleanup = '4s'\n[app]\n\
                    teardown = 'hang'\nteardown_of = ['three']";
    let service = Setup::new(settings).serve();
    let worker = service.event("worker-forked").number("worker_pid");
    service.signal(Signal::SIGINT);
    service.record("its teardown", |record| record.text("probe") == "teardown");
    for pid in [service.pid(), worker] {
        signal_to(pid, Signal::SIGSTOP);
    }
    // A quick stop has the cleanup's time. A second later the worker would end without its app, and after another one
    // the arbiter would end it, if it had not been frozen as well: for so long that it knows.
    sleep(Duration::from_secs(9));
    for pid in [worker, service.pid()] {
        signal_to(pid, Signal::SIGCONT);
    }
    assert_eq!(service.exit(), 70);
    let trace = trace(&service, 1);
    assert_torn_down(&trace);
    assert_eq!(trace.last().map(String::as_str), Some("failed"));
    service.never("worker-stuck");
}

/// Each of them would take minutes.
#[test]
fn a_setting_of_zero_is_at_once() {
    let in_no_time = |settings: &str, path: &str, code: i32| {
        let service = Setup::new(settings).with("workers = 1").serve();
        let mut client = service.client();
        client.send(path).unwrap();
        service.wait_for_sum("in_flight", 1);
        assert_eq!(service.stop(), code, "{settings}");
        assert!(client.answer().is_err(), "{settings}");
        let stopped = service.event("service-stopped");
        let took = stopped.seconds_after(&service.event("service-stopping"));
        assert!(took < 20.0, "{settings}: {took} s");
        service
    };
    let long = "timeouts.cleanup = '10m'";
    let graceful = in_no_time(
        &format!("timeouts.graceful = 0\n{long}"),
        "/sleep?ms=600000",
        0,
    );
    assert_torn_down(&trace(&graceful, 1));
    let both = "[timeouts]\ngraceful = 0\ncleanup = 0\n[app]\nteardown = 'hang'\nteardown_of = ['one', 'three']";
    let both = in_no_time(both, "/sleep?ms=600000", 70);
    // Attempted, and broken off where they wait.
    assert_torn_down(&trace(&both, 1));

    let service =
        Setup::new("workers = 1\n[http]\nkeep_alive_timeout = 0\nheader_read_timeout = '10m'")
            .serve();
    let mut client = service.client();
    assert_eq!(client.get("/").expect("it may ask").status, 200);
    let asked = Instant::now();
    client.expect_end();
    assert!(
        asked.elapsed() < Duration::from_secs(20),
        "by default it is 75 s"
    );
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_limit_is_ended_by_zero_and_lifted_only_by_a_word() {
    for (graceful, fine) in [
        ("0s", true),
        ("unlimited", true),
        ("0", true),
        ("", false),
        ("none", false),
    ] {
        let settings =
            format!("workers = 1\n[timeouts]\ngraceful = '{graceful}'\n[app]\ndrain = 'ok'");
        let service = Setup::new(&settings).start();
        if !fine {
            assert_eq!(service.exit_of_first(), 78, "{graceful}");
            continue;
        }
        service.event("service-ready");
        let mut client = service.client();
        client.send("/sleep?ms=600000").unwrap();
        service.wait_for_sum("in_flight", 1);
        if graceful == "unlimited" {
            service.signal(Signal::SIGTERM);
            let drain = service.record("the drain", |record| record.text("probe") == "drain");
            assert_eq!(drain.text("deadline"), "none");
            service.never("service-stopped");
            // Nobody waits for it to the end.
            service.signal(Signal::SIGINT);
            assert_eq!(service.exit(), 0);
        } else {
            assert_eq!(service.stop(), 0);
            let drain = service.record("the drain", |record| record.text("probe") == "drain");
            assert_ne!(drain.text("deadline"), "none");
            let stopped = service.event("service-stopped");
            let took = stopped.seconds_after(&service.event("service-stopping"));
            // By default it is 30 s.
            assert!(took < 20.0, "{took} s");
        }
    }
}
