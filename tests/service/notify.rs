//! What the service manager hears, datagram by datagram.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::http::{get, try_get};
use crate::support::notify::{Datagram, Manager};
use crate::support::service::{Setup, signal_to};
use crate::support::status::workers_of;

const BOOTING: &str = "STATUS=starting: 0/2 workers serving, generation 1";
const HALF: &str = "STATUS=starting: 1/2 workers serving, generation 1";
const SERVING: &str =
    "STATUS=2/2 workers serving, generation 1, 0 connections, 0 requests in flight";

#[test]
fn boot_and_stop_are_told_in_order_on_a_path() {
    boot_and_stop_are_told_in_order(&Manager::on_path());
}

#[test]
fn boot_and_stop_are_told_in_order_on_an_abstract_name() {
    boot_and_stop_are_told_in_order(&Manager::on_abstract_name());
}

#[track_caller]
fn boot_and_stop_are_told_in_order(manager: &Manager) {
    let service = Setup::new("workers = 2").notify(manager).serve();
    let mut boot = texts(&manager.hear_until("READY=1"));
    // Whether the first of the two is seen alone depends on the moment.
    boot.retain(|text| text != HALF);
    assert_eq!(boot, [BOOTING, &format!("READY=1\n{SERVING}")]);

    assert_eq!(service.stop(), 0);
    let mut stop = texts(&manager.rest());
    // So does that of the last one alone.
    stop.retain(|text| text != "STATUS=stopping: 1 worker left, 0 requests in flight");
    assert_eq!(
        stop,
        [
            "STOPPING=1\nSTATUS=stopping: 2 workers left, 0 requests in flight",
            "EXTEND_TIMEOUT_USEC=30000000",
        ]
    );
}

#[test]
fn ready_only_when_the_last_worker_serves_and_a_long_boot_asks_for_time() {
    let manager = Manager::on_path();
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("open");
    let settings = format!("workers = 2\n[app]\ngate = {gate:?}\nslot = 1");
    let service = Setup::new(&settings).notify(&manager).start();
    service.status_where("slot 0 is prepared", |status| {
        status["workers"][0]["phase"] == "prepared"
    });
    let mut early = service.client();
    early.send("/").unwrap();
    let heard = manager.hear_until("EXTEND_TIMEOUT_USEC=30000000");
    assert!(
        heard.iter().all(|datagram| !datagram.has("READY=1")),
        "{heard:#?}"
    );
    assert_eq!(heard[0].lines, [BOOTING]);
    let status = service.status();
    assert_eq!(status["arbiter"]["state"], "booting");
    assert_eq!(status["workers"][0]["phase"], "prepared");
    assert_eq!(
        status["workers"][0]["accepted"], 0,
        "early connections wait"
    );

    fs::write(gate, "").unwrap();
    let ready = manager.hear_line("READY=1");
    assert!(
        ready.has(SERVING)
            || ready
                .value("STATUS")
                .unwrap()
                .starts_with("2/2 workers serving")
    );
    for worker in workers_of(&service.status()) {
        assert_eq!(worker["phase"], "serving");
    }
    assert_eq!(early.answer().unwrap().status, 200);
}

#[test]
fn a_long_drain_asks_for_time_again_and_again() {
    let manager = Manager::on_path();
    let service = Setup::new("workers = 1").notify(&manager).serve();
    manager.hear_until("READY=1");
    let mut client = service.client();
    client.send("/sleep?ms=60000").unwrap();
    service.wait_for_sum("in_flight", 1);
    service.signal(Signal::SIGTERM);
    let stopping = manager.hear_line("STOPPING=1");
    assert_eq!(
        stopping.lines,
        [
            "STOPPING=1",
            "STATUS=stopping: 1 worker left, 1 requests in flight"
        ]
    );
    let first = manager.hear_line("EXTEND_TIMEOUT_USEC=30000000");
    let second = manager.hear_line("EXTEND_TIMEOUT_USEC=30000000");
    let gap = second.at - first.at;
    assert!(
        gap < Duration::from_secs(30),
        "before the time is over: {gap:?}"
    );
    service.signal(Signal::SIGINT);
    assert_eq!(service.exit(), 0);
}

#[test]
fn a_manager_that_does_not_read_blocks_nothing_and_hears_the_state_later() {
    let manager = Manager::on_path();
    let full = manager.stop_reading();
    assert!(full > 0);
    let service = Setup::new("workers = 2")
        .notify(&manager)
        .env("WATCHDOG_USEC", "200000")
        .serve();
    assert_eq!(get(service.address(), "/").status, 200);
    assert_eq!(service.status()["arbiter"]["state"], "ready");
    // The arbiter goes on supervising: a crash is replaced.
    let victim = service.workers()[0];
    signal_to(victim, Signal::SIGKILL);
    service.event("worker-failed");
    service.wait_until_replaced(victim);

    let stuck = manager.rest();
    assert_eq!(
        stuck
            .iter()
            .filter(|datagram| datagram.has("FILLED=1"))
            .count(),
        full
    );
    // What was not taken before comes now: READY once, with the newest status.
    let later: Vec<Datagram> = stuck.into_iter().skip(full).collect();
    let told = |heard: &[Datagram]| {
        heard
            .iter()
            .filter(|datagram| datagram.has("READY=1"))
            .count()
    };
    if told(&later) == 0 {
        manager.hear_until("READY=1");
    }

    manager.stop_reading();
    assert_eq!(service.stop(), 0);
}

#[test]
fn the_watchdog_is_fed_at_half_of_its_time() {
    let manager = Manager::on_path();
    let _service = Setup::new("workers = 2")
        .notify(&manager)
        .env("WATCHDOG_USEC", "1000000")
        .serve();
    manager.hear_until("READY=1");
    let mut pings = vec![manager.hear_line("WATCHDOG=1")];
    for _ in 0..9 {
        pings.push(manager.hear_line("WATCHDOG=1"));
    }
    let mut gaps: Vec<Duration> = pings.windows(2).map(|two| two[1].at - two[0].at).collect();
    gaps.sort();
    // The middle of nine: a busy machine is late now and then, and not each time. Early would be another interval, and
    // later than the manager's patience, which is a second, would be in vain.
    let usual = Duration::from_millis(400)..Duration::from_secs(1);
    assert!(usual.contains(&gaps[4]), "{gaps:?}");
}

#[test]
fn a_watchdog_that_is_meant_for_another_process_is_not_fed() {
    let manager = Manager::on_path();
    let service = Setup::new("workers = 1")
        .notify(&manager)
        .env("WATCHDOG_USEC", "100000")
        .env("WATCHDOG_PID", "1")
        .serve();
    manager.hear_until("READY=1");
    // Two refreshes of the status: forty intervals of the watchdog.
    let mut client = service.client();
    client.get("/").unwrap();
    let heard = manager.hear_until(
        "STATUS=1/1 workers serving, generation 1, 1 connections, 0 requests in flight",
    );
    assert!(
        heard.iter().all(|datagram| !datagram.has("WATCHDOG=1")),
        "{heard:#?}"
    );
    assert_eq!(service.stop(), 0);
}

#[test]
fn the_watchdog_is_not_fed_while_nobody_serves_and_every_attempt_crashes() {
    let manager = Manager::on_path();
    let service = Setup::new("workers = 1\n[app]")
        .steered()
        .args(&[
            "--crash-budget=1",
            "--backoff-initial=100ms",
            "--backoff-max=1s",
        ])
        .notify(&manager)
        .env("WATCHDOG_USEC", "400000")
        .serve();
    manager.hear_until("READY=1");
    manager.hear_line("WATCHDOG=1");
    service.steer("startup = 'fail'");
    // Its client sees the end of the connection.
    let _ = try_get(service.address(), "/crash");
    let degraded = service.event("service-degraded");
    assert_eq!(degraded["serving"], 0, "{degraded}");
    service.count("more than the budget", 3, |record| {
        record.is("worker-failed")
    });
    // What was sent before is no matter; from now on, five intervals of half of its time.
    manager.rest();
    let end = Instant::now() + Duration::from_secs(1);
    while let Some(datagram) = manager.hear(end.saturating_duration_since(Instant::now())) {
        assert!(!datagram.has("WATCHDOG=1"), "{datagram:?}");
    }
    service.steer("");
    manager.hear_line("WATCHDOG=1");
}

#[test]
fn workers_never_see_what_the_manager_gave_the_arbiter() {
    let manager = Manager::on_path();
    let service = Setup::new("workers = 1")
        .notify(&manager)
        .env("WATCHDOG_USEC", "60000000")
        .env("LISTEN_PID", "1")
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "http")
        .env("LISTEN_PIDFDID", "1")
        .env("KEPT", "as it was")
        .serve();
    let environment = get(service.address(), "/environment").body;
    let names: Vec<&str> = environment
        .lines()
        .filter_map(|line| line.split_once('=').map(|(name, _)| name))
        .collect();
    assert!(
        environment.lines().any(|line| line == "KEPT=as it was"),
        "{environment}"
    );
    assert!(names.contains(&"PATH"), "{environment}");
    for prefix in ["NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_"] {
        assert!(
            !names.iter().any(|name| name.starts_with(prefix)),
            "{environment}"
        );
    }
}

fn texts(heard: &[Datagram]) -> Vec<String> {
    heard
        .iter()
        .map(|datagram| datagram.lines.join("\n"))
        .collect()
}
