//! The stop's deadline, and the slice of it that nobody else can use up.

use std::time::Duration;

use crate::support::service::Setup;
use crate::{ALL, torn_down, trace};

/// The requests would take the whole time, and a payload that does not stop takes what it can: each step still runs.
#[test]
fn stuck_requests_and_a_deaf_payload_leave_every_step_its_time() {
    let settings = "workers = 1\ntimeouts.graceful = '1s'\ntimeouts.cleanup = '4s'\n[app]\n\
                    payload = 'ignore-stop'\nteardown = 'hang'";
    let service = Setup::new(settings).serve();
    let mut client = service.client();
    client.send("/sleep?ms=600000").unwrap();
    service.wait_for_sum("in_flight", 1);
    assert_eq!(service.stop(), 70);
    let trace = trace(&service, 1);
    assert_eq!(torn_down(&trace), ALL, "{trace:?}");
    let failed: Vec<_> = service.events("step-failed");
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].text("step"), "two");
    let took = service.event("service-stopped").time() - service.event("service-stopping").time();
    // Never beyond both slices; the seconds are for a machine that does other things as well.
    assert!((1.0..5.0 + 3.0).contains(&took), "{took} s");
    service.never("worker-stuck");
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
        let settings = format!("workers = 1\n[timeouts]\ngraceful = '{graceful}'");
        let service = Setup::new(&settings).start();
        if !fine {
            assert_eq!(service.exit_of_first(), 78, "{graceful}");
            continue;
        }
        service.event("service-ready");
        if graceful == "unlimited" {
            let mut client = service.client();
            client.send("/sleep?ms=1500").unwrap();
            service.wait_for_sum("in_flight", 1);
            assert_eq!(service.stop(), 0);
            assert_eq!(client.answer().expect("it had all the time").status, 200);
        } else {
            let mut client = service.client();
            client.send("/sleep?ms=600000").unwrap();
            service.wait_for_sum("in_flight", 1);
            assert_eq!(service.stop(), 0);
            let stop = [
                service.event("service-stopping"),
                service.event("service-stopped"),
            ];
            let took = Duration::from_secs_f64(stop[1].time() - stop[0].time());
            assert!(took < Duration::from_secs(3), "{took:?}");
        }
    }
}
