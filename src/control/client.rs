//! The other side of the control socket: `payload status`, `payload reload`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{Answer, Command};
use crate::exit::{ExitCode, Failure};
use crate::status::Status;

/// The arbiter answers from its loop, at once; this is for one that is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the service behind `path` for its status.
///
/// # Errors
/// Nobody answers there (exit 69), access is denied (77), the answer makes no sense (70).
pub(crate) fn status(path: &Path) -> Result<Status, Failure> {
    match ask(path, &Command::Status {}, Some(PATIENCE))? {
        Answer::Status(status) => Ok(*status),
        other => Err(unexpected(path, other)),
    }
}

/// Reloads the service behind `path`, and waits for the outcome as long as it takes: the service has limits for
/// each step. Gives back the generation that serves now.
///
/// # Errors
/// The reload failed, with the reason, and nothing has changed (exit 70); else as [`status`].
pub(crate) fn reload(path: &Path) -> Result<u32, Failure> {
    match ask(path, &Command::Reload {}, None)? {
        Answer::Reloaded { generation } => Ok(generation),
        Answer::ReloadFailed(reason) => Err(Failure::new(
            ExitCode::Software,
            format!("the reload failed, and the service goes on as it was: {reason}"),
        )),
        other => Err(unexpected(path, other)),
    }
}

fn ask(path: &Path, command: &Command, patience: Option<Duration>) -> Result<Answer, Failure> {
    let place = path.display();
    let connect = UnixStream::connect(path).map_err(|error| {
        let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
        let (code, cure) = if denied {
            (
                ExitCode::NoPermission,
                "run this as root or as the service's user",
            )
        } else {
            (
                ExitCode::Unavailable,
                "is the service running, with the same --control?",
            )
        };
        Failure::new(code, format!("no service answers at {place}: {cure}")).because(error)
    })?;
    let broken = |error: std::io::Error| {
        Failure::new(
            ExitCode::Unavailable,
            format!("the service at {place} did not answer"),
        )
        .because(error)
    };
    connect.set_read_timeout(patience).map_err(broken)?;
    connect.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
    let mut line = serde_json::to_vec(command).map_err(|error| broken(error.into()))?;
    line.push(b'\n');
    (&connect).write_all(&line).map_err(broken)?;
    let mut answer = String::new();
    BufReader::new(&connect)
        .read_line(&mut answer)
        .map_err(broken)?;
    if answer.is_empty() {
        return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_str(&answer).map_err(|error| {
        Failure::new(
            ExitCode::Software,
            format!("the service at {place} answered something else: is it another version?"),
        )
        .because(error)
    })
}

fn unexpected(path: &Path, answer: Answer) -> Failure {
    let place = path.display();
    let text = match answer {
        Answer::Error(error) => format!("the service at {place} refused: {error}"),
        _ => format!("the service at {place} answered another question: is it another version?"),
    };
    Failure::new(ExitCode::Software, text)
}
