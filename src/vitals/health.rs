//! What a load balancer is told.

use std::time::Duration;

use super::is_sampler;
use crate::status::{Lease, PayloadState, Scope, Status};

/// What this worker is, and how to say it in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) is_well: bool,
    pub(super) says: String,
}

/// Whether everything that should run in the worker `pid` does. It takes requests as well without a sampler somewhere
/// else, or with one that is not heard: that is said, and is no reason to send it none.
pub(super) fn of(status: &Status, pid: u32, silent: Duration, patience: Duration) -> Health {
    let own = status.workers.iter().filter(|worker| worker.pid == pid);
    for payload in own.flat_map(|worker| &worker.payloads) {
        let waits = payload.scope != Scope::Worker && payload.state == PayloadState::Waiting;
        if !waits && !matches!(payload.state, PayloadState::Running | PayloadState::Done) {
            return Health {
                is_well: false,
                says: format!("payload '{}' does not run", payload.name),
            };
        }
    }
    let mut leases = status.leases.iter();
    let lease = leases.find(|lease| is_sampler(&lease.payload));
    let failing = lease.and_then(Lease::trouble);
    let Some(holder) = lease.and_then(|lease| lease.holder.as_ref()) else {
        let nobody = "nobody samples at the moment".to_owned();
        return Health {
            is_well: true,
            says: format!("ok; {}", failing.unwrap_or(nobody)),
        };
    };
    // A new holder has not had the time to be heard.
    let (silent, patience) = (silent.as_secs_f64(), patience.as_secs_f64());
    if holder.since.min(silent) <= patience {
        return Health {
            is_well: true,
            says: "ok".to_owned(),
        };
    }
    let sampler = format!(
        "the sampler, in worker {}, has been silent for {silent:.0} s",
        holder.slot
    );
    let is_well = holder.pid != pid;
    Health {
        is_well,
        says: if is_well {
            format!("ok; {sampler}")
        } else {
            sampler
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vitals::fixture::status;

    const PATIENCE: Duration = Duration::from_secs(8);

    fn health(change: impl FnOnce(&mut Status), silent: u64) -> (bool, String) {
        let mut status = status(7);
        change(&mut status);
        let health = of(&status, 7, Duration::from_secs(silent), PATIENCE);
        (health.is_well, health.says)
    }

    fn ok(says: &str) -> (bool, String) {
        (true, says.to_owned())
    }

    #[test]
    fn a_silent_sampler_is_the_fault_of_its_own_worker_alone() {
        let elsewhere = |status: &mut Status| {
            if let Some(holder) = &mut status.leases[0].holder {
                (holder.pid, holder.slot) = (8, 3);
            }
        };
        assert_eq!(health(|_| {}, 8), ok("ok"));
        assert_eq!(health(elsewhere, 8), ok("ok"));
        let silent = "has been silent for 9 s";
        assert_eq!(
            health(|_| {}, 9),
            (false, format!("the sampler, in worker 0, {silent}"))
        );
        assert_eq!(
            health(elsewhere, 9),
            ok(&format!("ok; the sampler, in worker 3, {silent}"))
        );
    }

    #[test]
    fn a_sampler_that_has_just_begun_has_time_to_be_heard() {
        let new = |status: &mut Status| {
            if let Some(holder) = &mut status.leases[0].holder {
                holder.since = 1.0;
            }
        };
        assert_eq!(health(new, 60), ok("ok"));
    }

    #[test]
    fn nobody_is_at_fault_where_nobody_samples() {
        let none = ok("ok; nobody samples at the moment");
        assert_eq!(health(|status| status.leases[0].holder = None, 60), none);
        assert_eq!(health(|status| status.leases.clear(), 60), none);
        let fails = |status: &mut Status| {
            let lease = &mut status.leases[0];
            (lease.holder, lease.failures, lease.again_in) = (None, 3, Some(2.0));
        };
        let said = health(fails, 60);
        assert!(said.0 && said.1.starts_with("ok; nobody runs payload 'sampler': "));
        assert!(said.1.contains("3 times in a row"), "{said:?}");
    }

    #[test]
    fn it_is_found_where_the_app_is_mounted_too() {
        let mounted = |status: &mut Status| status.leases[0].payload = "/admin: sampler".to_owned();
        assert!(!health(mounted, 9).0);
    }

    #[test]
    fn every_payload_of_this_worker_has_to_run_and_no_other_one() {
        let restarts =
            |status: &mut Status| status.workers[0].payloads[0].state = PayloadState::Restarting;
        assert_eq!(
            health(restarts, 0),
            (false, "payload 'sampler' does not run".to_owned())
        );
        let of_another = |status: &mut Status| {
            restarts(status);
            status.workers[0].pid = 8;
        };
        assert_eq!(health(of_another, 0), ok("ok"));
        let waits =
            |status: &mut Status| status.workers[0].payloads[0].state = PayloadState::Waiting;
        assert_eq!(health(waits, 0), ok("ok"), "another one has the lease");
    }
}
