//! What goes over the control socket.

use serde::{Deserialize, Serialize};

use crate::status::Status;

/// The longest command, in bytes, its newline included.
pub(super) const MAX_COMMAND: usize = 4 * 1024;

/// `{"command":"status"}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Command {
    // A unit variant would take any further key: serde checks only those of a struct.
    Status {},
    /// Answered when the reload has ended.
    Reload {},
}

/// `{"status":{…}}`, `{"reloaded":{"generation":2}}`, `{"reload-failed":"…"}` or `{"error":"…"}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Status(Box<Status>),
    /// The generation that serves now.
    Reloaded {
        generation: u32,
    },
    /// The generation before serves on; why, in one line.
    ReloadFailed(String),
    Error(String),
}
