//! Where the logs go, what they say, and what happens when nobody takes them.

use std::io::{Read, pipe};
use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::support::http::get;
use crate::support::service::{Service, Setup, signal_to};
use crate::support::{DEADLINE, eventually};

#[test]
fn json_records_of_the_lifecycle_have_their_fields() {
    let service = Setup::new("workers = 2").serve();
    assert_eq!(service.stop(), 0);
    let records = service.records();
    for record in &records {
        for key in ["time", "level", "process", "message"] {
            assert!(record[key].is_string(), "{key} of {record}");
        }
        let is_worker = record["process"] == "worker";
        assert!(is_worker || record["process"] == "arbiter", "{record}");
        if is_worker {
            for key in ["payload_worker", "payload_slot", "payload_generation"] {
                assert!(record[key].is_u64(), "{key} of {record}");
            }
        }
        if record["payload_event"].is_string() {
            let id = record["message_id"].as_str().unwrap();
            assert!(
                id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{record}"
            );
        }
    }
    for event in [
        "worker-forked",
        "worker-phase",
        "service-ready",
        "signal-received",
        "service-stopping",
        "worker-exited",
        "service-stopped",
    ] {
        assert!(!service.events(event).is_empty(), "{event}");
    }
    let forked = &service.events("worker-forked")[1];
    assert_eq!(
        (&forked["payload_worker"], &forked["payload_slot"]),
        (&2.into(), &1.into())
    );
    assert_eq!(forked["payload_generation"], 1);
    assert_eq!(forked["cause"], "boot");
    assert!(forked["worker_pid"].is_u64());
    let ready = &service.events("service-ready")[0];
    assert_eq!(ready["workers"], 2);
    let signal = &service.events("signal-received")[0];
    assert_eq!(
        (&signal["signal"], &signal["from_pid"]),
        (&"SIGTERM".into(), &std::process::id().into())
    );
    // Every phase of every worker, once each, and how long the one before it took.
    for worker in 1..=2 {
        assert_eq!(
            service.phases(worker),
            [
                "loading", "starting", "prepared", "serving", "draining", "cleaning", "exited"
            ]
        );
    }
    for phase in service.events("worker-phase") {
        assert!(phase["took_seconds"].is_f64(), "{phase}");
    }
}

#[test]
fn lines_for_people_on_a_pipe_have_no_colour() {
    let service = Setup::new("workers = 1")
        .args(&["run", "--log-format=human"])
        .env("TERM", "xterm-256color")
        .start();
    service.record("every worker serves", |line| {
        line.to_string().contains("every worker serves")
    });
    assert_eq!(service.stop(), 0);
    let text = service.text();
    assert!(!text.contains('\u{1b}'), "{text}");
    let line = text
        .lines()
        .find(|line| line.contains("every worker serves"))
        .unwrap();
    // time LEVEL process sentence key=value
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(words[0].ends_with('Z') && words[0].contains('T'), "{line}");
    assert_eq!(
        words[1..6],
        ["INFO", "arbiter:", "every", "worker", "serves"]
    );
    assert!(line.contains("workers=1"), "{line}");
    assert!(
        text.lines().any(|line| line.contains(" worker 1: ")),
        "{text}"
    );
}

#[test]
fn a_pipe_that_nobody_reads_blocks_nothing_and_the_drops_show() {
    let (mut reader, writer) = pipe().unwrap();
    let service = Setup::new("workers = 2").stderr(writer).start();
    let address = ready(&service);
    // Far more than a pipe holds.
    for _ in 0..4 {
        assert_eq!(get(address, "/log?count=2000").status, 200);
    }
    assert_eq!(get(address, "/").status, 200);
    let dropped = eventually("the drops show", DEADLINE, || {
        let dropped = service.sum("log_drops");
        (dropped > 0).then_some(dropped)
    });
    assert!(dropped < 4 * 2000, "some of them fitted");
    // The arbiter drops as well, and supervises on.
    let victim = service.workers()[0];
    signal_to(victim, Signal::SIGKILL);
    service.wait_until_replaced(victim);
    assert_ne!(service.status()["arbiter"]["log_drops"], 0);
    assert_eq!(service.stop(), 0);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    for line in text.lines() {
        let whole: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(
            whole.is_ok(),
            "a record is there whole or not at all: {line:?}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_ends_nothing() {
    let (reader, writer) = pipe().unwrap();
    let service = Setup::new("workers = 2").stderr(writer).start();
    let address = ready(&service);
    drop(reader);
    for _ in 0..20 {
        assert_eq!(get(address, "/log?count=10").status, 200);
    }
    let victim = service.workers()[0];
    signal_to(victim, Signal::SIGKILL);
    service.wait_until_replaced(victim);
    assert_eq!(get(address, "/").status, 200);
    assert_eq!(service.stop(), 0);
}

#[test]
fn without_a_standard_error_it_serves_all_the_same() {
    let service = Setup::new("workers = 1")
        .through(&["sh", "-c", "exec \"$@\" 2>&-", "sh"])
        .start();
    let address = ready(&service);
    assert_eq!(get(address, "/log?count=10").status, 200);
    // The first descriptor that is opened must not be taken for standard error.
    assert_eq!(get(address, "/panic").status, 500);
    assert_eq!(service.status()["arbiter"]["state"], "ready");
    assert_eq!(service.stop(), 0);
}

/// Waits until a service without a log serves, and gives where it listens.
#[track_caller]
fn ready(service: &Service) -> SocketAddr {
    let status = service.status_where("it is ready", |status| {
        status["arbiter"]["state"] == "ready"
    });
    let address = status["sockets"][0]["address"].as_str();
    address
        .and_then(|text| text.parse().ok())
        .expect("an address")
}
