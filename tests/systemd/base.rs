//! The Debian roots that the machines boot, and the reasons why there may be none.

use std::fs;
use std::io::{Write as _, stderr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A Debian release, for the systemd it brings.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Suite {
    /// Debian 12, systemd 252.
    Bookworm,
    /// Debian 13, systemd 257.
    Trixie,
}

impl Suite {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Suite::Bookworm => "bookworm",
            Suite::Trixie => "trixie",
        }
    }

    /// The root to boot, made when it is missing.
    ///
    /// `None` where the machine cannot run these tests: that is said once per suite on the real stderr, past
    /// the test runner's capture. With `CI` in the environment it is a failure instead.
    pub(crate) fn root(self) -> Option<PathBuf> {
        static BOOKWORM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        static TRIXIE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let cell = match self {
            Suite::Bookworm => &BOOKWORM,
            Suite::Trixie => &TRIXIE,
        };
        let in_ci = std::env::var_os("CI").is_some();
        let made = cell.get_or_init(|| {
            let made = able().and_then(|()| make(self));
            if let (Err(reason), false) = (&made, in_ci) {
                let name = self.name();
                let line = format!(
                    "\n*** SKIPPED: the tests under a real systemd of {name}: {reason}\n\n"
                );
                // In one write, since other tests talk as well.
                stderr().write_all(line.as_bytes()).expect("stderr");
            }
            made
        });
        match made {
            Ok(root) => Some(root.clone()),
            Err(reason) if in_ci => panic!("CI must run the tests under a real systemd: {reason}"),
            Err(_) => None,
        }
    }
}

/// Whether this machine can boot one at all.
fn able() -> Result<(), String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !status.lines().any(|line| line.starts_with("Uid:\t0\t")) {
        return Err("they need root".into());
    }
    if !fs::exists("/etc/debian_version").unwrap_or(false) {
        return Err("they need Debian with debootstrap and systemd-nspawn".into());
    }
    crate::cgroup::mounted().map(|_| ())
}

fn make(suite: Suite) -> Result<PathBuf, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/base.sh");
    let output = Command::new(script)
        .arg(suite.name())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("{script}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{script} {}: {}", suite.name(), output.status));
    }
    let path = String::from_utf8_lossy(&output.stdout);
    Ok(PathBuf::from(path.trim_end()))
}
