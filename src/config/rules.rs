//! Combinations of settings that cannot mean anything.

use std::time::Duration;

use super::origin::{Origin, Problem};
use super::report::Entry;
use super::{Config, Surroundings, Timeouts, show_duration};
use crate::systemd::unit::Limits;

/// The complaints about a configuration whose single values are fine. A setting that has a complaint of
/// its own is left out.
pub(super) fn check(config: &Config, entries: &[Entry]) -> Vec<Problem> {
    let clash = |first, relation: &str, second, cure: &str| {
        complain(entries, first, relation, second, cure)
    };
    let mut problems = Vec::new();
    if config.restart.backoff_initial > config.restart.backoff_max {
        problems.extend(clash(
            "restart.backoff_initial",
            "is longer than",
            "restart.backoff_max",
            "lower the first or raise the second",
        ));
    }
    if config.recycle.max_requests_jitter > 0 && config.recycle.max_requests.is_none() {
        problems.extend(clash(
            "recycle.max_requests_jitter",
            "has nothing to add to, with",
            "recycle.max_requests",
            "set the second, or leave the first out",
        ));
    }
    let (graceful, cleanup) = (config.timeouts.graceful, config.timeouts.cleanup);
    if cleanup == Some(Duration::ZERO) && graceful != Some(Duration::ZERO) {
        problems.extend(clash(
            "timeouts.cleanup",
            "would break off every teardown after waiting for requests, with",
            "timeouts.graceful",
            "give the first some time, or make both 0 to stop at once",
        ));
    }
    problems
}

/// The complaints about a configuration that does not go with where the service runs.
pub(super) fn check_against(
    config: &Config,
    entries: &[Entry],
    surroundings: Surroundings,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    if surroundings.watched {
        problems.extend(check_watched(config, entries));
    }
    if surroundings.own_sockets && config.idle_exit.is_some() {
        problems.extend(check_kept(entries));
    }
    problems
}

/// A socket that was bound here is gone with the service, and no connection could start it again.
fn check_kept(entries: &[Entry]) -> Option<Problem> {
    let entry = entries.iter().find(|entry| entry.key == "idle_exit")?;
    let text = format!(
        "idle_exit = {} needs sockets that systemd keeps, and none was passed: nobody could reach the service once \
         it has left; start it by its socket unit, or set idle_exit = \"off\"",
        entry.shown.text
    );
    Some(Problem::new(entry.origin.clone(), text).beyond_the_flag())
}

/// The complaints about a configuration whose service a manager watches: WATCHDOG=1 would say that all is well
/// about a worker that is stuck for ever, since nothing else looks for it.
fn check_watched(config: &Config, entries: &[Entry]) -> Vec<Problem> {
    let timeouts = &config.timeouts;
    let limits = [
        ("timeouts.heartbeat_boot", timeouts.heartbeat_boot),
        ("timeouts.heartbeat_serving", timeouts.heartbeat_serving),
        ("timeouts.heartbeat_stopping", timeouts.heartbeat_stopping),
    ];
    let unlimited = |key: &str| limits.contains(&(key, None));
    let blamed = entries.iter().filter(|entry| unlimited(&entry.key));
    let problem = |entry: &Entry| {
        let text = format!(
            "{} = unlimited leaves nothing to the watchdog that WATCHDOG_USEC asks for: a worker that is stuck \
             would never be found; give it a limit, or take WatchdogSec= out of the unit",
            entry.key
        );
        // Right by itself: it is the environment that it does not go with.
        Problem::new(entry.origin.clone(), text).beyond_the_flag()
    };
    blamed.map(problem).collect()
}

/// How long a service may take at most; `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Longest {
    pub(crate) start: Option<Duration>,
    pub(crate) stop: Option<Duration>,
}

/// What a start consists of that takes as long as it may: all of the startup, and its unwinding.
const START: [&str; 3] = [
    "timeouts.startup",
    "timeouts.cleanup",
    "timeouts.abort_grace",
];
/// The same for a stop: the last response comes at the last moment, and then somebody is stuck.
const STOP: [&str; 3] = [
    "timeouts.graceful",
    "timeouts.cleanup",
    "timeouts.abort_grace",
];

impl Longest {
    pub(super) fn of(config: &Config) -> Self {
        let timeouts = &config.timeouts;
        let sum = |first: Option<Duration>| {
            Some(first? + timeouts.cleanup? + Timeouts::MARGIN + timeouts.abort_grace)
        };
        Self {
            start: sum(timeouts.startup),
            stop: sum(timeouts.graceful),
        }
    }
}

/// The complaints about deadlines that come after the manager's own, which ends in SIGKILL. That payload asks for
/// more time on a long way is no reason to rely on it.
pub(super) fn check_against_unit(
    config: &Config,
    entries: &[Entry],
    unit: &Limits,
) -> Vec<Problem> {
    let longest = Longest::of(config);
    let mut problems = Vec::new();
    for (what, takes, parts, allowed, key) in [
        (
            "start",
            longest.start,
            START,
            unit.start,
            "TimeoutStartSec=",
        ),
        ("stop", longest.stop, STOP, unit.stop, "TimeoutStopSec="),
    ] {
        let Some(allowed) = allowed.filter(|allowed| takes.is_none_or(|takes| takes > *allowed))
        else {
            continue;
        };
        let part = |key: &&str| entries.iter().find(|entry| entry.key == *key);
        let mut parts = parts.iter().filter_map(part);
        let sum: Vec<String> = parts
            .clone()
            .map(|entry| format!("{} = {}", entry.key, entry.shown.text))
            .collect();
        // Somebody has set it, or it comes first.
        let set = parts.clone().find(|entry| entry.origin != Origin::Default);
        let Some(blamed) = set.or_else(|| parts.next()) else {
            continue;
        };
        let text = format!(
            "a {what} may take {}: {}, and {} until a stuck worker is given up; {} allows {} ({key}); lower the \
             first or raise the second",
            takes.map_or_else(|| "for ever".to_owned(), show_duration),
            sum.join(", "),
            show_duration(Timeouts::MARGIN),
            unit.unit,
            show_duration(allowed),
        );
        problems.push(Problem::new(blamed.origin.clone(), text).beyond_the_flag());
    }
    problems
}

/// The place is that of the first of the two that somebody has set.
fn complain(
    entries: &[Entry],
    first: &str,
    relation: &str,
    second: &str,
    cure: &str,
) -> Option<Problem> {
    let sound = |key| {
        entries
            .iter()
            .find(|entry| entry.key == key && !entry.doubtful)
    };
    let (first, second) = (sound(first)?, sound(second)?);
    let (blamed, other) = if first.origin == Origin::Default {
        (second, first)
    } else {
        (first, second)
    };
    let name = |entry: &Entry| {
        let from = if std::ptr::eq(entry, other) {
            format!(" ({})", entry.origin)
        } else {
            String::new()
        };
        format!("{} = {}{from}", entry.key, entry.shown.text)
    };
    let text = format!("{} {relation} {}; {cure}", name(first), name(second));
    Some(Problem::new(blamed.origin.clone(), text))
}
