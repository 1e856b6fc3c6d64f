//! Which workers should give connections to which others, by numbers alone.
//!
//! New connections are dealt out evenly, but a new worker begins with none, and long connections do not end. So
//! the difference is moved, open. Not every connection can move (HTTP/2 and WebSocket cannot, a busy one has to
//! wait): a worker that has given nothing is left alone for a while, each time longer.

use std::collections::BTreeMap;
use std::time::Duration;

use super::core::WorkerId;
use crate::moment::Moment;

/// Workers may differ by this many connections, or by this part of the mean.
const SLACK: u64 = 4;
const PART: u64 = 32;
/// At most so many connections in one go, so that a worker does not spend its time on nothing else.
const MOST: u64 = 500;
/// How long a worker that could give nothing is left alone, at first and at most.
const REST: Duration = Duration::from_secs(2);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// What the scoreboard says of a worker that serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) worker: WorkerId,
    /// Open connections.
    pub(super) connections: u64,
    /// Connections that it has given to others in its life.
    pub(super) given: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) from: WorkerId,
    pub(super) to: WorkerId,
    pub(super) count: u32,
}

/// Remembers what was tried.
#[derive(Debug, Default)]
pub(super) struct Balance {
    tried: BTreeMap<WorkerId, Attempt>,
    /// The last look found workers that differ too much.
    suspected: bool,
}

#[derive(Debug)]
struct Attempt {
    /// Connections that the worker had given before.
    given: u64,
    /// What comes of it is not known yet.
    open: bool,
    /// In vain so often.
    failures: u32,
    rest_until: Moment,
}

impl Balance {
    /// What to move now. `urgent`: there is a reason for the difference. Without one it must be there at two looks,
    /// since counts of short connections differ at any moment.
    pub(super) fn look(&mut self, now: Moment, loads: &[Load], urgent: bool) -> Vec<Move> {
        self.learn(now, loads);
        let confirmed = std::mem::replace(&mut self.suspected, is_uneven(loads));
        if !(self.suspected && (confirmed || urgent)) {
            return Vec::new();
        }
        let rests = |worker| {
            self.tried
                .get(&worker)
                .is_some_and(|attempt| attempt.rest_until > now)
        };
        let moves = level(loads, rests);
        for Move { from, .. } in &moves {
            let given = loads.iter().find(|load| load.worker == *from);
            let attempt = self.tried.entry(*from).or_insert(Attempt {
                given: 0,
                open: true,
                failures: 0,
                rest_until: now,
            });
            attempt.given = given.map_or(0, |load| load.given);
            attempt.open = true;
        }
        moves
    }

    fn learn(&mut self, now: Moment, loads: &[Load]) {
        self.tried.retain(|worker, attempt| {
            let Some(load) = loads.iter().find(|load| load.worker == *worker) else {
                return false;
            };
            if load.given > attempt.given {
                return false;
            }
            if std::mem::take(&mut attempt.open) {
                let rest = REST * 2u32.saturating_pow(attempt.failures);
                attempt.rest_until = now + rest.min(LONGEST_REST);
                attempt.failures = attempt.failures.saturating_add(1).min(16);
            }
            true
        });
    }
}

fn mean(loads: &[Load]) -> u64 {
    let total: u64 = loads.iter().map(|load| load.connections).sum();
    total / (loads.len() as u64).max(1)
}

fn is_uneven(loads: &[Load]) -> bool {
    let counts = || loads.iter().map(|load| load.connections);
    let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
    most - least > SLACK.max(mean(loads) / PART)
}

/// Moves from those above the mean to those below it, the largest differences first.
fn level(loads: &[Load], rests: impl Fn(WorkerId) -> bool) -> Vec<Move> {
    let mean = mean(loads);
    // One above the mean is where the remainder of the division has to be.
    let mut rich: Vec<_> = loads
        .iter()
        .filter(|load| load.connections > mean + 1 && !rests(load.worker))
        .map(|load| (load.connections - mean - 1, load.worker))
        .collect();
    let mut poor: Vec<_> = loads
        .iter()
        .filter(|load| load.connections < mean)
        .map(|load| (mean - load.connections, load.worker))
        .collect();
    rich.sort_unstable_by(|a, b| b.cmp(a));
    poor.sort_unstable_by(|a, b| b.cmp(a));
    let mut moves = Vec::new();
    for (mut surplus, from) in rich {
        let mut left = MOST;
        for (wanted, to) in &mut poor {
            let count = surplus.min(*wanted).min(left);
            if count > 0 {
                surplus -= count;
                *wanted -= count;
                left -= count;
                moves.push(Move {
                    from,
                    to: *to,
                    count: u32::try_from(count).unwrap_or(u32::MAX),
                });
            }
        }
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(counts: &[u64]) -> Vec<Load> {
        let workers = (1..).zip(counts);
        workers
            .map(|(worker, connections)| Load {
                worker: WorkerId(worker),
                connections: *connections,
                given: 0,
            })
            .collect()
    }

    fn at(seconds: u64) -> Moment {
        Moment::default() + Duration::from_secs(seconds)
    }

    fn after(loads: &[Load], moves: &[Move]) -> Vec<u64> {
        let count = |load: &Load| {
            let sum = |of: fn(&Move) -> WorkerId| -> u64 {
                let mine = moves.iter().filter(|one| of(one) == load.worker);
                mine.map(|one| u64::from(one.count)).sum()
            };
            load.connections + sum(|one| one.to) - sum(|one| one.from)
        };
        loads.iter().map(count).collect()
    }

    #[test]
    fn a_new_worker_gets_its_share() {
        let loads = loads(&[256, 256, 0]);
        let moves = Balance::default().look(at(0), &loads, true);
        assert_eq!(after(&loads, &moves), [171, 171, 170]);
    }

    #[test]
    fn however_they_differ_they_do_not_differ_by_more_than_two_afterwards() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..1_000 {
            let counts: Vec<u64> = (0..random.usize(2..9))
                .map(|_| random.u64(0..200))
                .collect();
            let loads = loads(&counts);
            let moves = level(&loads, |_| false);
            let after = after(&loads, &moves);
            assert_eq!(after.iter().sum::<u64>(), counts.iter().sum::<u64>());
            let spread = after.iter().max().unwrap() - after.iter().min().unwrap();
            // Rounding down leaves a remainder with whoever had it.
            assert!(spread <= counts.len() as u64, "{counts:?} became {after:?}");
            assert!(moves.len() < counts.len());
        }
    }

    #[test]
    fn few_differences_and_those_of_a_moment_move_nothing() {
        let mut balance = Balance::default();
        assert_eq!(balance.look(at(0), &loads(&[4, 0]), true), []);
        assert_eq!(balance.look(at(2), &loads(&[1_000, 1_030]), true), []);
        assert_eq!(balance.look(at(4), &loads(&[50, 10]), false), []);
        assert_eq!(balance.look(at(6), &loads(&[30, 30]), false), []);
        assert_eq!(balance.look(at(8), &loads(&[50, 10]), false), []);
        assert_eq!(balance.look(at(10), &loads(&[50, 10]), false).len(), 1);
        assert_eq!(balance.look(at(12), &loads(&[]), false), []);
        assert_eq!(balance.look(at(14), &loads(&[9]), true), []);
    }

    #[test]
    fn a_worker_that_can_give_nothing_is_asked_less_and_less_often() {
        let mut balance = Balance::default();
        let stuck = loads(&[100, 0, 0]);
        let asked: Vec<u64> = (0..300)
            .filter(|second| !balance.look(at(*second), &stuck, true).is_empty())
            .collect();
        assert_eq!(asked, [0, 3, 8, 17, 34, 67, 128, 189, 250]);
    }

    #[test]
    fn one_that_gives_is_asked_again_at_once_and_a_stuck_one_does_not_stop_it() {
        let mut balance = Balance::default();
        let mut loads = loads(&[1_500, 1_500, 0, 0]);
        let froms = |moves: &[Move]| -> Vec<u64> {
            let mut froms: Vec<u64> = moves.iter().map(|one| one.from.0).collect();
            froms.dedup();
            froms
        };
        let first = balance.look(at(0), &loads, true);
        assert_eq!(froms(&first), [2, 1]);
        assert!(first.iter().all(|one| u64::from(one.count) <= MOST));
        loads[0].given = 500;
        loads[0].connections = 1_000;
        loads[2].connections = 500;
        let second = balance.look(at(1), &loads, false);
        assert_eq!(froms(&second), [1], "the other one rests");
    }
}
