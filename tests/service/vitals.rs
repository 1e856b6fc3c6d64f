//! The history of vitals outlives the worker that takes it down.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::events::{clients, json};
use crate::support::eventually;
use crate::support::http::Client;
use crate::support::service::{LIMIT, Service, Setup, signal_to};

/// Ten samples a second, so that a gap is seen soon.
const QUICK: &str = "[app]\nsample_interval = '100ms'";

fn serve(workers: u32) -> Service {
    Setup::shipped(&format!("workers = {workers}\n{QUICK}")).serve()
}

fn times(vitals: &Value) -> Vec<f64> {
    let samples = vitals["samples"].as_array().expect("a list").iter();
    samples
        .map(|sample| sample["time"].as_f64().unwrap())
        .collect()
}

/// So many samples after `time`, as some worker tells it.
#[track_caller]
fn more(service: &Service, count: usize, time: f64) -> Vec<f64> {
    eventually("more samples", LIMIT, || {
        let vitals = service.get("/api/vitals");
        let times = times(&serde_json::from_str(&vitals).expect("JSON"));
        (times.iter().filter(|at| **at > time).count() >= count).then_some(times)
    })
}

#[track_caller]
fn last(times: &[f64]) -> f64 {
    *times.last().expect("a sample")
}

/// How many of these are not there any more.
fn lost(before: &[f64], after: &[f64]) -> usize {
    before.iter().filter(|time| !after.contains(time)).count()
}

/// The longest time between two samples.
fn gap(times: &[f64]) -> f64 {
    times
        .windows(2)
        .map(|two| two[1] - two[0])
        .fold(0.0, f64::max)
}

fn holder(service: &Service) -> u32 {
    eventually("a sampler", LIMIT, || {
        let pid = service.status()["leases"][0]["holder"]["pid"].as_u64()?;
        u32::try_from(pid).ok()
    })
}

#[test]
fn one_samples_and_every_worker_tells_the_same() {
    let service = serve(3);
    more(&service, 10, 0.0);
    let mut clients = clients(&service);
    // A worker may hear of the past, and of what is new, a little later than another one.
    eventually("the same from every worker", LIMIT, || {
        let told = clients.iter_mut();
        let mut told: Vec<_> = told
            .map(|(_, client)| times(&json(client, "/api/vitals")))
            .collect();
        let shortest = told.iter().map(Vec::len).min()?;
        told.iter_mut().for_each(|times| times.truncate(shortest));
        (shortest >= 10 && told.windows(2).all(|two| two[0] == two[1])).then_some(())
    });
    assert_eq!(service.events("lease-granted").len(), 1);
}

/// Live: what comes after all have been opened, in the worker that samples and in those that only hear of it.
#[test]
fn a_stream_in_each_worker_shows_the_same_samples_as_they_are_taken() {
    let service = serve(3);
    more(&service, 1, 0.0);
    let sampler = holder(&service);
    let mut streams = clients(&service);
    assert!(streams.iter().any(|(pid, _)| *pid == sampler));
    for (pid, client) in &mut streams {
        client.send("/api/vitals/stream").unwrap();
        let head = client.begin().unwrap();
        assert!(head.contains("text/event-stream"), "{pid}: {head}");
    }
    let opened = last(&more(&service, 1, 0.0));
    let mut seen = vec![BTreeMap::new(); streams.len()];
    let same = eventually("samples that all three have seen", LIMIT, || {
        for ((pid, client), seen) in streams.iter_mut().zip(&mut seen) {
            let Some(sample) = next_sample(client, *pid) else {
                continue;
            };
            let time = sample["time"].as_f64().unwrap();
            if time > opened {
                seen.insert(time.to_bits(), sample);
            }
        }
        // One that reads too slowly may have missed one.
        let same: Vec<u64> = seen[0].keys().copied().collect();
        let all = |time: &u64| seen.iter().all(|seen| seen.contains_key(time));
        let same: Vec<u64> = same.into_iter().filter(all).collect();
        (same.len() >= 5).then_some(same)
    });
    for time in same {
        assert!(seen.iter().all(|its| its[&time] == seen[0][&time]));
    }
    assert_eq!(holder(&service), sampler);
    assert_eq!(service.events("lease-granted").len(), 1);
}

/// The sample in the next event of a worker's stream, if there is one.
#[track_caller]
fn next_sample(client: &mut Client, pid: u32) -> Option<Value> {
    let chunk = client.chunk().expect("an event");
    let text = String::from_utf8(chunk).unwrap();
    let Some((_, data)) = text.split_once("event: vitals\ndata: ") else {
        assert!(
            text.starts_with("event: ") || text.starts_with(':'),
            "{text}"
        );
        return None;
    };
    let data: Value = serde_json::from_str(data.lines().next().unwrap()).unwrap();
    assert_eq!(data["pid"], pid);
    data["sample"].is_object().then(|| data["sample"].clone())
}

#[test]
fn a_reload_takes_the_history_along() {
    let service = serve(2);
    let before = more(&service, 10, 0.0);
    assert!(service.reload().status.success());
    let after = eventually("a worker that knows the past", LIMIT, || {
        let after = more(&service, 5, last(&before) + 1.0);
        (lost(&before, &after) == 0).then_some(after)
    });
    assert!(gap(&after) < 10.0, "{after:?}");
}

#[test]
fn the_death_of_the_sampler_costs_some_samples_and_no_history() {
    // With one worker nobody else has it: it comes from what the dead one has kept.
    for workers in [1, 2] {
        let service = serve(workers);
        let begun = last(&more(&service, 1, 0.0));
        // More than is lost when nothing but the beginning is kept.
        let before = more(&service, 70, begun);
        signal_to(holder(&service), Signal::SIGKILL);
        service.event("worker-failed");
        // It is kept every two seconds, which are twenty samples. Another worker has all that was sent.
        let most = if workers == 1 { 40 } else { 10 };
        let after = eventually("a worker that knows the past", LIMIT, || {
            let after = more(&service, 5, last(&before) + 1.0);
            (lost(&before, &after) <= most && after.contains(&before[0])).then_some(after)
        });
        assert!(gap(&after) < 15.0, "{workers} workers: {after:?}");
    }
}

#[test]
fn a_sampler_that_is_silent_takes_no_other_worker_out_of_service() {
    let service = serve(2);
    more(&service, 1, 0.0);
    let sampler = holder(&service);
    let mut all = clients(&service);
    for (_, client) in &mut all {
        // A worker may hear of the first sample a little later.
        eventually("it is content", LIMIT, || {
            (client.get("/healthz").ok()?.body == "ok\n").then_some(())
        });
    }
    signal_to(sampler, Signal::SIGSTOP);
    let (_, other) = all
        .iter_mut()
        .find(|(pid, _)| *pid != sampler)
        .expect("another");
    let said = eventually("the other worker's word", LIMIT, || {
        let health = other.get("/healthz").ok()?;
        assert_eq!(health.status, 200, "{}", health.body);
        (health.body != "ok\n").then_some(health.body)
    });
    assert!(said.starts_with("ok; the sampler, in worker "), "{said}");
    signal_to(sampler, Signal::SIGCONT);
    eventually("its content", LIMIT, || {
        (other.get("/healthz").ok()?.body == "ok\n").then_some(())
    });
}

/// It is told that its worker leaves, in a quick stop as well, and its response has a proper end.
#[test]
fn every_stream_gets_its_last_word_however_the_service_stops() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let service = serve(2);
        let mut streams: Vec<Client> = (0..8).map(|_| service.client()).collect();
        for stream in &mut streams {
            stream.send("/api/vitals/stream").unwrap();
            stream.begin().unwrap();
            assert!(!stream.chunk().unwrap().is_empty(), "what is known");
        }
        service.signal(signal);
        for stream in &mut streams {
            let mut last = Vec::new();
            loop {
                let chunk = stream.chunk().expect("a proper end");
                if chunk.is_empty() {
                    break;
                }
                last = chunk;
            }
            let last = String::from_utf8(last).unwrap();
            assert!(
                last.ends_with("event: drain\ndata: {}\n\n"),
                "{signal}: {last}"
            );
        }
        assert_eq!(service.exit(), 0);
    }
}
