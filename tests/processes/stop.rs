//! The way out.

use std::io::ErrorKind;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::http::Client;
use crate::support::own_loopback;
use crate::support::service::{Service, Setup};
use crate::{assert_torn_down, trace};

/// Signals that come closer together than a tenth of a second count as one.
const ANOTHER_HAND: Duration = Duration::from_millis(150);

/// With a request under way in its one worker.
fn busy(settings: &str, path: &str) -> (Service, Client) {
    busy_with(Setup::new(settings), |_| path.to_owned())
}

/// With one that has its answer when the test opens the gate.
fn busy_until_told() -> (Service, Client) {
    busy_with(Setup::new(""), Service::gated)
}

fn busy_with(setup: Setup, path: impl Fn(&Service) -> String) -> (Service, Client) {
    let service = setup.with("workers = 1").serve();
    let mut client = service.client();
    client.send(&path(&service)).unwrap();
    service.status_where("a request in flight", |status| {
        status["workers"][0]["in_flight"] == 1
    });
    (service, client)
}

/// From the first word about the stop to the last one, by the service's own clock.
fn duration(service: &Service) -> f64 {
    let stopped = service.event("service-stopped");
    stopped.seconds_after(&service.event("service-stopping"))
}

/// So is the start: what the machine gives to others, it takes from both.
fn boot(service: &Service) -> f64 {
    let ready = service.event("service-ready");
    ready.seconds_after(&service.event("service-starting"))
}

/// By what the start took, since other processes have their share of the machine: in the best of eleven less than four
/// times that, and under 100 ms where one of them started within 25. In the middle one less than ten times, since a poll on the
/// way out is over at once now and then.
#[test]
fn with_nothing_to_do_it_takes_no_time() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (mut stops, mut boots, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..11 {
            let service = Setup::new("workers = 2\n[app]\npayload = 'run'").serve();
            // An idle connection is nothing to do.
            let mut idle = service.client();
            idle.get("/").unwrap();
            service.signal(signal);
            assert_eq!(service.exit(), 0);
            assert!(idle.is_closed());
            let (stop, boot) = (duration(&service), boot(&service).max(0.001));
            stops.push(stop);
            boots.push(boot);
            ratios.push(stop / boot);
        }
        for list in [&mut stops, &mut boots, &mut ratios] {
            list.sort_by(f64::total_cmp);
        }
        assert!(ratios[5] < 10.0, "{ratios:?} times the start");
        assert!(ratios[0] < 4.0, "{ratios:?}: what is waited for each time");
        assert!(boots[0] > 0.025 || stops[0] < 0.1, "{stops:?}");
    }
}

#[test]
fn a_term_waits_for_requests() {
    let (service, mut client) = busy_until_told();
    service.signal(Signal::SIGTERM);
    service.event_where("worker-phase", |event| event.text("phase") == "draining");
    service.open_gate();
    let answer = client.answer().expect("it is finished");
    assert_eq!(answer.status, 200);
    assert!(answer.head.to_lowercase().contains("connection: close"));
    assert_eq!(service.exit(), 0);
    assert_torn_down(&trace(&service, 1));
}

#[test]
fn a_term_waits_for_a_response_that_is_under_way() {
    let service = Setup::new("workers = 1").serve();
    let mut client = service.client();
    client.send("/slow-body?chunks=10&ms=100").unwrap();
    client.begin().expect("its head");
    service.signal(Signal::SIGTERM);
    let chunks = std::iter::from_fn(|| {
        let chunk = client.chunk().expect("all of it");
        (!chunk.is_empty()).then_some(chunk)
    });
    let body: Vec<u8> = chunks.flatten().collect();
    assert_eq!(String::from_utf8_lossy(&body), "chunk\n".repeat(10));
    assert_eq!(service.exit(), 0);
}

#[test]
fn requests_that_do_not_end_are_cancelled_and_the_cleanup_runs() {
    let (service, mut client) = busy("timeouts.graceful = '500ms'", "/sleep?ms=600000");
    assert_eq!(service.stop(), 0);
    assert_eq!(
        client.answer().unwrap_err().kind(),
        ErrorKind::UnexpectedEof
    );
    assert_torn_down(&trace(&service, 1));
    let took = duration(&service);
    assert!((0.5..20.0).contains(&took), "{took} s");
}

#[test]
fn a_timeout_of_zero_is_at_once() {
    let (service, mut client) = busy("timeouts.graceful = '0s'", "/sleep?ms=600000");
    assert_eq!(service.stop(), 0);
    assert!(client.answer().is_err());
    assert_torn_down(&trace(&service, 1));
}

#[test]
fn an_interrupt_is_quick_and_the_cleanup_runs() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let (service, mut client) = busy("", "/sleep?ms=600000");
        service.signal(signal);
        assert_eq!(service.exit(), 0);
        assert!(client.answer().is_err());
        assert_torn_down(&trace(&service, 1));
        assert_eq!(service.event("service-stopping").text("stop"), "quick");
    }
}

#[test]
fn the_second_signal_cancels_requests_and_the_third_kills() {
    let (service, mut client) = busy("[app]\nteardown = 'hang'", "/sleep?ms=600000");
    service.signal(Signal::SIGTERM);
    service.event_where("worker-phase", |event| event.text("phase") == "draining");
    sleep(ANOTHER_HAND);
    service.signal(Signal::SIGTERM);
    service.event_where("stop-hurried", |event| event.text("stop") == "quick");
    assert!(client.answer().is_err());
    service.record("the teardown hangs", |record| {
        record.text("probe") == "teardown" && record.text("step") == "two"
    });
    sleep(ANOTHER_HAND);
    service.signal(Signal::SIGTERM);
    let hurried = service.event_where("stop-hurried", |event| event.text("stop") == "kill");
    assert!(
        hurried.text("message").contains("cleanup is skipped"),
        "it never skips cleanup silently"
    );
    assert_eq!(service.exit(), 70);
    service.event("worker-killed");
    let failed = service.event("worker-failed");
    assert_eq!(failed.text("exit"), "killed by SIGKILL");
}

#[test]
fn an_interrupt_after_a_term_cancels_requests() {
    let (service, mut client) = busy("", "/sleep?ms=600000");
    service.signal(Signal::SIGTERM);
    service.event("service-stopping");
    service.signal(Signal::SIGINT);
    service.event_where("stop-hurried", |event| event.text("stop") == "quick");
    assert!(client.answer().is_err());
    assert_eq!(service.exit(), 0);
    assert_torn_down(&trace(&service, 1));
}

#[test]
fn a_teardown_that_goes_wrong_is_told_and_skips_nothing() {
    for (teardown, error) in [
        ("fail", "no such table"),
        ("panic", "asked to panic"),
        ("hang", "'two'"),
        ("greedy", "'two'"),
    ] {
        let service = Setup::new(&format!(
            "workers = 1\ntimeouts.cleanup = '6s'\n[app]\nteardown = '{teardown}'"
        ))
        .serve();
        assert_eq!(service.stop(), 70, "{teardown}");
        assert_torn_down(&trace(&service, 1));
        let failed = service.event("step-failed");
        assert_eq!(failed.text("step"), "two");
        assert_eq!(failed.text("stage"), "teardown");
        assert!(failed.text("error").contains(error), "{}", failed.0);
        service.event_where("worker-failed", |event| {
            event.text("reason").contains("'two'")
        });
    }
}

#[test]
fn a_blocked_handler_does_not_hold_the_service() {
    let (service, _client) = busy(
        "timeouts.graceful = '500ms'\ntimeouts.cleanup = '500ms'",
        "/block?ms=600000",
    );
    assert_eq!(service.stop(), 70);
    assert!(duration(&service) < 20.0);
}

/// With a thread to spare the app's own way out does not wait for it.
#[test]
fn a_blocked_handler_does_not_keep_the_app_from_its_teardown() {
    let (service, _client) = busy(
        "threads = 2\ntimeouts.graceful = '500ms'\ntimeouts.cleanup = '5s'\n[app]\npayload = 'run'",
        "/block?ms=600000",
    );
    assert_eq!(service.stop(), 70, "it is not gone");
    let trace = trace(&service, 1);
    assert_torn_down(&trace);
    for word in ["cleaning", "payload-ended", "failed"] {
        assert!(trace.iter().any(|said| said == word), "{word}: {trace:?}");
    }
    let failed = service.event("worker-failed");
    let reason = failed.text("reason");
    assert!(reason.contains("1 request did not end"), "{reason}");
}

#[test]
fn no_connection_is_refused_while_it_drains() {
    // Nobody else listens at this address, before it or after it.
    let setup = Setup::new("").listen(Some(&format!("{}:0", own_loopback())));
    let (service, mut client) = busy_with(setup, Service::gated);
    let address = service.address();
    service.signal(Signal::SIGTERM);
    service.event_where("worker-phase", |event| event.text("phase") == "draining");
    // Not refused, as long as the service has its socket: its next process could serve it.
    Client::connect(address).expect("it waits in the backlog");
    service.open_gate();
    assert_eq!(client.answer().unwrap().status, 200);
    assert_eq!(service.exit(), 0);
    assert!(Client::connect(address).is_err(), "now it is");
}
