//! Combinations of settings that cannot mean anything.

use std::time::Duration;

use super::Config;
use super::origin::{Origin, Problem};
use super::report::Entry;

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

/// The complaints about a configuration whose service a manager watches: WATCHDOG=1 would say that all is well
/// about a worker that is stuck for ever, since nothing else looks for it.
pub(super) fn check_watched(config: &Config, entries: &[Entry]) -> Vec<Problem> {
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
