//! The preload, which blocks the arbiter: what the manager is told about it.

use std::time::{Duration, Instant};

use super::shell::Equipment;
use crate::author::Author;
use crate::config::Config;
use crate::exit::{ExitCode, Failure};
use crate::lifecycle;
use crate::logs::events::Event;
use crate::systemd::notify::{Notifier, Say};

/// For the manager as good as no limit, and a number that it can add to its clock.
const UNLIMITED: Duration = Duration::from_secs(86_400);

/// Prepares the fork of the first workers. A stop that is asked for meanwhile ends the process at once: there is
/// nobody yet whom it would leave behind.
///
/// # Errors
/// The preload failed.
pub(crate) fn begin(equipment: &mut Equipment) -> Result<(), Failure> {
    let Equipment {
        author,
        notifier,
        config,
        signals,
        ..
    } = equipment;
    if author.is_prepared() {
        return Ok(());
    }
    notifier.status("starting: the preload runs");
    let done = signals.let_end(|| run(author.as_mut(), notifier, config));
    done.unwrap_or_else(|error| {
        Err(Failure::new(ExitCode::Os, "set the signal mask").because(error))
    })
}

/// Prepares the fork of workers, if that is not done.
///
/// # Errors
/// The preload failed.
pub(crate) fn prepare(equipment: &mut Equipment) -> Result<(), Failure> {
    let Equipment {
        author,
        notifier,
        config,
        ..
    } = equipment;
    run(author.as_mut(), notifier, config)
}

/// The same for an image that is about to take over.
///
/// # Errors
/// As [`prepare`].
pub(crate) fn run(
    author: &mut dyn Author,
    notifier: &mut Notifier,
    config: &Config,
) -> Result<(), Failure> {
    if author.is_prepared() {
        return Ok(());
    }
    let begun = Instant::now();
    let usual = put_off(notifier, config.timeouts.startup.unwrap_or(UNLIMITED));
    let done = author.prepare();
    if let Some(usual) = usual {
        notifier.send(&[Say::WatchdogLimit(usual), Say::Watchdog]);
    }
    if done.is_ok() {
        let took = begun.elapsed().as_secs_f64();
        lifecycle!(Event::Preloaded, took_seconds = took, "the preload is done");
    }
    done
}

/// Nobody says WATCHDOG=1 meanwhile. Gives back the watchdog's usual limit, if there is a watchdog.
fn put_off(notifier: &mut Notifier, limit: Duration) -> Option<Duration> {
    // The usual one is twice the interval, sd_watchdog_enabled(3).
    let usual = notifier.watchdog_interval().map(|interval| interval * 2);
    let mut says = vec![Say::ExtendTimeout(limit)];
    says.extend(usual.map(|usual| Say::WatchdogLimit(limit + usual)));
    notifier.send(&says);
    usual
}
