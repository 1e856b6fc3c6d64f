//! The other side of the control socket: `payload status`.

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
pub(crate) fn ask(path: &Path) -> Result<Status, Failure> {
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
    connect.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    connect.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
    let mut line = serde_json::to_vec(&Command::Status {}).map_err(|error| broken(error.into()))?;
    line.push(b'\n');
    (&connect).write_all(&line).map_err(broken)?;
    let mut answer = String::new();
    BufReader::new(&connect)
        .read_line(&mut answer)
        .map_err(broken)?;
    match serde_json::from_str(&answer) {
        Ok(Answer::Status(status)) => Ok(*status),
        Ok(Answer::Error(error)) => Err(Failure::new(
            ExitCode::Software,
            format!("the service at {place} refused: {error}"),
        )),
        Err(error) => Err(Failure::new(
            ExitCode::Software,
            format!("the service at {place} answered something else: is it another version?"),
        )
        .because(error)),
    }
}
