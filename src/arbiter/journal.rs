//! The core's notices as lifecycle events.

use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::core::{Cause, Fatal, Notice, WorkerId};
use super::state::Program;
use crate::ipc::orders::{Level, Recycle};
use crate::lifecycle;
use crate::logs::events::Event;
use crate::sockets::Listener;

pub(super) fn forked(worker: WorkerId, slot: u16, generation: u32, pid: u32, cause: Cause) {
    lifecycle!(
        Event::WorkerForked,
        payload_worker = worker.0,
        payload_slot = slot,
        payload_generation = generation,
        worker_pid = pid,
        cause = cause.name(),
        "worker forked"
    );
}

pub(super) fn signal(signal: Signal, from: u32) {
    lifecycle!(
        Event::SignalReceived,
        signal = signal.as_str(),
        from_pid = from,
        "signal received"
    );
}

pub(super) fn kept(kept: usize, closed: usize, reason: Option<&str>) {
    lifecycle!(
        Event::ConnectionsKept,
        kept,
        closed,
        reason,
        "connections are kept over the restart"
    );
}

pub(super) fn deposits_stored(kept: usize, lost: usize) {
    lifecycle!(
        Event::PayloadsKept,
        kept,
        lost,
        "what payloads have kept goes into the file descriptor store"
    );
}

pub(super) fn adopted(adopted: usize, closed: usize) {
    lifecycle!(
        Event::ConnectionsAdopted,
        adopted,
        closed,
        "connections of the service's last run were taken over"
    );
}

/// What was kept before stays.
pub(super) fn not_kept(worker: WorkerId, error: &io::Error) {
    tracing::error!(
        payload_worker = worker.0,
        error = %error,
        "what a payload keeps could not be taken over"
    );
}

pub(super) fn starting(workers: usize) {
    lifecycle!(
        Event::ServiceStarting,
        workers,
        "the service starts its workers"
    );
}

pub(super) fn socket(listener: &Listener) {
    lifecycle!(
        Event::SocketAcquired,
        socket = listener.name.as_str(),
        address = %listener.address,
        origin = listener.origin.name(),
        "listening"
    );
}

/// The program may be the same as before: a reload executes what is on disk. `took`: how long the arbiter has neither
/// heard nor said anything.
pub(super) fn image(program: &Program, direction: &str, took: Option<Duration>) {
    lifecycle!(
        Event::ImageChanged,
        direction,
        program = %program.path.display(),
        seconds = took.map(|took| took.as_secs_f64()),
        "the arbiter goes on in a new image"
    );
}

pub(super) fn killed(worker: WorkerId, slot: u32, generation: u32, pid: u32) {
    lifecycle!(
        Event::WorkerKilled,
        payload_worker = worker.0,
        payload_slot = slot,
        payload_generation = generation,
        worker_pid = pid,
        "worker gets SIGKILL: its cleanup is skipped"
    );
}

pub(super) fn write(notice: &Notice, generation: u32) {
    match notice {
        Notice::BootFailed(Fatal::Boot {
            worker,
            slot,
            reason,
        }) => lifecycle!(
            Event::BootFailed,
            payload_worker = worker.0,
            payload_slot = slot,
            payload_generation = generation,
            reason = reason.as_str(),
            "the service cannot start: a worker failed"
        ),
        Notice::BootFailed(Fatal::Fork { slot, error }) => lifecycle!(
            Event::BootFailed,
            payload_slot = slot,
            payload_generation = generation,
            reason = error.as_str(),
            "the service cannot start: the system refused a process; look at TasksMax= and RLIMIT_NPROC"
        ),
        Notice::ForkFailed { slot, error } => lifecycle!(
            Event::ForkFailed,
            payload_slot = slot,
            payload_generation = generation,
            reason = error.as_str(),
            "no worker could be forked; if the system refused it, look at TasksMax= and RLIMIT_NPROC"
        ),
        Notice::WorkerExited {
            worker,
            slot,
            generation,
            phase,
            exit,
            expected,
            reason,
        } => {
            // Told to leave, and killed on its way: that is a failure too.
            let well = *expected && reason.is_none() && exit.is_clean();
            let (worker, exit) = (worker.0, exit.to_string());
            let reason = reason.as_deref();
            if well {
                lifecycle!(
                    Event::WorkerExited,
                    payload_worker = worker,
                    payload_slot = slot,
                    payload_generation = generation,
                    phase = phase.name(),
                    exit,
                    "worker exited"
                );
            } else {
                lifecycle!(
                    Event::WorkerFailed,
                    payload_worker = worker,
                    payload_slot = slot,
                    payload_generation = generation,
                    phase = phase.name(),
                    exit,
                    reason,
                    "worker ended and had not been told to, or ended badly"
                );
            }
        }
        Notice::BackingOff {
            slot,
            failures,
            delay,
        } => lifecycle!(
            Event::WorkerBackoff,
            payload_slot = slot,
            payload_generation = generation,
            failures,
            delay_seconds = delay.as_secs_f64(),
            "the slot waits before its next worker"
        ),
        Notice::Recycling {
            worker,
            slot,
            cause,
        } => {
            let sentence = match cause {
                Recycle::Slots => {
                    "worker is being replaced: one of its payloads has to begin anew with another number of slots"
                }
                Recycle::Requests | Recycle::Age | Recycle::Memory => {
                    "worker has reached a limit and is being replaced"
                }
            };
            lifecycle!(
                Event::Recycle,
                payload_worker = worker.0,
                payload_slot = slot,
                payload_generation = generation,
                cause = cause.name(),
                "{sentence}"
            );
        }
        Notice::Replaced { slot, old, new } => lifecycle!(
            Event::WorkerReplaced,
            payload_worker = new.0,
            payload_slot = slot,
            payload_generation = generation,
            replaced_worker = old.0,
            "worker has taken over its slot"
        ),
        Notice::LeaseGranted {
            lease,
            worker,
            epoch,
            gap,
            kept,
        } => lifecycle!(
            Event::LeaseGranted,
            payload = lease.payload.as_str(),
            lease_slot = lease.slot,
            payload_worker = worker.0,
            epoch,
            gap_seconds = gap.as_secs_f64(),
            kept_bytes = kept,
            "worker has got the lease of a payload"
        ),
        Notice::LeaseRevoked {
            lease,
            worker,
            epoch,
        } => lifecycle!(
            Event::LeaseRevoked,
            payload = lease.payload.as_str(),
            lease_slot = lease.slot,
            payload_worker = worker.0,
            epoch,
            "worker is to give the lease of a payload back"
        ),
        Notice::LeaseReleased {
            lease,
            worker,
            epoch,
            how,
            held,
        } => lifecycle!(
            Event::LeaseReleased,
            payload = lease.payload.as_str(),
            lease_slot = lease.slot,
            payload_worker = worker.0,
            epoch,
            cause = how,
            held_seconds = held.as_secs_f64(),
            "the lease of a payload is free"
        ),
        Notice::LeasePauses {
            lease,
            failures,
            delay,
        } => lifecycle!(
            Event::LeasePauses,
            payload = lease.payload.as_str(),
            lease_slot = lease.slot,
            failures,
            delay_seconds = delay.as_secs_f64(),
            "the lease of a payload waits before it is granted again"
        ),
        Notice::SlotCount { from, to } => lifecycle!(
            Event::SlotCountChanged,
            from,
            to,
            "the number of workers changes"
        ),
        Notice::SlotCountRefused { wanted } => lifecycle!(
            Event::SlotCountRefused,
            wanted,
            "that many workers are not possible"
        ),
        Notice::ReloadStarted => lifecycle!(
            Event::ReloadStarted,
            payload_generation = generation,
            "a reload has begun"
        ),
        Notice::Reloaded { workers, took } => lifecycle!(
            Event::Reloaded,
            payload_generation = generation,
            workers,
            seconds = took.as_secs_f64(),
            "the new generation has taken over"
        ),
        Notice::ReloadFailed { reason, took } => lifecycle!(
            Event::ReloadFailed,
            payload_generation = generation,
            reason = reason.as_str(),
            seconds = took.as_secs_f64(),
            "the reload failed: the generation before it serves on"
        ),
        Notice::Ready { workers } => lifecycle!(
            Event::ServiceReady,
            payload_generation = generation,
            workers,
            "every worker serves"
        ),
        Notice::Degraded {
            serving,
            workers,
            crashes,
            too_many,
            failing,
            withheld,
        } => {
            let sentence = match (failing, withheld, too_many) {
                (Some(_), ..) => {
                    "the service is degraded: nobody runs a payload, it fails wherever it is"
                }
                (None, true, _) => {
                    "the service is degraded: payloads wait for the end of an earlier life of it"
                }
                (None, false, true) => "the service is degraded: workers fail too often",
                (None, false, false) => "the service is degraded: not every worker serves",
            };
            let lease = failing.as_ref().map(|(lease, ..)| lease);
            let delay = failing.as_ref().and_then(|(.., delay)| *delay);
            lifecycle!(
                Event::ServiceDegraded,
                serving,
                workers,
                crashes,
                payload = lease.map(|lease| lease.payload.as_str()),
                lease_slot = lease.and_then(|lease| lease.slot),
                failures = failing.as_ref().map(|(_, failures, _)| *failures),
                delay_seconds = delay.map(|delay| delay.as_secs_f64()),
                leases = withheld.then_some("withheld"),
                "{sentence}"
            );
        }
        Notice::Recovered { workers } => lifecycle!(
            Event::ServiceRecovered,
            workers,
            "the service has recovered"
        ),
        Notice::Idle { idle } => lifecycle!(
            Event::ServiceIdle,
            idle_seconds = idle.as_secs_f64(),
            "nobody has needed the service: it leaves, and the next connection starts it"
        ),
        Notice::Stopping {
            level,
            restarts,
            workers,
        } => lifecycle!(
            Event::ServiceStopping,
            stop = level.name(),
            restart = restarts,
            workers,
            "the service stops"
        ),
        Notice::StopHurried { level, workers } => {
            let sentence = match level {
                Level::Kill => "asked again: workers are killed, their cleanup is skipped",
                _ => "asked again: requests are cancelled, cleanup still runs",
            };
            lifecycle!(
                Event::StopHurried,
                stop = level.name(),
                workers,
                "{sentence}"
            );
        }
        Notice::Stopped { code } => lifecycle!(
            Event::ServiceStopped,
            exit_code = *code as u8,
            "the service has stopped"
        ),
    }
}
