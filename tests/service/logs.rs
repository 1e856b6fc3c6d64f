//! Where the logs go, what they say, and what happens when nobody takes them.

use std::io::{Read, pipe};

use nix::sys::signal::Signal;

use crate::client::get;
use crate::launch::Launch;

#[test]
fn json_records_of_the_lifecycle_have_their_fields() {
    let mut service = Launch::probe().workers(2).serve();
    service.signal(Signal::SIGTERM);
    assert_eq!(service.exit_code(), 0);
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
    let mut service = Launch::probe()
        .workers(1)
        .human()
        .env("TERM", "xterm-256color")
        .spawn();
    service.wait_for_text("every worker serves");
    service.signal(Signal::SIGTERM);
    assert_eq!(service.exit_code(), 0);
    let text = service.log_so_far();
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
    let mut service = Launch::probe().workers(2).stderr(writer).serve();
    let address = service.address();
    // Far more than a pipe holds.
    for _ in 0..4 {
        assert_eq!(get(address, "/log?count=2000").status, 200);
    }
    assert_eq!(get(address, "/").status, 200);
    let dropped = crate::support::eventually("the drops show", crate::support::DEADLINE, || {
        let dropped: u64 = service.counts("log_drops").iter().sum();
        (dropped > 0).then_some(dropped)
    });
    assert!(dropped < 4 * 2000, "some of them fitted");
    // The arbiter drops as well, and supervises on.
    let victim = service.pids()[0];
    service.signal_worker(victim, Signal::SIGKILL);
    service.wait_until_replaced(victim);
    assert_ne!(service.status()["arbiter"]["log_drops"], 0);
    service.signal(Signal::SIGTERM);
    assert_eq!(service.exit_code(), 0);
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
    let mut service = Launch::probe().workers(2).stderr(writer).serve();
    drop(reader);
    let address = service.address();
    for _ in 0..20 {
        assert_eq!(get(address, "/log?count=10").status, 200);
    }
    let victim = service.pids()[0];
    service.signal_worker(victim, Signal::SIGKILL);
    service.wait_until_replaced(victim);
    assert_eq!(get(address, "/").status, 200);
    service.signal(Signal::SIGTERM);
    assert_eq!(service.exit_code(), 0);
}

#[test]
fn without_a_standard_error_it_serves_all_the_same() {
    let mut service = Launch::probe()
        .workers(1)
        .behind(&["sh", "-c", "exec \"$@\" 2>&-", "sh"])
        .serve();
    assert_eq!(get(service.address(), "/log?count=10").status, 200);
    // The first descriptor that is opened must not be taken for standard error.
    assert_eq!(get(service.address(), "/panic").status, 500);
    assert_eq!(service.status()["arbiter"]["state"], "ready");
    service.signal(Signal::SIGTERM);
    assert_eq!(service.exit_code(), 0);
}
