//! What is done to the server while the clients hold on to it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use nix::sys::signal::Signal;

use crate::server::{Error, Server, signal};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Disturbance {
    None,
    /// payload: its own command, which ends when the reload has; others: SIGHUP.
    Reload,
    /// Returns at once.
    Hangup,
    /// SIGKILL to one worker, each time to another.
    KillWorker,
    /// By a shell.
    Command(String),
}

impl Disturbance {
    /// `turn`: which time it is, from 0.
    pub(crate) fn act(&self, server: &Server, turn: usize) -> Result<(), Error> {
        match self {
            Self::None => Ok(()),
            Self::Reload => match &server.payload {
                Some(paths) => run(Command::new(&paths.program)
                    .arg("reload")
                    .arg("--control")
                    .arg(&paths.control)),
                None => signal(arbiter(server)?, Signal::SIGHUP),
            },
            Self::Hangup => signal(arbiter(server)?, Signal::SIGHUP),
            Self::KillWorker => {
                let workers = server.workers()?;
                let worker = workers.get(turn % workers.len().max(1));
                signal(*worker.ok_or("it has no worker")?, Signal::SIGKILL)
            }
            Self::Command(text) => run(Command::new("sh").args(["-c", text])),
        }
    }
}

/// Puts a new file in the place of the program that runs.
pub(crate) fn upgrade(program: &Path) -> Result<(), Error> {
    let new = program.with_extension("new");
    // By the only thread that starts processes, as where the server was copied first.
    fs::copy(program, &new)?;
    fs::rename(new, program)?;
    Ok(())
}

impl FromStr for Disturbance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "reload" => Ok(Self::Reload),
            "hup" => Ok(Self::Hangup),
            "kill-worker" => Ok(Self::KillWorker),
            _ => match text.strip_prefix("command:") {
                Some(command) => Ok(Self::Command(command.to_owned())),
                None => Err("none, reload, hup, kill-worker or command:LINE".to_owned()),
            },
        }
    }
}

fn arbiter(server: &Server) -> Result<u32, Error> {
    Ok(server.pid.ok_or("no --pid says which process")?)
}

fn run(command: &mut Command) -> Result<(), Error> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}", output.status, text.trim()).into())
}
