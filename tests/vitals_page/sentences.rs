//! The lifecycle events on the page, in words that are true whatever the event says.

use super::{LIVE, browser, socket, start};

/// An event's name, its fields, and its sentence. It is of slot 1 and has no generation.
const SENTENCES: &[(&str, &str, &str)] = &[
    (
        "service-starting",
        "workers: 1",
        "The service starts: 1 worker to be forked",
    ),
    (
        "preloaded",
        "",
        "The preload is done; every worker forked from now on shares its result",
    ),
    (
        "service-ready",
        "",
        "Every worker serves: the service is ready",
    ),
    (
        "service-degraded",
        "serving: 1, workers: 2",
        "The service is degraded: 1 of 2 workers serve",
    ),
    (
        "service-degraded",
        "serving: 2, workers: 2, payload: 'tick', lease_slot: 1, failures: 3, delay_seconds: 2",
        "The service is degraded: 2 of 2 workers serve, and payload “tick” of slot 1 has failed or lost its worker 3×: nobody runs it for 2.0 s",
    ),
    (
        "service-degraded",
        "serving: 1, workers: 2, payload: 'tick', failures: 2",
        "The service is degraded: 1 of 2 workers serve, and payload “tick” has failed or lost its worker 2×",
    ),
    (
        "service-degraded",
        "serving: 2, workers: 2, leases: 'withheld'",
        "The service is degraded: 2 of 2 workers serve, and payloads that need a lease wait for the end of an earlier life of the service",
    ),
    (
        "service-recovered",
        "",
        "Every worker serves again, and no payload is left that nobody runs",
    ),
    (
        "service-idle",
        "",
        "Nobody has needed the service: it leaves, and the next connection starts it again",
    ),
    (
        "service-stopping",
        "stop: 'graceful', restart: false",
        "The service stops: requests finish, payloads stop, apps clean up",
    ),
    (
        "service-stopping",
        "stop: 'quick', restart: false",
        "The service stops: requests are cancelled, payloads stop, apps clean up",
    ),
    (
        "service-stopping",
        "stop: 'graceful', restart: true",
        "The service stops, to be started again: its connections are kept, requests finish, payloads stop, apps clean up",
    ),
    (
        "stop-hurried",
        "stop: 'quick'",
        "Asked again to stop: requests are cancelled, payloads stop, apps clean up",
    ),
    (
        "stop-hurried",
        "stop: 'kill'",
        "Asked again to stop: workers are killed, and what is left of their cleanup does not run",
    ),
    (
        "stop-hurried",
        "stop: 'new'",
        "Asked again to stop: requests end, payloads stop, apps clean up",
    ),
    ("service-stopped", "", "The service has stopped"),
    (
        "boot-failed",
        "reason: 'no file'",
        "The service could not start: no file",
    ),
    (
        "fork-failed",
        "reason: 'no room'",
        "No process for slot 1: no room",
    ),
    (
        "worker-forked",
        "cause: 'boot'",
        "Worker 1 is forked: a new process, and nothing runs in it yet",
    ),
    (
        "worker-forked",
        "cause: 'max_age'",
        "Worker 1 is forked, since one is old enough: a new process, and nothing runs in it yet",
    ),
    (
        "worker-phase",
        "phase: 'draining'",
        "Worker 1 drains: it takes nothing new and finishes what it has",
    ),
    ("worker-phase", "phase: 'dreaming'", "Worker 1 is dreaming"),
    ("worker-replaced", "", "Worker 1 has taken over its slot"),
    (
        "connections-handed-on",
        "given: 1",
        "Worker 1 has handed on 1 open connection: its client notices nothing",
    ),
    (
        "connections-handed-on",
        "given: 2",
        "Worker 1 has handed on 2 open connections: their clients notice nothing",
    ),
    (
        "connections-handed-on",
        "given: 0",
        "Worker 1 has handed on no connection",
    ),
    ("worker-exited", "", "Worker 1 has ended, as it was told"),
    (
        "worker-failed",
        "exit: 'code 1'",
        "Worker 1 has failed: code 1",
    ),
    (
        "worker-failed",
        "exit: 'code 1', reason: 'why'",
        "Worker 1 has failed: code 1, why",
    ),
    (
        "worker-stuck",
        "phase: 'serving'",
        "Worker 1 is stuck in phase serving: it is ended",
    ),
    (
        "worker-killed",
        "",
        "Worker 1 is killed: what is left of its cleanup does not run",
    ),
    (
        "worker-backoff",
        "failures: 2, delay_seconds: 1",
        "Slot 1 has failed 2×: its next worker comes in 1.0 s",
    ),
    (
        "recycle",
        "cause: 'max_requests'",
        "Worker 1 has served enough requests: it serves on until it is replaced",
    ),
    (
        "recycle",
        "cause: 'slots'",
        "Worker 1 was made for another number of slots: it serves on until it is replaced",
    ),
    (
        "slot-count-changed",
        "from: 1, to: 2",
        "The number of workers goes from 1 to 2",
    ),
    (
        "slot-count-refused",
        "wanted: 0",
        "0 workers are not possible",
    ),
    (
        "signal-received",
        "signal: 'SIGHUP'",
        "The arbiter got SIGHUP",
    ),
    (
        "reload-started",
        "",
        "A reload has begun: the program on disk is checked, while the old workers serve",
    ),
    (
        "image-changed",
        "direction: 'forward'",
        "The arbiter runs the program that is on disk now, in the same process",
    ),
    (
        "image-changed",
        "direction: 'back'",
        "The arbiter is back in the program that ran before, in the same process",
    ),
    (
        "image-changed",
        "",
        "The arbiter goes on in a new image, in the same process",
    ),
    (
        "reloaded",
        "seconds: 2",
        "Generation null has taken over, after 2.0 s",
    ),
    (
        "reload-failed",
        "reason: 'it lacks'",
        "The reload failed, and the workers from before it serve on: it lacks",
    ),
    (
        "connections-kept",
        "kept: 1",
        "1 connection kept over the restart",
    ),
    (
        "connections-adopted",
        "adopted: 2",
        "2 connections of the last run taken over",
    ),
    (
        "payloads-kept",
        "kept: 1, lost: 0",
        "What 1 payload left for the next start is kept over the restart",
    ),
    (
        "payloads-kept",
        "kept: 2, lost: 3",
        "What 2 payloads left for the next start is kept over the restart, that of 3 is lost",
    ),
    (
        "socket-acquired",
        "address: '[::1]:80', origin: 'passed'",
        "Listening on [::1]:80, passed by the service manager",
    ),
    (
        "socket-acquired",
        "address: '[::1]:80', origin: 'bound'",
        "Listening on [::1]:80, bound here",
    ),
    (
        "arbiter-lost",
        "",
        "Worker 1 has lost its arbiter: it drains and leaves",
    ),
    (
        "step-failed",
        "step: 'pool', error: 'no'",
        "Worker 1: the step “pool” failed: no",
    ),
    (
        "payload-started",
        "payload: 'p', restarts: 0",
        "Worker 1: payload “p” runs",
    ),
    (
        "payload-started",
        "payload: 'p', restarts: 2",
        "Worker 1: payload “p” runs again (2×)",
    ),
    (
        "payload-ended",
        "payload: 'p'",
        "Worker 1: payload “p” has stopped",
    ),
    (
        "payload-failed",
        "payload: 'p', cause: 'no'",
        "Worker 1: payload “p” failed: no",
    ),
    (
        "lease-granted",
        "payload: 'p', gap_seconds: 0",
        "Payload “p” goes to worker 1",
    ),
    (
        "lease-granted",
        "payload: 'p', lease_slot: 1, gap_seconds: 0.25",
        "Payload “p” of slot 1 goes to worker 1, after 0.3 s with nobody",
    ),
    (
        "lease-revoked",
        "payload: 'p'",
        "Payload “p” is to stop in worker 1",
    ),
    (
        "lease-released",
        "payload: 'p', cause: 'stopped'",
        "Payload “p” has stopped in worker 1",
    ),
    (
        "lease-released",
        "payload: 'p', cause: 'finished'",
        "Payload “p” has finished in worker 1",
    ),
    (
        "lease-released",
        "payload: 'p', cause: 'failed'",
        "Payload “p” has failed in worker 1",
    ),
    (
        "lease-released",
        "payload: 'p', cause: 'died'",
        "Payload “p” is gone with worker 1",
    ),
    (
        "lease-released",
        "payload: 'p', cause: 'undelivered'",
        "Payload “p” did not reach worker 1",
    ),
    (
        "lease-released",
        "payload: 'p', cause: 'not taken'",
        "Payload “p” did not begin in worker 1",
    ),
    (
        "lease-released",
        "payload: 'p', cause: 'unknown'",
        "Payload “p” has left worker 1",
    ),
    (
        "lease-pauses",
        "payload: 'p', lease_slot: 2, failures: 3, delay_seconds: 1",
        "Payload “p” of slot 2 has failed or lost its worker 3×: it waits 1.0 s",
    ),
];

#[test]
fn each_says_no_more_than_its_event() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    for (name, fields, says) in SENTENCES {
        let event = format!("{{ slot: 1, generation: null, fields: {{ {fields} }} }}");
        let sentence = browser.value(&format!("SAY['{name}']({event})"));
        assert_eq!(sentence, *says, "{name}: {fields}");
    }
}

#[test]
fn there_is_one_for_each_event_that_a_page_can_hear_of() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    let catalog = include_str!("../../packaging/payload.catalog");
    let names = catalog.lines().filter_map(|line| line.strip_prefix("# "));
    let names = names.filter(|line| !line.contains(' '));
    // The backtraces of a stuck worker are for the journal.
    for name in names.filter(|name| *name != "worker-trace") {
        assert!(browser.is(&format!("'{name}' in SAY")), "{name}");
        assert!(
            SENTENCES.iter().any(|(tested, ..)| *tested == name),
            "{name}"
        );
    }
}
