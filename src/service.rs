//! From the command line to the arbiter, and in each fork on to the worker.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::app::{App, Context};
use crate::arbiter::{Equipment, Outcome, Shell};
use crate::cli::{self, Command, Invocation};
use crate::config::{self, Config, Flags, Loaded};
use crate::exit::{BoxError, ExitCode, Failure, chain};
use crate::sys::signals::Signals;
use crate::systemd::notify;
use crate::{control, logs, overview, sockets, sys, worker};

/// Runs the service: what an author's `main` calls, and all that it has to do.
///
/// Reads the command line, the environment and the configuration, takes over the sockets, forks the workers and
/// supervises them until the service is told to stop. `load` runs once in every worker, after the fork and inside
/// that worker's runtime; the arbiter never builds an app. `S` is the type of the `[app]` table of the
/// configuration; it is parsed before anything is forked.
///
/// The exit codes are those of `sysexits.h`: 0 after a clean stop, 64 for wrong flags, 69 when an address is in
/// use, 70 when the service's own code failed, 71 when the system refused something basic, 78 for a wrong
/// configuration or wrong sockets.
///
/// Call it first in `main`, before any thread is started and outside of a runtime.
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
    let load: worker::Load<S> = Box::new(move |context| {
        let loading = load(context);
        Box::pin(async move { loading.await.map_err(Into::into) })
    });
    run(load).into()
}

fn run<S: DeserializeOwned + Send + Sync + 'static>(load: worker::Load<S>) -> ExitCode {
    let name = name();
    let Invocation { command, flags } =
        match cli::parse(&name, env!("CARGO_PKG_VERSION"), std::env::args_os()) {
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
        Command::Run => serve(&name, &flags, load),
        Command::Check => check::<S>(&name, &flags),
        Command::Config { json } => show_config(&name, &flags, json),
        Command::Status { json } => show_status(&name, &flags, json),
    };
    done.unwrap_or_else(|failure| {
        complain(&format!("{name}: {}\n", chain(&failure)));
        failure.code()
    })
}

/// `run`: in the foreground, until told to stop.
fn serve<S: DeserializeOwned + Send + Sync + 'static>(
    name: &str,
    flags: &Flags,
    load: worker::Load<S>,
) -> Result<ExitCode, Failure> {
    // What was meant for this process alone leaves the environment first of all, before any child can see it.
    let passed = sockets::activation::take()?;
    let manager = notify::Settings::take()?;
    let Loaded { config, report } = load_config(name, flags, &manager)?;
    let settings: S = config::app_settings(&config.app)?;
    logs::init(&config.log, name, logs::ProcessIdentity::Arbiter)?;
    let outcome = start_arbiter(
        name,
        Arc::new(config),
        report.is_set("listen"),
        passed,
        &manager,
    );
    match outcome {
        Ok(Outcome::Leave(code)) => Ok(code),
        Ok(Outcome::Worker(start)) => Ok(worker::run(*start, settings, load)),
        Ok(Outcome::Helper(helper)) => {
            helper.log();
            Ok(ExitCode::Ok)
        }
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

fn start_arbiter(
    name: &str,
    config: Arc<Config>,
    listen_was_set: bool,
    passed: sockets::Passed,
    manager: &notify::Settings,
) -> Result<Outcome, Failure> {
    sys::title::prepare();
    sys::title::set(&format!("{name}: arbiter"));
    let signals = Signals::take()
        .map_err(|error| Failure::new(ExitCode::Os, "take over the signals").because(error))?;
    let sockets::Acquired {
        listeners,
        notes,
        own_paths,
    } = sockets::acquire(passed, &config.listen, listen_was_set, config.backlog)?;
    for note in notes {
        tracing::info!("{note}");
    }
    let (notifier, notes) = notify::Notifier::new(manager, std::process::id());
    for note in notes {
        tracing::warn!("{note}");
    }
    let control = match &config.control {
        Some(path) => control::Server::bind_or_explain(path)?,
        None => None,
    };
    let shell = Shell::new(Equipment {
        listeners: listeners.into(),
        own_paths,
        notifier,
        signals,
        control,
        name: name.into(),
        config,
    })?;
    Ok(shell.run())
}

/// `check`: everything that can be validated without serving.
fn check<S: DeserializeOwned>(name: &str, flags: &Flags) -> Result<ExitCode, Failure> {
    let passed = sockets::activation::take()?;
    let manager = notify::Settings::take()?;
    let Loaded { config, report } = load_config(name, flags, &manager)?;
    let _settings: S = config::app_settings(&config.app)?;
    logs::check(&config.log)?;
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
    Ok(ExitCode::Ok)
}

/// The configuration, as this process under this manager can use it.
fn load_config(name: &str, flags: &Flags, manager: &notify::Settings) -> Result<Loaded, Failure> {
    let loaded = config::load(name, flags, std::env::vars_os())?;
    if manager.is_watched(std::process::id()) {
        loaded.check_watched()?;
    }
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
    let path = config::control_path(name, flags, std::env::vars_os())?.ok_or_else(|| {
        Failure::new(
            ExitCode::Unavailable,
            "no control socket is known: name it with --control PATH, or set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR as the service has it",
        )
    })?;
    let status = control::ask(&path)?;
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
fn name() -> String {
    std::env::args_os()
        .next()
        .as_deref()
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
