//! Where log records go: the journal, or lines on standard error. Nothing here ever waits for a reader; what
//! is not taken is dropped and counted.

pub(crate) mod events;
mod fields;
mod filter;
mod journal;
mod line;
mod process;
mod stderr;
mod tee;

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};

use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;

use crate::config::{Log, LogFormat};
use crate::events::LifecycleEvent;
use crate::exit::{ExitCode, Failure};
use crate::sys::environment::thread_count;
use journal::{JournalLayer, Wire};
use process::Process;
pub(crate) use process::ProcessIdentity;
use stderr::{Lines, Sink, Style};

/// The logs of this process.
#[derive(Debug)]
struct Logs {
    process: Arc<Process>,
    /// `None`: the records go to standard error.
    wire: Option<Arc<Wire>>,
}

static LOGS: OnceLock<Logs> = OnceLock::new();

/// Sets up the logs of the process and of all that it will fork. Once, in the arbiter, while it has one
/// thread. `name` is the service's, SYSLOG_IDENTIFIER in the journal.
///
/// # Errors
/// A level that cannot be read (exit 78), `format = "journald"` without a journald that takes records (exit
/// 69), logs that are set up already (exit 70), no file descriptor left (exit 71).
pub(crate) fn init(log: &Log, name: &str, identity: ProcessIdentity) -> Result<(), Failure> {
    let filter = filter::parse(&log.level)?;
    let process = Arc::new(Process::default());
    process.become_process(identity);
    let Output { layer, wire, note } = open(log.format, name, &process)?;
    tracing::subscriber::set_global_default(
        tracing_subscriber::registry()
            .with(layer.with_filter(filter))
            .with(tee::Tee.with_filter(tee::filter())),
    )
    .map_err(|error| {
        Failure::new(ExitCode::Software, "the logs cannot be set up").because(error)
    })?;
    // Whoever won the line above is alone here.
    let _ = LOGS.set(Logs { process, wire });
    if let Some(error) = note {
        tracing::warn!(
            error = %error,
            "the journal cannot be written to directly, so records go to standard error"
        );
    }
    Ok(())
}

/// Checks what can be checked of the settings without changing anything.
///
/// # Errors
/// A level that cannot be read (exit 78).
pub(crate) fn check(log: &Log) -> Result<(), Failure> {
    filter::parse(&log.level).map(drop)
}

/// After a fork, first of all in the child: its records carry its own numbers, and count its own drops.
///
/// # Errors
/// No file descriptor is left.
pub(crate) fn become_worker(worker: u64, slot: u32, generation: u32) -> io::Result<()> {
    let identity = ProcessIdentity::Worker {
        worker,
        slot,
        generation,
    };
    tee::forget();
    let Some(logs) = LOGS.get() else {
        return Ok(());
    };
    logs.process.become_process(identity);
    logs.wire.as_ref().map_or(Ok(()), |wire| wire.renew())
}

/// How many records this process could not get rid of.
pub(crate) fn drops() -> u64 {
    LOGS.get().map_or(0, |logs| logs.process.drops())
}

/// The lifecycle events of this process since the last call, oldest first, and how many more came after them.
pub(crate) fn take_events() -> (Vec<LifecycleEvent>, u64) {
    tee::take()
}

/// From now on the lifecycle events of this process go there, and first those that were not taken. It is called from
/// every thread, one at a time; it must not block and must not log.
pub(crate) fn send_events(outlet: impl FnMut(LifecycleEvent) + Send + 'static) {
    tee::send_to(Box::new(outlet));
}

/// Who this process's records come from.
fn identity() -> ProcessIdentity {
    LOGS.get()
        .map_or(ProcessIdentity::Arbiter, |logs| logs.process.identity())
}

/// What a format comes down to.
struct Output {
    layer: Box<dyn Layer<Registry> + Send + Sync>,
    wire: Option<Arc<Wire>>,
    /// Why it is not the journal, although it should be.
    note: Option<io::Error>,
}

fn open(format: LogFormat, name: &str, process: &Arc<Process>) -> Result<Output, Failure> {
    match format {
        LogFormat::Human => lines(human(), process, None),
        LogFormat::Json => lines(Style::Json, process, None),
        LogFormat::Journald => journal(name, process).map_err(|error| {
            Failure::new(
                ExitCode::Unavailable,
                "log.format is \"journald\", and journald does not take records; use \"auto\"",
            )
            .because(error)
        }),
        LogFormat::Auto if !stderr_is_journal() => lines(human(), process, None),
        LogFormat::Auto => {
            journal(name, process).or_else(|error| lines(human(), process, Some(error)))
        }
    }
}

fn journal(name: &str, process: &Arc<Process>) -> io::Result<Output> {
    if thread_count()? != 1 {
        return Err(io::Error::other(
            "threads are running: logs are set up before any thread",
        ));
    }
    let layer = JournalLayer::open(name, Arc::clone(process))?;
    let wire = Some(layer.wire());
    Ok(Output {
        layer: layer.boxed(),
        wire,
        note: None,
    })
}

fn lines(style: Style, process: &Arc<Process>, note: Option<io::Error>) -> Result<Output, Failure> {
    let sink = Sink::stderr().map_err(|error| {
        Failure::new(ExitCode::Os, "standard error cannot be opened").because(error)
    })?;
    let process = Arc::clone(process);
    Ok(Output {
        layer: Lines {
            style,
            sink,
            process,
        }
        .boxed(),
        wire: None,
        note,
    })
}

/// Colour is for a person at a terminal who has not said no (no-color.org).
fn human() -> Style {
    let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    Style::Human {
        with_colour: !is_refused && !is_dumb && io::stderr().is_terminal(),
    }
}

/// JOURNAL_STREAM names the device and inode of the journal's stream, systemd.exec(5). A redirected standard
/// error has others.
fn stderr_is_journal() -> bool {
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_stream(&stream, io::stderr()))
}

fn is_stream(stream: &str, file: impl AsFd) -> bool {
    let parts = stream.split_once(':');
    let Some((device, inode)) = parts.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
    else {
        return false;
    };
    nix::sys::stat::fstat(file).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (device, inode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_journal_is_recognised_by_device_and_inode() {
        let file = tempfile::tempfile().unwrap();
        let (device, inode) = file
            .metadata()
            .map(|meta| (meta.dev(), meta.ino()))
            .unwrap();
        assert!(is_stream(&format!("{device}:{inode}"), &file));
        assert!(!is_stream(&format!("{device}:{}", inode + 1), &file));
        assert!(!is_stream("", &file));
        assert!(!is_stream("a:b", &file));
    }
}
