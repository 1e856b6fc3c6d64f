//! Combinations of settings that cannot mean anything.

use std::time::Duration;

use super::origin::{Origin, Problem};
use super::report::Entry;
use super::{Config, Surroundings};

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
