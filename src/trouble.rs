//! Payloads that fail and are started again: nobody dies of it, so it has to be seen. And those of which there is one,
//! and nobody runs it.

use std::fmt;
use std::time::Duration;

use crate::config::show_duration;
use crate::lease::FAILING;
use crate::status::{LastFailure, Lease, PayloadState, Worker};

/// So many seconds after a failure a payload that runs again is still worth a word.
const RECENT: f64 = 60.0;
/// Characters of a reason in the one line about the service.
const SHORT: usize = 200;

/// One payload that has failed, over all workers that are there.
#[derive(Debug)]
pub(crate) struct Trouble<'a> {
    pub(crate) payload: &'a str,
    /// In workers that are gone it may have failed as well.
    pub(crate) failures: u64,
    /// The last of them, and in which worker.
    pub(crate) last: Option<(&'a Worker, &'a LastFailure)>,
    /// It waits to be started again, or has failed just now.
    is_acute: bool,
}

/// All of them, by name.
pub(crate) fn all(workers: &[Worker]) -> Vec<Trouble<'_>> {
    let mut found: Vec<Trouble<'_>> = Vec::new();
    for worker in workers {
        for payload in &worker.payloads {
            let waits = payload.state == PayloadState::Restarting;
            let is_over = payload.state == PayloadState::Failed;
            let failures = u64::from(payload.restarts) + u64::from(waits || is_over);
            if failures == 0 {
                continue;
            }
            let last = payload.last_failure.as_ref();
            let is_recent = last.is_some_and(|last| last.ago < RECENT);
            let is_acute = waits || is_recent && payload.state == PayloadState::Running;
            let last = last.map(|last| (worker, last));
            let name = payload.name.as_str();
            match found.iter_mut().find(|trouble| trouble.payload == name) {
                None => found.push(Trouble {
                    payload: name,
                    failures,
                    last,
                    is_acute,
                }),
                Some(trouble) => {
                    trouble.failures += failures;
                    trouble.is_acute |= is_acute;
                    let ago = |last: Option<(_, &LastFailure)>| {
                        last.map_or(f64::MAX, |(_, last)| last.ago)
                    };
                    if ago(last) < ago(trouble.last) {
                        trouble.last = last;
                    }
                }
            }
        }
    }
    found.sort_by_key(|trouble| trouble.payload);
    found
}

/// What the line about the service says of those that fail now, after a semicolon: the one that has failed most, and
/// how many others there are. `None`: there is none.
pub(crate) fn line(workers: &[Worker]) -> Option<String> {
    let mut acute = all(workers);
    acute.retain(|trouble| trouble.is_acute);
    let worst = acute.iter().max_by_key(|trouble| trouble.failures)?;
    let mut line = format!(
        "; payload '{}' has failed {}",
        worst.payload,
        times(worst.failures)
    );
    if let Some((_, last)) = worst.last {
        let reason = last.reason.split_whitespace().collect::<Vec<_>>().join(" ");
        let short: String = reason.chars().take(SHORT).collect();
        let more = if short.len() < reason.len() {
            "…"
        } else {
            ""
        };
        let when = if worst.failures == 1 {
            ":"
        } else {
            ", the last time"
        };
        line.push_str(&format!("{when} it {short}{more}"));
    }
    match acute.len() - 1 {
        0 => {}
        1 => line.push_str("; so has another one"),
        others => line.push_str(&format!("; so have {others} others")),
    }
    Some(line)
}

/// A payload of scope `slot` or `service` that has failed wherever it was.
#[derive(Debug)]
pub(crate) struct Missing<'a> {
    pub(crate) payload: &'a str,
    pub(crate) slot: Option<u32>,
    /// In a row.
    pub(crate) failures: u32,
    pub(crate) next: Attempt,
}

/// When it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Some worker has it, and has not shown yet that it lasts there.
    UnderWay,
    /// After its pause, which takes so long; unless that is not to be told.
    After(Option<Duration>),
    /// When there is a worker for it.
    Waits,
}

impl<'a> Missing<'a> {
    /// `None`: it has not failed in a row.
    pub(crate) fn of(lease: &'a Lease) -> Option<Self> {
        let pause = |left| Duration::try_from_secs_f64(left).unwrap_or_default();
        (lease.failures >= FAILING).then(|| Self {
            payload: &lease.payload,
            slot: lease.slot,
            failures: lease.failures,
            next: match lease.again_in {
                _ if lease.holder.is_some() => Attempt::UnderWay,
                Some(left) => Attempt::After(Some(pause(left))),
                None => Attempt::Waits,
            },
        })
    }
}

impl Lease {
    /// In a sentence: that nobody runs the payload, or that it is only being tried, since it has failed wherever it was.
    /// `None`: it has not failed twice in a row.
    pub fn trouble(&self) -> Option<String> {
        Missing::of(self).map(|missing| missing.to_string())
    }
}

/// `nobody runs payload 'tick': it has failed or lost its worker 5 times in a row, and is tried again in 3s`
impl fmt::Display for Missing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.next != Attempt::UnderWay {
            f.write_str("nobody runs ")?;
        }
        write!(f, "payload '{}'", self.payload)?;
        if let Some(slot) = self.slot {
            write!(f, " of slot {slot}")?;
        }
        if self.next != Attempt::UnderWay {
            f.write_str(": it")?;
        }
        let times = times(u64::from(self.failures));
        write!(f, " has failed or lost its worker {times} in a row, and ")?;
        match self.next {
            Attempt::UnderWay => f.write_str("is being tried again"),
            Attempt::After(None) => f.write_str("pauses"),
            Attempt::After(Some(left)) => {
                // Not before that: in whole seconds.
                let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
                let left = show_duration(Duration::from_secs(seconds.max(1)));
                write!(f, "is tried again in {left}")
            }
            Attempt::Waits => f.write_str("waits for a worker that can run it"),
        }
    }
}

/// `once`, `7 times`.
pub(crate) fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::{reading, scoreboard};
    use crate::moment::Moment;
    use crate::status::{Holder, Scope};

    /// Workers whose payloads `a`, `b` are in these states, restarted so often, and have failed so long ago.
    fn workers(rows: &[[(PayloadState, u32, Option<f64>); 2]]) -> Vec<Worker> {
        let board = scoreboard::create().unwrap();
        let names = ["a", "b"].map(str::to_owned);
        let made = rows.iter().enumerate().map(|(slot, row)| {
            let mut worker = reading::worker(&board.seats[slot], &names, &[], Moment::default());
            for (payload, (state, restarts, ago)) in worker.payloads.iter_mut().zip(row) {
                (payload.state, payload.restarts) = (*state, *restarts);
                let reason = format!("failed:\n no {slot}");
                payload.last_failure = ago.map(|ago| LastFailure { reason, ago });
            }
            worker
        });
        made.collect()
    }

    const WELL: (PayloadState, u32, Option<f64>) = (PayloadState::Running, 0, None);

    #[test]
    fn who_has_failed_once_has_not_failed_again_and_again() {
        assert_eq!(line(&workers(&[[WELL, WELL]])), None);
        let once = (PayloadState::Restarting, 0, Some(0.1));
        let said = line(&workers(&[[WELL, WELL], [once, WELL]])).unwrap();
        assert_eq!(said, "; payload 'a' has failed once: it failed: no 1");
    }

    #[test]
    fn all_workers_count_and_the_last_failure_is_the_reason() {
        let (long, short) = (
            (PayloadState::Restarting, 3, Some(9.0)),
            (PayloadState::Running, 4, Some(2.0)),
        );
        let other = (PayloadState::Restarting, 0, None);
        let said = line(&workers(&[[long, other], [short, WELL]])).unwrap();
        assert_eq!(
            said,
            "; payload 'a' has failed 8 times, the last time it failed: no 1; so has another one"
        );
    }

    #[test]
    fn what_is_over_is_in_the_table_and_not_in_the_line() {
        let (healed, once) = (
            (PayloadState::Running, 7, Some(61.0)),
            (PayloadState::Failed, 0, Some(1.0)),
        );
        let workers = workers(&[[healed, once]]);
        assert_eq!(line(&workers), None);
        let counts = all(&workers)
            .iter()
            .map(|one| one.failures)
            .collect::<Vec<_>>();
        assert_eq!(counts, [7, 1]);
    }

    #[test]
    fn what_nobody_runs_says_when_it_is_tried_again() {
        let mut lease = Lease {
            payload: "tick".to_owned(),
            scope: Scope::Service,
            slot: None,
            holder: None,
            finished: false,
            grants: 3,
            gap: 0.0,
            failures: 1,
            again_in: None,
        };
        assert!(Missing::of(&lease).is_none(), "the first time it moves");
        let said = |lease: &Lease| Missing::of(lease).unwrap().to_string();
        (lease.failures, lease.again_in) = (2, Some(2.1));
        let nobody =
            "nobody runs payload 'tick': it has failed or lost its worker 2 times in a row, and";
        assert_eq!(said(&lease), format!("{nobody} is tried again in 3s"));
        lease.again_in = Some(0.0);
        assert_eq!(said(&lease), format!("{nobody} is tried again in 1s"));
        lease.again_in = None;
        let waits = format!("{nobody} waits for a worker that can run it");
        assert_eq!(said(&lease), waits);
        let mut missing = Missing::of(&lease).unwrap();
        missing.next = Attempt::After(None);
        assert_eq!(missing.to_string(), format!("{nobody} pauses"));
        (lease.slot, lease.holder) = (
            Some(1),
            Some(Holder {
                slot: 1,
                pid: 7,
                generation: 1,
                epoch: 3,
                since: 0.5,
                leaving: false,
            }),
        );
        assert_eq!(
            said(&lease),
            "payload 'tick' of slot 1 has failed or lost its worker 2 times in a row, and is being tried again"
        );
    }

    #[test]
    fn a_long_reason_is_cut() {
        let mut workers = workers(&[[(PayloadState::Restarting, 1, Some(0.0)), WELL]]);
        if let Some(last) = &mut workers[0].payloads[0].last_failure {
            last.reason = "x".repeat(1_000);
        }
        let said = line(&workers).unwrap();
        assert!(said.ends_with("x…") && said.len() < 300, "{said}");
    }
}
