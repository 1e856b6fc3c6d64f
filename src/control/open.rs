//! The control socket at the start: made, or missing with a reason. Either way the log says so.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::Server;
use crate::exit::{ExitCode, Failure, chain};

/// The variable of which the control socket's directory is derived: nobody has named that directory, so it is made.
const DERIVED: &str = "XDG_RUNTIME_DIR";

/// Makes the control socket that was configured, if one was; `source` is who said so, `None` if nobody did. Where it
/// cannot be written, the service goes on without one. A live service behind it is an error: two services of one name
/// would answer for each other.
///
/// # Errors
/// Somebody answers there already, or the place that somebody has named is not there (exit 69).
pub(crate) fn open(path: Option<&Path>, source: Option<&str>) -> Result<Option<Server>, Failure> {
    let Some(path) = path else {
        let reason = match source {
            Some(source) => format!("{source} is none"),
            None => "neither --control, PAYLOAD_CONTROL, RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR says where".to_owned(),
        };
        tracing::info!(
            reason,
            "there is no control socket: the commands `status` and `reload` do not reach this service"
        );
        return Ok(None);
    };
    let made = match source {
        Some(DERIVED) => make_directory(path),
        _ => Ok(()),
    };
    match made.and_then(|()| Server::bind(path)) {
        Ok(server) => {
            tracing::info!(
                path = %path.display(),
                "the control socket is there: the commands `status` and `reload` reach this service"
            );
            Ok(Some(server))
        }
        Err(failure) if failure.code() == ExitCode::Unavailable => {
            let what = "make the control socket (--control names another place, or none)";
            Err(Failure::new(ExitCode::Unavailable, what).because(failure))
        }
        Err(failure) => {
            tracing::warn!(
                reason = chain(&failure),
                "there is no control socket: the commands `status` and `reload` do not reach this service"
            );
            Ok(None)
        }
    }
}

/// Makes the directory of `path`, for this user only, and no other one: the runtime directory itself is the system's.
///
/// # Errors
/// It is not there and cannot be made.
fn make_directory(path: &Path) -> Result<(), Failure> {
    let Some(directory) = path.parent() else {
        return Ok(());
    };
    let made = match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => is_directory(directory),
        made => made,
    };
    made.map_err(|error| {
        let what = format!("make the directory {}", directory.display());
        Failure::new(ExitCode::NoPermission, what).because(error)
    })
}

fn is_directory(path: &Path) -> io::Result<()> {
    match fs::metadata(path)?.is_dir() {
        true => Ok(()),
        false => Err(ErrorKind::NotADirectory.into()),
    }
}
