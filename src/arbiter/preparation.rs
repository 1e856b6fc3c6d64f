//! The preload, which blocks the arbiter: what the manager is told about it.

use std::time::{Duration, Instant};

use super::shell::Equipment;
use crate::author::Author;
use crate::config::Config;
use crate::exit::{ExitCode, Failure};
use crate::lifecycle;
use crate::logs::events::Event;
use crate::systemd::notify::Notifier;

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
    // Also the watchdog's time, from systemd 252 to 257 at least; its next sign of life ends that.
    notifier.extend_timeout(config.timeouts.startup.unwrap_or(UNLIMITED));
    let done = author.prepare();
    if notifier.watchdog_interval().is_some() {
        notifier.watchdog();
    }
    if done.is_ok() {
        let took = begun.elapsed().as_secs_f64();
        lifecycle!(Event::Preloaded, took_seconds = took, "the preload is done");
    }
    done
}
