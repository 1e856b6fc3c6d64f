//! Payloads that fail and are started again: nobody dies of it, so it has to be seen.

use crate::status::{LastFailure, PayloadState, Worker};

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
    fn a_long_reason_is_cut() {
        let mut workers = workers(&[[(PayloadState::Restarting, 1, Some(0.0)), WELL]]);
        if let Some(last) = &mut workers[0].payloads[0].last_failure {
            last.reason = "x".repeat(1_000);
        }
        let said = line(&workers).unwrap();
        assert!(said.ends_with("x…") && said.len() < 300, "{said}");
    }
}
