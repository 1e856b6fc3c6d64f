//! What the operator can set, and where each value came from.
//!
//! Flags win over the environment, the environment over the file, the file over the defaults. Each
//! setting is one row of the table in [`settings`]; flags, variables, keys, help and the output of
//! `payload config` are made from it.
//!
//! Everything here is a function of its arguments, except [`load`], which reads the file and counts the
//! CPUs.

mod app;
mod author;
mod document;
mod environment;
mod file;
mod forms;
mod layers;
mod origin;
mod report;
mod rules;
mod settings;
mod strict;
mod units;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::exit::Failure;
use crate::sockets::Address;
use crate::systemd::unit;

pub(crate) use app::{AppSettings, app_settings};
pub use author::duration;
pub(crate) use file::Snapshot;
pub(crate) use layers::{Flags, control_path};
pub(crate) use report::Report;
pub(crate) use rules::Longest;
pub(crate) use settings::{SETTINGS, Setting};
pub(crate) use units::show_duration;

use environment::Environment;
use forms::Host;

/// A checked configuration, and where each value came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) report: Report,
    /// To make the same configuration again, whatever is on disk then.
    pub(crate) snapshot: Snapshot,
}

/// Reads and checks the whole configuration of the service called `name`.
///
/// The file is `--config`, else `PAYLOAD_CONFIG`, else `/etc/<name>/<name>.toml`, which may be missing.
///
/// # Errors
/// Everything that is wrong, one line each: [`ExitCode::Usage`](crate::exit::ExitCode::Usage) when only
/// flags are wrong, else [`ExitCode::Config`](crate::exit::ExitCode::Config).
pub(crate) fn load(
    name: &str,
    flags: &Flags,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Failure> {
    let environment = Environment::new(environment);
    let file = file::Choice::new(name, flags, &environment).read();
    layers::resolve(name, flags, &environment, file, &Host::this())
}

impl Loaded {
    /// Checks what the service's surroundings ask of a configuration that is right by itself.
    ///
    /// # Errors
    /// A manager watches the service, and a heartbeat limit is "unlimited"; or nobody keeps its sockets, and
    /// `idle_exit` is set: [`ExitCode::Config`](crate::exit::ExitCode::Config).
    pub(crate) fn check_against(&self, surroundings: Surroundings) -> Result<(), Failure> {
        match rules::check_against(&self.config, &self.report.entries, surroundings) {
            problems if problems.is_empty() => Ok(()),
            problems => Err(origin::failure(problems)),
        }
    }
}

impl Loaded {
    /// Checks that the longest start and the longest stop fit what systemd allows the unit. Gives back how long
    /// they may take.
    ///
    /// # Errors
    /// They may take longer: [`ExitCode::Config`](crate::exit::ExitCode::Config), with the numbers.
    pub(crate) fn check_against_unit(&self, unit: &unit::Limits) -> Result<Longest, Failure> {
        match rules::check_against_unit(&self.config, &self.report.entries, unit) {
            problems if problems.is_empty() => Ok(Longest::of(&self.config)),
            problems => Err(origin::failure(problems)),
        }
    }
}

/// Where a service runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Surroundings {
    /// Its manager asks for WATCHDOG=1.
    pub(crate) watched: bool,
    /// It has no socket but those that it binds itself.
    pub(crate) own_sockets: bool,
}

/// The configuration that was made of `snapshot` before, with the same flags and environment.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_again(
    name: &str,
    flags: &Flags,
    environment: impl Iterator<Item = (OsString, OsString)>,
    snapshot: &Snapshot,
) -> Result<Loaded, Failure> {
    let environment = Environment::new(environment);
    let file = file::Choice::new(name, flags, &environment).remember(snapshot);
    layers::resolve(name, flags, &environment, file, &Host::this())
}

/// The effective settings of one process, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Where to listen when nobody passed a socket.
    pub(crate) listen: Vec<Address>,
    /// The queue of connections that wait for an accept, for sockets that payload binds itself.
    pub(crate) backlog: u32,
    /// How many workers serve. At least 1.
    pub(crate) workers: u16,
    /// Runtime threads in each worker; 1 is a current-thread runtime.
    pub(crate) threads: u16,
    /// Where the control socket is; `None`: there is none.
    pub(crate) control: Option<PathBuf>,
    /// How long nobody must have needed the service before it leaves; `None`: it stays.
    pub(crate) idle_exit: Option<Duration>,
    pub(crate) http: Http,
    pub(crate) timeouts: Timeouts,
    pub(crate) recycle: Recycle,
    pub(crate) restart: Restart,
    pub(crate) reload: Reload,
    pub(crate) log: Log,
    /// The author's own settings, not yet parsed into the author's type.
    pub(crate) app: AppSettings,
}

/// `[http]`: limits of one connection and of one worker.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    /// From the first byte of a request head to its end.
    pub(crate) header_read_timeout: Duration,
    /// How long an idle connection stays open.
    pub(crate) keep_alive_timeout: Duration,
    /// Bytes of one request head.
    pub(crate) max_head_size: usize,
    pub(crate) max_headers: usize,
    /// Connections that one worker holds; beyond it they wait in the backlog.
    pub(crate) max_connections: usize,
    /// HTTP/2: concurrent streams of one connection.
    pub(crate) max_streams: u32,
}

/// `[timeouts]`: `None` is "unlimited"; zero is at once.
#[derive(Clone, Debug)]
pub(crate) struct Timeouts {
    /// `load` and all startup steps together.
    pub(crate) startup: Option<Duration>,
    /// From the stop order to the end of the last request.
    pub(crate) graceful: Option<Duration>,
    /// Reserved for payloads and teardown, after `graceful`.
    pub(crate) cleanup: Option<Duration>,
    /// How long the executor may be silent while starting.
    pub(crate) heartbeat_boot: Option<Duration>,
    /// ... while serving.
    pub(crate) heartbeat_serving: Option<Duration>,
    /// ... while draining and cleaning up.
    pub(crate) heartbeat_stopping: Option<Duration>,
    /// From SIGABRT to SIGKILL.
    pub(crate) abort_grace: Duration,
}

impl Timeouts {
    /// A worker keeps its own deadlines; the arbiter steps in this much later.
    pub(crate) const MARGIN: Duration = Duration::from_secs(2);
}

/// `[recycle]`: when a healthy worker is replaced. `None`: never.
#[derive(Clone, Debug)]
pub(crate) struct Recycle {
    pub(crate) max_requests: Option<u64>,
    /// Up to this many requests are added at random, so that workers do not all leave at once.
    pub(crate) max_requests_jitter: u64,
    pub(crate) max_age: Option<Duration>,
    /// Bytes of proportional set size.
    pub(crate) max_memory: Option<u64>,
}

/// `[restart]`: how crashed workers come back.
#[derive(Clone, Debug)]
pub(crate) struct Restart {
    pub(crate) backoff_initial: Duration,
    pub(crate) backoff_max: Duration,
    /// More crashes than these within `crash_window` keep the service "degraded".
    pub(crate) crash_budget: u32,
    pub(crate) crash_window: Duration,
}

/// `[reload]`: how careful a reload is.
#[derive(Clone, Debug)]
pub(crate) struct Reload {
    /// How long the check of the binary on disk may take.
    pub(crate) preflight: Duration,
    /// How long the new generation must serve before the old one is retired. A failure in this time is rolled back.
    pub(crate) trial: Duration,
}

/// `[log]`
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) format: LogFormat,
    /// Directives of `tracing_subscriber::EnvFilter`.
    pub(crate) level: String,
}

/// Where and how log lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// The journal when stderr is the journal, else human lines.
    #[default]
    Auto,
    Human,
    Json,
    Journald,
}

#[cfg(test)]
mod tests;
