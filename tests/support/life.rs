//! A worker's life, as its service's log tells it.

use super::log::Record;
use super::service::Service;

/// What one worker did, in order: its phases by name, and what the probe and its payload said.
pub(crate) fn trace(service: &Service, worker: u64) -> Vec<String> {
    let word = |record: Record| match record.text("payload_event") {
        "" => {
            let (what, step) = (record.text("probe"), record.text("step"));
            (!what.is_empty()).then(|| format!("{what} {step}").trim_end().to_owned())
        }
        "worker-phase" => Some(record.text("phase").to_owned()),
        event => Some(event.to_owned()),
    };
    let own =
        |record: &Record| record.text("process") == "worker" && record.worker() == Some(worker);
    let records = service.records().into_iter();
    records.filter(own).filter_map(word).collect()
}

/// The teardown of the probe's three steps is in this trace, once and in order.
#[track_caller]
pub(crate) fn assert_torn_down(trace: &[String]) {
    assert_eq!(torn_down(trace), ["three", "two", "one"], "{trace:?}");
}

/// The steps that were torn down, in order.
pub(crate) fn torn_down(trace: &[String]) -> Vec<&str> {
    let steps = trace.iter();
    steps
        .filter_map(|word| word.strip_prefix("teardown "))
        .collect()
}

/// The number of the worker with this pid.
#[track_caller]
pub(crate) fn worker_of(service: &Service, pid: u32) -> u64 {
    let forked = service.event_where("worker-forked", |event| event.number("worker_pid") == pid);
    forked.worker().expect("its number")
}
