//! `payload status` for people.

use std::fmt::Write as _;

use crate::status::{Lease, Payload, PayloadState, ServiceState, Status};
use crate::trouble::{self, Trouble};

/// A few lines: the arbiter, a table of the workers with their payloads, the sockets.
pub(crate) fn of(status: &Status) -> String {
    let arbiter = &status.arbiter;
    let mut text = format!(
        "{} arbiter, pid {}, up {}, payload {}\n{}\n\n",
        state(arbiter.state),
        arbiter.pid,
        span(arbiter.uptime),
        arbiter.version,
        arbiter.status
    );
    let mut rows = vec![
        [
            "SLOT",
            "PID",
            "GEN",
            "PHASE",
            "SINCE",
            "CONNS",
            "IN FLIGHT",
            "REQUESTS",
            "MEMORY",
            "RESTARTS",
            "LOADS/STARTS/STOPS",
            "PAYLOADS",
        ]
        .map(str::to_owned),
    ];
    for worker in &status.workers {
        let payloads: Vec<String> = worker.payloads.iter().map(payload).collect();
        rows.push([
            worker.slot.to_string(),
            worker.pid.to_string(),
            worker.generation.to_string(),
            worker.phase.clone(),
            span(worker.since),
            worker.connections.to_string(),
            worker.in_flight.to_string(),
            worker.requests.to_string(),
            size(worker.memory),
            worker.restarts.to_string(),
            format!("{}/{}/{}", worker.loads, worker.starts, worker.stops),
            payloads.join(" "),
        ]);
    }
    text.push_str(&table(&rows));
    text.push('\n');
    for socket in &status.sockets {
        let _ = writeln!(
            text,
            "socket {} {} ({})",
            socket.name, socket.address, socket.origin
        );
    }
    for trouble in trouble::all(&status.workers) {
        let _ = writeln!(text, "{}", of_trouble(&trouble));
    }
    for lease in &status.leases {
        let _ = writeln!(text, "{}", of_lease(lease));
    }
    text
}

/// `tick:running`, `tick:restarting(7×)` where it was started again.
fn payload(payload: &Payload) -> String {
    let (name, state) = (&payload.name, payload_state(payload.state));
    match payload.restarts {
        0 => format!("{name}:{state}"),
        restarts => format!("{name}:{state}({restarts}×)"),
    }
}

/// `payload tick has failed 7 times, 3s ago in slot 0, pid 4711: failed: connection refused`
fn of_trouble(trouble: &Trouble<'_>) -> String {
    let (name, times) = (trouble.payload, trouble::times(trouble.failures));
    let last = trouble.last.map_or_else(String::new, |(worker, last)| {
        let (ago, slot, pid) = (span(last.ago), worker.slot, worker.pid);
        let reason = last.reason.replace('\n', " ");
        format!(", {ago} ago in slot {slot}, pid {pid}: {reason}")
    });
    format!("payload {name} has failed {times}{last}")
}

/// `lease scheduler (service) pid 4711, slot 0, for 4m 05s; granted 3 times, the last gap 0.002 s`
fn of_lease(lease: &Lease) -> String {
    let scope = match lease.slot {
        Some(slot) => format!("slot {slot}"),
        None => "service".to_owned(),
    };
    let place = match &lease.holder {
        Some(holder) => {
            let leaving = if holder.leaving {
                ", about to give it back"
            } else {
                ""
            };
            let (pid, slot, since) = (holder.pid, holder.slot, span(holder.since));
            format!("pid {pid}, slot {slot}, for {since}{leaving}")
        }
        None if lease.finished => "finished".to_owned(),
        None => match lease.again_in {
            Some(left) => format!("NOBODY, again in {}", span(left.ceil())),
            None => "NOBODY".to_owned(),
        },
    };
    let failures = match lease.failures {
        0 => String::new(),
        count => format!(", failed {} in a row", trouble::times(count.into())),
    };
    let grants = trouble::times(lease.grants);
    format!(
        "lease {} ({scope}) {place}{failures}; granted {grants}, the last gap {:.3} s",
        lease.payload, lease.gap
    )
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    });
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn state(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Booting => "booting",
        ServiceState::Ready => "ready",
        ServiceState::Degraded => "DEGRADED",
        ServiceState::Reloading => "reloading",
        ServiceState::Stopping => "stopping",
    }
}

fn payload_state(state: PayloadState) -> &'static str {
    match state {
        PayloadState::Waiting => "waiting",
        PayloadState::Running => "running",
        PayloadState::Restarting => "restarting",
        PayloadState::Done => "done",
        PayloadState::Failed => "FAILED",
    }
}

/// `3s`, `4m 05s`, `2h 07m`, `3d 04h`.
fn span(seconds: f64) -> String {
    let whole = std::time::Duration::try_from_secs_f64(seconds)
        .unwrap_or_default()
        .as_secs();
    match whole {
        0..60 => format!("{whole}s"),
        60..3_600 => format!("{}m {:02}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h {:02}m", whole / 3_600, whole / 60 % 60),
        _ => format!("{}d {:02}h", whole / 86_400, whole / 3_600 % 24),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0 => "-".to_owned(),
        1..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes & 0xF_FFFF) * 10) >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_read_well() {
        assert_eq!(span(0.4), "0s");
        assert_eq!(span(245.0), "4m 05s");
        assert_eq!(span(7_620.0), "2h 07m");
        assert_eq!(span(273_600.0), "3d 04h");
        assert_eq!(span(-1.0), "0s");
        assert_eq!(size(0), "-");
        assert_eq!(size(3_407_872), "3.2 MiB");
    }

    #[test]
    fn a_lease_says_who_has_it() {
        let mut lease = Lease {
            payload: "scheduler".to_owned(),
            scope: crate::status::Scope::Service,
            slot: None,
            holder: Some(crate::status::Holder {
                slot: 0,
                pid: 4711,
                generation: 1,
                epoch: 9,
                since: 245.0,
                leaving: false,
            }),
            finished: false,
            grants: 3,
            gap: 0.0021,
            failures: 0,
            again_in: None,
        };
        assert_eq!(
            of_lease(&lease),
            "lease scheduler (service) pid 4711, slot 0, for 4m 05s; granted 3 times, the last gap 0.002 s"
        );
        (lease.holder, lease.slot, lease.grants) = (None, Some(2), 1);
        assert_eq!(
            of_lease(&lease),
            "lease scheduler (slot 2) NOBODY; granted once, the last gap 0.002 s"
        );
        (lease.failures, lease.again_in) = (2, Some(3.4));
        assert_eq!(
            of_lease(&lease),
            "lease scheduler (slot 2) NOBODY, again in 4s, failed 2 times in a row; granted once, the last gap 0.002 s"
        );
    }

    #[test]
    fn columns_line_up() {
        let rows = [["A", "BB"], ["long", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "A     BB\nlong  x\n");
    }
}
