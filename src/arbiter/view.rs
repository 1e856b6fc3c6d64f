//! The service as others see it: STATUS= for the manager, and `payload status`.

use super::core::Core;
use super::seats::Children;
use super::shell::now;
use crate::config::show_duration;
use crate::ipc::reading;
use crate::sockets::Listener;
use crate::status::{ServiceState, Socket, Status, Worker};

/// One line with live counts. `kept`: the connections that are in the manager's store for the next start.
pub(super) fn line(core: &Core, children: &Children, kept: Option<usize>) -> String {
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
            let (connections, in_flight) = (children.connections(), children.in_flight());
            let failure = core.reload_failure().map_or_else(String::new, |reason| {
                format!("; the last reload failed: {reason}")
            });
            format!(
                "{word}{workers}, {connections} connections, {in_flight} requests in flight{failure}"
            )
        }
        ServiceState::Reloading => {
            let stage = core.reload_stage().unwrap_or("over");
            format!(
                "reloading ({stage}): {workers}, {} requests in flight",
                children.in_flight()
            )
        }
        ServiceState::Stopping if let Some(idle) = core.stops_idle() => {
            let idle = show_duration(idle);
            format!("idle for {idle}: leaving, and the next connection starts the service")
        }
        ServiceState::Stopping => {
            let (left, in_flight) = (children.iter().count(), children.in_flight());
            let left = format!("{}, {in_flight} requests in flight", left_over(left));
            match kept {
                Some(kept) => format!("stopping for a restart: {left}, {kept} connections kept"),
                None => format!("stopping: {left}"),
            }
        }
    }
}

pub(super) fn status(
    core: &Core,
    children: &Children,
    listeners: &[Listener],
    line: &str,
) -> Status {
    let at = now();
    let mut workers: Vec<Worker> = children
        .iter()
        .map(|(_, child)| {
            let seat = children.seat(child);
            reading::worker(seat, &child.payloads, &child.scopes, at)
        })
        .collect();
    workers.sort_by_key(|worker| (worker.slot, worker.pid));
    let mut arbiter = reading::arbiter(&children.board.header, at);
    arbiter.state = core.state();
    arbiter.generation = core.generation();
    arbiter.workers = u32::try_from(core.target()).unwrap_or(u32::MAX);
    line.clone_into(&mut arbiter.status);
    let sockets = listeners
        .iter()
        .map(|listener| Socket {
            name: listener.name.clone(),
            address: listener.address.to_string(),
            origin: listener.origin.name().to_owned(),
        })
        .collect();
    Status {
        arbiter,
        workers,
        sockets,
        leases: core.leases(at),
    }
}

fn left_over(workers: usize) -> String {
    match workers {
        1 => "1 worker left".to_owned(),
        count => format!("{count} workers left"),
    }
}
