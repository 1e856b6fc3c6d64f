//! From the command line to the arbiter, and in each fork on to the worker.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::parent_id;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::app::{App, Context};
use crate::arbiter::{
    self, Arrival, Equipment, Images, Inherited, NewImage, Outcome, Program, Shell, Store,
    preparation,
};
use crate::author::{Author, Given};
use crate::cli::{self, Command, Invocation};
use crate::config::{self, Flags, Loaded, Surroundings};
use crate::exit::{BoxError, ExitCode, Failure, chain};
use crate::sys::signals::Signals;
use crate::systemd::notify;
use crate::systemd::unit::{self, Unit};
use crate::{alone, control, logs, overview, sockets, sys};

/// Runs the service: what an author's `main` calls, and all that it has to do.
///
/// Reads the command line, the environment and the configuration, takes over the sockets, forks the workers and
/// supervises them until the service is told to stop. `load` runs once in every worker, after the fork and inside
/// that worker's runtime; the arbiter never builds an app. `S` is the type of the `[app]` table of the
/// configuration; it is parsed before anything is forked, and a key that it does not know is an error ([`Context`]).
///
/// The exit codes are those of `sysexits.h`: 0 after a clean stop, 64 for wrong flags, 69 when an address is in
/// use or somebody who is asked is not there, 70 when the service's own code failed, 71 when the system refused
/// something basic, 78 for a wrong configuration or wrong sockets.
///
/// Call it first in a plain `fn main`, before any thread is started and outside of a runtime: under `#[tokio::main]` it
/// ends at once, with 70 and the cure.
///
/// ```no_run
/// async fn load(_context: payload::Context) -> payload::Result<payload::App> {
///     let hello = payload::service_fn(|_request| async { Ok(http::Response::new(payload::Body::from("hello"))) });
///     Ok(payload::App::builder().build(hello))
/// }
///
/// fn main() -> std::process::ExitCode {
///     payload::main(load)
/// }
/// ```
pub fn main<S, L, F, E>(load: L) -> std::process::ExitCode
where
    L: FnOnce(Context<S>) -> F + Send + 'static,
    F: Future<Output = std::result::Result<App, E>> + Send + 'static,
    S: DeserializeOwned + Send + Sync + 'static,
    E: Into<BoxError>,
{
    run(Given::plain(load)).into()
}

pub(crate) fn run<S: DeserializeOwned + Send + Sync + 'static>(given: Given<S>) -> ExitCode {
    let alone = alone::check();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let name = name(&arguments);
    match arbiter::arrival(&arguments, alone) {
        Ok(Arrival::Fresh) => command(&name, arguments, given),
        Ok(Arrival::Inherited(inherited)) => take_over(&name, &arguments, inherited, given),
        Ok(Arrival::Preflight(trial)) => {
            let checked = trial.check_state().and_then(|surroundings| {
                let flags = serving_flags(&name, &arguments)?;
                let settings = validate(&name, &flags, surroundings)?;
                // A preload that fails or hangs is found where nothing is lost by it.
                given.with(settings).prepare()
            });
            let error = checked.err().map(|failure| chain(&failure));
            trial.tell(error.as_deref());
            ExitCode::Ok
        }
        Err(failure) => {
            complain(&format!("{name}: {}\n", chain(&failure)));
            failure.code()
        }
    }
}

fn command<S: DeserializeOwned + Send + Sync + 'static>(
    name: &str,
    arguments: Vec<OsString>,
    given: Given<S>,
) -> ExitCode {
    let Invocation { command, flags } =
        match cli::parse(name, env!("CARGO_PKG_VERSION"), arguments.clone()) {
            Ok(invocation) => invocation,
            Err(exit) => {
                if exit.stdout {
                    say(&exit.text);
                } else {
                    complain(&exit.text);
                }
                return exit.code;
            }
        };
    let done = match command {
        Command::Run => serve(name, arguments, &flags, given),
        Command::Check { unit } => check::<S>(name, &flags, unit.as_deref()),
        Command::Config { json } => show_config(name, &flags, json),
        Command::Status { json } => show_status(name, &flags, json),
        Command::Reload => reload(name, &flags),
    };
    done.unwrap_or_else(|failure| {
        complain(&format!("{name}: {}\n", chain(&failure)));
        failure.code()
    })
}

/// `run`: in the foreground, until told to stop.
fn serve<S: DeserializeOwned + Send + Sync + 'static>(
    name: &str,
    arguments: Vec<OsString>,
    flags: &Flags,
    given: Given<S>,
) -> Result<ExitCode, Failure> {
    // What was meant for this process alone leaves the environment first of all, before any child can see it.
    let passed = sockets::activation::take()?;
    let manager = notify::Settings::take()?;
    let program = Program::this(arguments);
    let surroundings = Surroundings {
        watched: manager.is_watched(std::process::id()),
        own_sockets: passed.fds.is_empty(),
    };
    let loaded = load_config(name, flags, surroundings)?;
    let settings: S = config::app_settings(&loaded.config.app)?;
    logs::init(&loaded.config.log, name, logs::ProcessIdentity::Arbiter)?;
    let author = given.with(settings);
    match start_arbiter(name, loaded, passed, manager, program, author) {
        Ok(shell) => Ok(supervise(shell)),
        Err(failure) => {
            // The logs are set up: the failure goes where everything else goes, once.
            tracing::error!(
                exit_code = failure.code() as u8,
                reason = chain(&failure),
                "the service cannot start"
            );
            Ok(failure.code())
        }
    }
}

/// The arbiter's life, and in each of its forks the worker's.
fn supervise(shell: Shell) -> ExitCode {
    match shell.run() {
        (Outcome::Leave(code), _) => code,
        (Outcome::Worker(start), author) => author.work(*start),
        (Outcome::Helper(helper), _) => {
            helper.log();
            ExitCode::Ok
        }
    }
}

fn start_arbiter(
    name: &str,
    loaded: Loaded,
    mut passed: sockets::Passed,
    manager: notify::Settings,
    program: Program,
    author: Box<dyn Author>,
) -> Result<Shell, Failure> {
    let Loaded {
        config,
        report,
        snapshot,
    } = loaded;
    let signals = become_arbiter(name)?;
    let store = Store::new(std::mem::take(&mut passed.stored));
    store.check_listeners(&passed)?;
    let sockets::Acquired {
        listeners,
        notes,
        own_paths,
    } = sockets::acquire(
        passed,
        &config.listen,
        report.is_set("listen"),
        config.backlog,
    )?;
    for note in notes {
        tracing::info!("{note}");
    }
    let notifier = notifier(&manager);
    let control = control::open(
        config.control.as_deref(),
        report.source("control").as_deref(),
    )?;
    Shell::new(Equipment {
        listeners: listeners.into(),
        surplus: Vec::new(),
        own_paths,
        notifier,
        manager,
        signals,
        control,
        images: Images::new(program, snapshot),
        store,
        name: name.into(),
        config: Arc::new(config),
        author,
    })
}

fn become_arbiter(name: &str) -> Result<Signals, Failure> {
    sys::title::prepare();
    sys::title::set(&format!("{name}: arbiter"));
    // An exec by descriptor leaves the descriptor's number here.
    sys::process::set_short_name(name);
    Signals::take()
        .map_err(|error| Failure::new(ExitCode::Os, "take over the signals").because(error))
}

fn notifier(manager: &notify::Settings) -> notify::Notifier {
    let (notifier, notes) = notify::Notifier::new(manager, std::process::id());
    for note in notes {
        tracing::warn!("{note}");
    }
    notifier
}

/// The process belonged to another image until now, and its workers serve. Whatever fails here gives it back.
fn take_over<S: DeserializeOwned + Send + Sync + 'static>(
    name: &str,
    arguments: &[OsString],
    inherited: Inherited,
    given: Given<S>,
) -> ExitCode {
    let prepared = catch_unwind(AssertUnwindSafe(|| {
        prepare_take_over(name, arguments, &inherited, given)
    }));
    let failed = match prepared {
        Ok(Ok(new)) => match Shell::adopt(new, inherited) {
            Ok(shell) => return supervise(shell),
            Err((inherited, failure)) => inherited.give_back(arguments, &chain(&failure)),
        },
        Ok(Err(failure)) => inherited.give_back(arguments, &chain(&failure)),
        Err(_) => inherited.give_back(arguments, "the new binary panicked while it took over"),
    };
    complain(&format!("{name}: {}\n", chain(&failed)));
    failed.code()
}

fn prepare_take_over<S: DeserializeOwned + Send + Sync + 'static>(
    name: &str,
    arguments: &[OsString],
    inherited: &Inherited,
    given: Given<S>,
) -> Result<NewImage, Failure> {
    let flags = serving_flags(name, arguments)?;
    let before = inherited.configuration()?;
    let is_back = before.is_some();
    let Loaded {
        config, snapshot, ..
    } = match before {
        Some(snapshot) => config::load_again(name, &flags, std::env::vars_os(), &snapshot)?,
        None => load_config(name, &flags, inherited.surroundings()?)?,
    };
    let settings: S = config::app_settings(&config.app)?;
    logs::init(&config.log, name, logs::ProcessIdentity::Arbiter)?;
    let signals = become_arbiter(name)?;
    let matched = sockets::rematch(inherited.listeners()?, &config.listen);
    let mut notifier = notifier(&inherited.manager()?);
    let mut author = given.with(settings);
    match preparation::run(author.as_mut(), &mut notifier, &config) {
        // The workers that are here have what they need, and those that come later are another matter.
        Err(failure) if is_back => tracing::error!(
            reason = chain(&failure),
            "workers cannot be replaced until the preload succeeds"
        ),
        done => done?,
    }
    // Last of all: what it makes in the file system is removed by nobody but the arbiter.
    let (bound, own_paths) = sockets::bind_all(&matched.missing, config.backlog)?;
    let new = NewImage {
        configuration: snapshot,
        kept: matched.kept,
        bound,
        surplus: matched.surplus,
        own_paths,
        notifier,
        signals,
        name: name.into(),
        config: Arc::new(config),
        author,
    };
    Ok(new)
}

/// The flags of a command line that is known to serve.
fn serving_flags(name: &str, arguments: &[OsString]) -> Result<Flags, Failure> {
    match cli::parse(name, env!("CARGO_PKG_VERSION"), arguments.iter().cloned()) {
        Ok(Invocation {
            command: Command::Run,
            flags,
        }) => Ok(flags),
        Ok(_) => Err(Failure::new(
            ExitCode::Usage,
            "the command line does not serve",
        )),
        Err(exit) => Err(Failure::new(exit.code, exit.text.trim().replace('\n', " "))),
    }
}

/// Everything about the configuration that can be checked without serving, for a reload of the service of which this
/// process's parent is the arbiter. Gives back the author's part.
fn validate<S: DeserializeOwned>(
    name: &str,
    flags: &Flags,
    surroundings: Surroundings,
) -> Result<S, Failure> {
    let loaded = load_config(name, flags, surroundings)?;
    let settings = config::app_settings(&loaded.config.app)?;
    logs::check(&loaded.config.log)?;
    if let Some(limits) = unit::limits_around(parent_id()) {
        loaded.check_against_unit(&limits)?;
    }
    Ok(settings)
}

/// `reload`: the running service goes over to what is on disk.
fn reload(name: &str, flags: &Flags) -> Result<ExitCode, Failure> {
    let generation = control::reload(&control_path(name, flags)?)?;
    say(&format!("{name}: generation {generation} serves\n"));
    Ok(ExitCode::Ok)
}

fn control_path(name: &str, flags: &Flags) -> Result<PathBuf, Failure> {
    config::control_path(name, flags, std::env::vars_os())?.ok_or_else(|| {
        Failure::new(
            ExitCode::Unavailable,
            "no control socket is known: name it with --control PATH or PAYLOAD_CONTROL, or set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR; the \
             service must have been started with the same",
        )
    })
}

/// `check`: everything that can be validated without serving.
fn check<S: DeserializeOwned>(
    name: &str,
    flags: &Flags,
    named: Option<&str>,
) -> Result<ExitCode, Failure> {
    let passed = sockets::activation::take()?;
    let manager = notify::Settings::take()?;
    // The sockets come when it serves.
    let surroundings = Surroundings {
        watched: manager.is_watched(std::process::id()),
        own_sockets: false,
    };
    let loaded = load_config(name, flags, surroundings)?;
    let Loaded { config, report, .. } = &loaded;
    let _settings: S = config::app_settings(&config.app)?;
    logs::check(&config.log)?;
    let compared = compare(name, named, &loaded)?;
    if !passed.fds.is_empty() {
        sockets::activation::check(passed.fds)?;
    }
    match report.file() {
        Some(file) => say(&format!(
            "{name}: the configuration is valid ({})\n",
            file.display()
        )),
        None => say(&format!("{name}: the configuration is valid (no file)\n")),
    }
    say(&format!("{name}: {compared}\n"));
    Ok(ExitCode::Ok)
}

/// The deadlines beside those of a unit: the one that was named, or the one of the service's name that runs this
/// program. Gives back what came of it, in one sentence.
fn compare(name: &str, named: Option<&str>, loaded: &Loaded) -> Result<String, Failure> {
    let unavailable = |reason: &str| Failure::new(ExitCode::Unavailable, reason);
    let asked = Unit::ask(named.unwrap_or(&format!("{name}.service")));
    let found = match (named, asked) {
        (None, Ok(Some(found))) if found.runs_this() => found,
        (None, Ok(Some(_))) => {
            return Ok(format!(
                "no unit {name}.service runs this program; --unit NAME compares the deadlines with those of a unit"
            ));
        }
        (None, Ok(None)) => {
            return Ok("systemd does not run here: its limits were not looked at".to_owned());
        }
        (None, Err(reason)) => return Ok(format!("{reason}: its limits were not looked at")),
        (Some(_), Ok(Some(found))) if found.is_loaded => found,
        (Some(named), Ok(Some(_))) => {
            let text = format!("--unit {named}: systemd has no such unit");
            return Err(Failure::new(ExitCode::Config, text));
        }
        (Some(_), Ok(None)) => return Err(unavailable("--unit: systemd does not run here")),
        (Some(_), Err(reason)) => return Err(unavailable(&format!("--unit: {reason}"))),
    };
    let longest = loaded.check_against_unit(&found.limits)?;
    let show = |span: Option<Duration>| span.map_or("any time".to_owned(), config::show_duration);
    Ok(format!(
        "a start may take {} and a stop {}; {} allows {} and {}",
        show(longest.start),
        show(longest.stop),
        found.limits.unit,
        show(found.limits.start),
        show(found.limits.stop),
    ))
}

/// The configuration on disk, as a service can use it that runs there.
fn load_config(name: &str, flags: &Flags, surroundings: Surroundings) -> Result<Loaded, Failure> {
    let loaded = config::load(name, flags, std::env::vars_os())?;
    loaded.check_against(surroundings)?;
    Ok(loaded)
}

fn show_config(name: &str, flags: &Flags, json: bool) -> Result<ExitCode, Failure> {
    let Loaded { report, .. } = config::load(name, flags, std::env::vars_os())?;
    if json {
        say(&format!("{}\n", report.json().trim_end()));
    } else {
        say(&report.to_string());
    }
    Ok(ExitCode::Ok)
}

fn show_status(name: &str, flags: &Flags, json: bool) -> Result<ExitCode, Failure> {
    let status = control::status(&control_path(name, flags)?)?;
    if json {
        let text = serde_json::to_string_pretty(&status)
            .map_err(|error| Failure::new(ExitCode::Software, "print the status").because(error))?;
        say(&format!("{text}\n"));
    } else {
        say(&overview::of(&status));
    }
    Ok(ExitCode::Ok)
}

/// The service's name: that of its executable.
fn name(arguments: &[OsString]) -> String {
    arguments
        .first()
        .map(Path::new)
        .and_then(Path::file_name)
        .map_or_else(
            || "payload".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        )
}

/// A reader that has gone away is no failure of ours.
fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
