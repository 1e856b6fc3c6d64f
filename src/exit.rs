//! How a process of payload ends: the exit codes of `sysexits.h`, and the one error type that carries them.

use std::error::Error as StdError;
use std::fmt;

/// An error of any type, as the author's code returns it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The exit codes that payload uses. systemd shows their names; the shipped unit does not restart on
/// [`Usage`](ExitCode::Usage) and [`Config`](ExitCode::Config). Source: `sysexits.h`, systemd.exec(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ExitCode {
    /// Everything went well.
    Ok = 0,
    /// Wrong flags.
    Usage = 64,
    /// Something needed is not there: the address is in use, no service answers.
    Unavailable = 69,
    /// The service's own code failed: `load`, a startup step, a teardown step.
    Software = 70,
    /// The operating system refused something basic: no fork, no pipe.
    Os = 71,
    /// Permission denied.
    NoPermission = 77,
    /// Configuration or the passed sockets are wrong.
    Config = 78,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code as u8)
    }
}

/// A failure that ends the process: what failed, on what, what to do, and the exit code.
///
/// `Display` prints one level; the causes follow through [`source`](StdError::source), and
/// [`chain`] joins them for a log line.
#[derive(Debug)]
pub(crate) struct Failure {
    code: ExitCode,
    message: String,
    source: Option<BoxError>,
}

impl Failure {
    /// A failure without a cause behind it.
    pub(crate) fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            source: None,
        }
    }

    /// The same failure, with what caused it.
    #[must_use]
    pub(crate) fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The code the process leaves with.
    pub(crate) fn code(&self) -> ExitCode {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// An error and its causes on one line, outermost first: `a: b: c`. A cause whose text the level above
/// already ends with is not repeated.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_every_cause_once() {
        let inner = Failure::new(ExitCode::Os, "no such file");
        let middle = Failure::new(ExitCode::Os, "open data.db").because(inner);
        let outer =
            Failure::new(ExitCode::Software, "startup step 'database' failed").because(middle);
        assert_eq!(
            chain(&outer),
            "startup step 'database' failed: open data.db: no such file"
        );
        assert_eq!(outer.code() as u8, 70);
    }

    #[test]
    fn a_cause_that_was_already_printed_is_not_repeated() {
        let inner = Failure::new(ExitCode::Os, "no such file");
        let outer = Failure::new(ExitCode::Os, "open data.db: no such file").because(inner);
        assert_eq!(chain(&outer), "open data.db: no such file");
    }
}
