//! The lifecycle events as every worker tells them, and each worker's own view of the service.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::eventually;
use crate::support::http::Client;
use crate::support::service::{LIMIT, Service, Setup, signal_to};
use crate::support::status::workers_of;

/// Vitals shows what every app can see.
fn serve(configuration: &str) -> Service {
    Setup::shipped(configuration).serve()
}

pub(crate) fn json(client: &mut Client, path: &str) -> Value {
    serde_json::from_str(&client.get(path).expect("an answer").body).expect("JSON")
}

/// A connection to each worker, by its pid.
#[track_caller]
pub(crate) fn clients(service: &Service) -> Vec<(u32, Client)> {
    let mut found: Vec<(u32, Client)> = Vec::new();
    let count = service.workers().len();
    eventually("a connection to every worker", LIMIT, || {
        let mut client = service.client();
        let pid = u32::try_from(json(&mut client, "/api/vitals?last=0")["pid"].as_u64()?).ok()?;
        if found.iter().all(|(known, _)| *known != pid) {
            found.push((pid, client));
        }
        (found.len() == count).then_some(())
    });
    found
}

fn events(client: &mut Client) -> Vec<Value> {
    json(client, "/api/events")
        .as_array()
        .expect("a list")
        .clone()
}

/// What happened, and to whom.
fn told(event: &Value) -> (String, Option<u64>, Option<String>) {
    let phase = event["fields"]["phase"].as_str().map(str::to_owned);
    (
        event["name"].as_str().unwrap().to_owned(),
        event["worker"].as_u64(),
        phase,
    )
}

fn of_name<'a>(events: &'a [Value], name: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["name"] == name)
}

fn has(events: &[Value], name: &str) -> bool {
    of_name(events, name).next().is_some()
}

#[track_caller]
fn assert_numbered(events: &[Value]) {
    let numbers: Vec<u64> = events
        .iter()
        .map(|event| event["number"].as_u64().unwrap())
        .collect();
    assert!(
        numbers.windows(2).all(|two| two[1] == two[0] + 1),
        "{numbers:?}"
    );
}

#[test]
fn every_worker_hears_the_same_from_the_beginning_on() {
    // Whatever the log has of them.
    let quiet = Setup::shipped("workers = 3\nlog.level = 'info,payload::lifecycle=off'");
    let service = quiet.start();
    service.status_where("every worker serves", |status| {
        status["arbiter"]["state"] == "ready"
    });
    let mut all = Vec::new();
    for (_, client) in &mut clients(&service) {
        let heard = eventually("the last event of the boot", LIMIT, || {
            Some(events(client)).filter(|events| has(events, "service-ready"))
        });
        assert_numbered(&heard);
        let (first, boot) = (
            &heard[0],
            heard
                .iter()
                .take_while(|event| event["name"] != "service-ready"),
        );
        assert_eq!(
            first["name"], "socket-acquired",
            "also what was before the first fork"
        );
        assert_eq!(first["pid"], service.pid());
        all.push(boot.cloned().collect::<Vec<_>>());
    }
    assert!(all.windows(2).all(|two| two[0] == two[1]), "in one order");
    for phase in ["loading", "starting", "prepared", "serving"] {
        for worker in 1..=3 {
            let entered = (
                "worker-phase".to_owned(),
                Some(worker),
                Some(phase.to_owned()),
            );
            assert!(
                all[0].iter().any(|event| told(event) == entered),
                "{entered:?}"
            );
        }
    }
}

#[test]
fn they_go_on_over_a_reload_with_the_next_number() {
    let service = serve("workers = 2");
    let before = events(&mut service.client());
    assert!(service.reload().status.success());
    // The lease moves on when the old one's payload has stopped, which is after that.
    let is_over = |events: &Vec<Value>| {
        has(events, "reloaded") && of_name(events, "lease-granted").count() == 2
    };
    let after = eventually("the reload, as told by its own workers", LIMIT, || {
        Some(events(&mut service.client())).filter(is_over)
    });
    assert_numbered(&after);
    assert_eq!(
        after[..before.len()],
        before[..],
        "nothing is forgotten and nothing told twice"
    );
    for event in [
        "reload-started",
        "image-changed",
        "lease-released",
        "lease-granted",
    ] {
        assert!(has(&after, event), "{event}");
    }
    let directions: Vec<_> = of_name(&after, "image-changed")
        .map(|event| &event["fields"]["direction"])
        .collect();
    assert_eq!(directions, ["forward"]);
    let said: Vec<_> = of_name(&after, "image-changed")
        .map(|event| &event["message"])
        .collect();
    assert_eq!(said, ["the arbiter goes on in a new image"]);
    let generations = |name: &str| -> Vec<u64> {
        of_name(&after, name)
            .filter_map(|event| event["generation"].as_u64())
            .collect()
    };
    assert_eq!(generations("worker-forked"), [1, 1, 2, 2]);
    assert_eq!(
        generations("lease-granted"),
        [1, 2],
        "each says whom it is about"
    );
}

#[test]
fn a_worker_that_was_stopped_hears_later_what_it_has_missed() {
    // More than is put into a channel that nobody reads.
    const DEATHS: usize = 12;
    let service = serve(
        "workers = 2\ntimeouts.heartbeat_serving = '60s'\nrestart.crash_budget = 100\nrestart.backoff_max = '100ms'",
    );
    let (stopped, mut late) = clients(&service).remove(0);
    signal_to(stopped, Signal::SIGSTOP);
    let mut dead = Vec::new();
    for _ in 0..DEATHS {
        let victim = eventually("the other worker", LIMIT, || {
            let status = service.status();
            let mut workers = workers_of(&status).iter();
            let serving =
                workers.find(|worker| worker["pid"] != stopped && worker["phase"] == "serving")?;
            let pid = u32::try_from(serving["pid"].as_u64()?).ok()?;
            (!dead.contains(&pid)).then_some(pid)
        });
        signal_to(victim, Signal::SIGKILL);
        dead.push(victim);
    }
    eventually("the last death", LIMIT, || {
        (service.events("worker-failed").len() == DEATHS).then_some(())
    });
    signal_to(stopped, Signal::SIGCONT);
    let heard = eventually("the deaths of its siblings", LIMIT, || {
        let events = events(&mut late);
        let failed: Vec<u32> = of_name(&events, "worker-failed")
            .filter_map(|event| event["pid"].as_u64()?.try_into().ok())
            .collect();
        (failed == dead).then_some(events)
    });
    assert_numbered(&heard);
    assert!(of_name(&heard, "worker-failed").all(|event| event["level"] == "error"));
}

#[test]
fn each_worker_sees_the_leases_the_payloads_and_the_sockets_of_the_service() {
    let service = serve("workers = 2");
    let by_arbiter = service.status_where("somebody has the lease", |status| {
        status["leases"][0]["holder"]["pid"].is_u64()
    });
    let holder = by_arbiter["leases"][0]["holder"]["pid"]
        .as_u64()
        .expect("a holder");
    for (_, client) in &mut clients(&service) {
        let seen = eventually("the view of a worker", LIMIT, || {
            let view = json(client, "/api/service");
            let payloads = view["workers"]
                .as_array()?
                .iter()
                .map(|worker| worker["payloads"].as_array().map_or(0, Vec::len));
            let knows_all = payloads.eq([2, 2])
                && view["leases"][0]["holder"]["pid"] == holder
                && view["arbiter"]["status"] == "2/2 workers serving, generation 1";
            knows_all.then_some(view)
        });
        assert_eq!(seen["sockets"], by_arbiter["sockets"]);
        assert_eq!(seen["leases"][0]["payload"], "sampler");
    }
}

#[test]
fn each_worker_says_why_the_last_reload_failed() {
    let service = serve("workers = 1");
    service.configure("workers = 1\nno_such_key = 1\n");
    assert!(!service.reload().status.success());
    eventually("the reason in the view of the worker", LIMIT, || {
        let view = json(&mut service.client(), "/api/service");
        view["arbiter"]["status"]
            .as_str()?
            .contains("no_such_key")
            .then_some(())
    });
}
