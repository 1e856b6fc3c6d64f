//! The service as others see it: STATUS= for the manager, and `payload status`.

use super::core::Core;
use super::seats::Children;
use super::shell::now;
use crate::config::show_duration;
use crate::ipc::failures::Failures;
use crate::ipc::reading;
use crate::moment::Moment;
use crate::sockets::Listener;
use crate::status::{ServiceState, Status, Worker};
use crate::sys;
use crate::trouble::{Attempt, Missing};

/// What is counted all the time.
pub(super) struct Counts {
    pub(super) connections: u64,
    pub(super) in_flight: u64,
    /// Those that have not been reaped.
    pub(super) workers: usize,
    /// Connections that are in the manager's store for the next start.
    pub(super) kept: Option<usize>,
    /// What is to be said of payloads that fail.
    pub(super) trouble: Option<String>,
    /// When all of that is so.
    pub(super) at: Moment,
}

/// The service in one line, with live counts if it is to have any.
pub(super) fn line(core: &Core, counts: Option<&Counts>) -> String {
    let (serving, target, generation) = (core.serving(), core.target(), core.generation());
    let workers = format!("{serving}/{target} workers serving, generation {generation}");
    match core.state() {
        ServiceState::Booting => format!("starting: {workers}"),
        ServiceState::Ready | ServiceState::Degraded => {
            let word = if core.state() == ServiceState::Degraded {
                "degraded: "
            } else {
                ""
            };
            let rivals = match core.withholds_leases() {
                true => "; leases wait for the end of an earlier life of this service",
                false => "",
            };
            let missing = missing(core, counts.map(|counts| counts.at));
            let counts = counts.map_or_else(String::new, |counts| {
                let (connections, in_flight) = (counts.connections, counts.in_flight);
                let trouble = counts.trouble.as_deref().unwrap_or_default();
                format!(", {connections} connections, {in_flight} requests in flight{trouble}")
            });
            let failure = core.reload_failure().map_or_else(String::new, |reason| {
                format!("; the last reload failed: {reason}")
            });
            format!("{word}{workers}{counts}{rivals}{missing}{failure}")
        }
        ServiceState::Reloading => {
            let stage = core.reload_stage().unwrap_or("over");
            let counts = counts.map_or_else(String::new, |counts| {
                format!(", {} requests in flight", counts.in_flight)
            });
            format!("reloading ({stage}): {workers}{counts}")
        }
        ServiceState::Stopping if let Some(idle) = core.stops_idle() => {
            let idle = show_duration(idle);
            format!("idle for {idle}: leaving, and the next connection starts the service")
        }
        ServiceState::Stopping => {
            let Some(counts) = counts else {
                return "stopping".to_owned();
            };
            let (left, in_flight) = (left_over(counts.workers), counts.in_flight);
            let left = format!("{left}, {in_flight} requests in flight");
            match counts.kept {
                Some(kept) => format!("stopping for a restart: {left}, {kept} connections kept"),
                None => format!("stopping: {left}"),
            }
        }
    }
}

/// All that have not been reaped, by slot.
pub(super) fn workers(children: &Children, failures: &Failures) -> Vec<Worker> {
    let (at, time) = (now(), sys::clock::unix_seconds());
    let mut workers: Vec<Worker> = children
        .iter()
        .map(|(_, child)| {
            let seat = children.seat(child);
            let mut worker = reading::worker(seat, &child.payloads, &child.scopes, at);
            failures.tell(&mut worker, time);
            worker
        })
        .collect();
    workers.sort_by_key(|worker| (worker.slot, worker.pid));
    workers
}

pub(super) fn status(
    core: &Core,
    children: &Children,
    listeners: &[Listener],
    workers: Vec<Worker>,
    line: &str,
) -> Status {
    let at = now();
    let mut arbiter = reading::arbiter(&children.board.header, at);
    arbiter.state = core.state();
    arbiter.generation = core.generation();
    arbiter.workers = u32::try_from(core.target()).unwrap_or(u32::MAX);
    line.clone_into(&mut arbiter.status);
    let sockets = listeners.iter().map(Listener::shown).collect();
    Status {
        arbiter,
        workers,
        sockets,
        leases: core.leases(at),
    }
}

/// Which payload nobody runs since it fails wherever it is. `at`: with the time until it is tried again.
fn missing(core: &Core, at: Option<Moment>) -> String {
    let Some(failing) = core.failing() else {
        return String::new();
    };
    let missing = Missing {
        payload: &failing.lease.payload,
        slot: failing.lease.slot.map(u32::from),
        failures: failing.failures,
        next: match failing.retry_at {
            _ if failing.is_held => Attempt::UnderWay,
            Some(retry_at) => Attempt::After(at.map(|at| retry_at.since(at))),
            None => Attempt::Waits,
        },
    };
    format!("; {missing}")
}

fn left_over(workers: usize) -> String {
    match workers {
        1 => "1 worker left".to_owned(),
        count => format!("{count} workers left"),
    }
}
