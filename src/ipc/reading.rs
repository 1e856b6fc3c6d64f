//! The scoreboard's numbers in the words of [`crate::status`].

use std::sync::atomic::Ordering::Relaxed;

use super::scoreboard::{Header, Seat};
use crate::moment::Moment;
use crate::status::{Arbiter, Payload, PayloadState, Scope, ServiceState, Worker};

/// What the scoreboard knows of the arbiter.
pub(crate) fn arbiter(header: &Header, at: Moment) -> Arbiter {
    let state = match header.state.load(Relaxed) {
        2 => ServiceState::Ready,
        3 => ServiceState::Degraded,
        4 => ServiceState::Stopping,
        5 => ServiceState::Reloading,
        _ => ServiceState::Booting,
    };
    Arbiter {
        pid: header.arbiter_pid.load(Relaxed),
        state,
        generation: header.generation.load(Relaxed),
        uptime: at
            .since(Moment::from_nanos(header.started.load(Relaxed)))
            .as_secs_f64(),
        workers: header.workers.load(Relaxed),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        status: String::new(),
        log_drops: header.log_drops.load(Relaxed),
    }
}

/// What the scoreboard knows of one worker, whose payloads are these.
pub(crate) fn worker(seat: &Seat, payloads: &[String], scopes: &[Scope], at: Moment) -> Worker {
    Worker {
        worker: seat.worker.load(Relaxed),
        slot: seat.slot.load(Relaxed),
        pid: seat.pid.load(Relaxed),
        generation: seat.generation.load(Relaxed),
        phase: seat
            .phase()
            .map_or("forked", |phase| phase.name())
            .to_owned(),
        since: at
            .since(Moment::from_nanos(seat.phase_since.load(Relaxed)))
            .as_secs_f64(),
        heartbeat: at.since(seat.last_beat()).as_secs_f64(),
        connections: seat.connections.load(Relaxed),
        in_flight: seat.in_flight.load(Relaxed),
        busy: seat.busy.load(Relaxed),
        requests: seat.requests.load(Relaxed),
        accepted: seat.accepted.load(Relaxed),
        given: seat.given.load(Relaxed),
        received: seat.received.load(Relaxed),
        bytes_in: seat.bytes_in.load(Relaxed),
        bytes_out: seat.bytes_out.load(Relaxed),
        panics: seat.panics.load(Relaxed),
        loads: seat.loads.load(Relaxed),
        starts: seat.starts.load(Relaxed),
        stops: seat.stops.load(Relaxed),
        restarts: seat.restarts.load(Relaxed),
        memory: seat.memory.load(Relaxed),
        latency: seat
            .latency
            .iter()
            .map(|bucket| bucket.load(Relaxed))
            .collect(),
        log_drops: seat.log_drops.load(Relaxed),
        payloads: payloads
            .iter()
            .enumerate()
            .map(|(index, name)| Payload {
                name: name.clone(),
                scope: scopes.get(index).copied().unwrap_or_default(),
                state: seat
                    .payload_states
                    .get(index)
                    .map_or(PayloadState::Waiting, |state| {
                        payload_state(state.load(Relaxed))
                    }),
                restarts: seat
                    .payload_restarts
                    .get(index)
                    .map_or(0, |count| count.load(Relaxed)),
                last_failure: None,
            })
            .collect(),
    }
}

fn payload_state(number: u8) -> PayloadState {
    match number {
        2 => PayloadState::Running,
        3 => PayloadState::Restarting,
        4 => PayloadState::Done,
        5 => PayloadState::Failed,
        _ => PayloadState::Waiting,
    }
}
