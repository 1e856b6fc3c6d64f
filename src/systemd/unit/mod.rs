//! What the manager allows a unit: asked of systemctl(1), since no variable says it.

mod files;
mod span;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// systemctl answers within milliseconds, or the manager has other troubles.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a unit's start and stop may take, by `TimeoutStartSec=` and `TimeoutStopSec=`; `None` is "infinity".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) unit: String,
    pub(crate) start: Option<Duration>,
    pub(crate) stop: Option<Duration>,
}

/// A service unit, as its manager knows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) limits: Limits,
    /// It has read the unit's file.
    pub(crate) is_loaded: bool,
    /// What `ExecStart=` runs.
    program: Option<PathBuf>,
}

impl Unit {
    /// Asks about a unit of the system's manager. `Ok(None)`: systemd does not run here, sd_booted(3).
    ///
    /// # Errors
    /// It could not be asked, or its answer is not understood; in one sentence.
    pub(crate) fn ask(name: &str) -> Result<Option<Self>, String> {
        let answer = systemctl(&[
            "show",
            "--property=LoadState,ExecStart,TimeoutStartUSec,TimeoutStopUSec",
            "--",
            name,
        ]);
        let answer = match answer {
            Ok(answer) => answer,
            Err(_) if !Path::new("/run/systemd/system").is_dir() => return Ok(None),
            Err(error) => {
                return Err(format!("systemctl cannot be asked about {name}: {error}"));
            }
        };
        match Self::parse(name, &answer) {
            Some(unit) => Ok(Some(unit)),
            None => Err(format!("systemctl says nothing useful about {name}")),
        }
    }

    /// Whether it starts the program that runs here.
    pub(crate) fn runs_this(&self) -> bool {
        let resolved = |path: &Path| path.canonicalize().ok();
        let own = resolved(Path::new("/proc/self/exe"));
        own.is_some() && self.program.as_deref().and_then(resolved) == own
    }

    /// systemctl-show(1): a line for each property, in any order.
    fn parse(name: &str, answer: &str) -> Option<Self> {
        let lines = answer.lines().filter_map(|line| line.split_once('='));
        let properties: HashMap<&str, &str> = lines.collect();
        let program = properties.get("ExecStart").and_then(|command| {
            let (_, path) = command.split_once("path=")?;
            path.split_once(" ;").map(|(path, _)| path.into())
        });
        Some(Self {
            limits: Limits {
                unit: with_suffix(name),
                start: span::parse(properties.get("TimeoutStartUSec")?)?,
                stop: span::parse(properties.get("TimeoutStopUSec")?)?,
            },
            is_loaded: *properties.get("LoadState")? == "loaded",
            program,
        })
    }
}

/// The limits of the unit whose command this service is, asked by a child of its arbiter. From the manager where it
/// answers, else from the unit's files; `None`: there is no such unit, or nobody can say.
pub(crate) fn limits_around(arbiter: u32) -> Option<Limits> {
    // Something else may have started the service, in its own unit: a test in a runner's.
    let started = std::env::var("SYSTEMD_EXEC_PID").ok()?;
    if started.parse() != Ok(arbiter) {
        return None;
    }
    let name = unit_of(&fs::read_to_string("/proc/self/cgroup").ok()?)?;
    match Unit::ask(&name) {
        Ok(unit) => unit.map(|unit| unit.limits),
        Err(_) => files::limits(Path::new("/"), &name),
    }
}

/// As systemctl reads a name.
fn with_suffix(name: &str) -> String {
    if name.contains('.') {
        name.to_owned()
    } else {
        format!("{name}.service")
    }
}

/// The system's service that the text of /proc/PID/cgroup names; see cgroups(7). What a user's manager runs is not
/// the system's.
fn unit_of(cgroup: &str) -> Option<String> {
    let path = |prefix: &str| cgroup.lines().find_map(|line| line.strip_prefix(prefix));
    let path = path("0::").filter(|path| *path != "/").or_else(|| {
        let mut lines = cgroup.lines();
        lines.find_map(|line| line.split_once(":name=systemd:").map(|(_, path)| path))
    })?;
    let mut units = path.split('/').filter(|part| {
        let kind = Path::new(part).extension().and_then(|kind| kind.to_str());
        matches!(kind, Some("service" | "scope"))
    });
    let first = units.next()?;
    let is_ours =
        first.ends_with(".service") && !first.starts_with("user@") && units.next().is_none();
    is_ours.then(|| first.to_owned())
}

/// What it prints, if it succeeds within its time.
fn systemctl(arguments: &[&str]) -> io::Result<String> {
    let mut child = Command::new("systemctl")
        .args(arguments)
        .env("LC_ALL", "C")
        .env("SYSTEMD_PAGER", "")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let answer = read_all(&mut child);
    if answer.is_err() {
        // It may have ended meanwhile.
        let _ = child.kill();
    }
    let status = child.wait()?;
    let answer = answer?;
    if status.success() {
        Ok(answer)
    } else {
        Err(io::Error::other(status.to_string()))
    }
}

fn read_all(child: &mut Child) -> io::Result<String> {
    let end = Instant::now() + PATIENCE;
    let mut answer = Vec::new();
    let Some(mut stdout) = child.stdout.take() else {
        return Ok(String::new());
    };
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).map_err(io::Error::other)?;
        let mut ready = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, left)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut some = [0; 4096];
        match stdout.read(&mut some)? {
            0 => return String::from_utf8(answer).map_err(io::Error::other),
            count => answer.extend_from_slice(&some[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_answer_of_systemctl_is_read() {
        let answer = "TimeoutStopUSec=1min 30s\nExecStart={ path=/usr/bin/payload ; argv[]=/usr/bin/payload \
                      run ; ignore_errors=no ; pid=0 }\nLoadState=loaded\nTimeoutStartUSec=infinity\n";
        let unit = Unit::parse("payload", answer).unwrap();
        assert_eq!(
            unit,
            Unit {
                limits: Limits {
                    unit: "payload.service".to_owned(),
                    start: None,
                    stop: Some(90 * SECOND),
                },
                is_loaded: true,
                program: Some("/usr/bin/payload".into()),
            }
        );
        // One that is not there has the defaults, and no command.
        let answer = "TimeoutStartUSec=1min 30s\nTimeoutStopUSec=1min 30s\nLoadState=not-found\n";
        let unit = Unit::parse("x@1.service", answer).unwrap();
        assert_eq!(unit.limits.unit, "x@1.service");
        assert!(!unit.is_loaded && !unit.runs_this());
        assert_eq!(Unit::parse("x", ""), None);
        assert_eq!(
            Unit::parse("x", "LoadState=loaded\nTimeoutStartUSec=soon"),
            None
        );
    }

    #[test]
    fn only_a_service_of_the_system_is_a_unit_to_compare_with() {
        for (cgroup, unit) in [
            (
                "0::/system.slice/payload.service\n",
                Some("payload.service"),
            ),
            (
                "0::/payload.slice/payload-a.slice/app@1.service",
                Some("app@1.service"),
            ),
            (
                "0::/system.slice/payload.service/worker",
                Some("payload.service"),
            ),
            (
                "12:pids:/x\n1:name=systemd:/system.slice/a.service\n0::/",
                Some("a.service"),
            ),
            ("0::/\n", None),
            ("0::/user.slice/user-0.slice/session-1.scope", None),
            (
                "0::/user.slice/user-1.slice/user@1.service/app.slice/a.service",
                None,
            ),
            ("0::/system.slice/docker.service/init.scope", None),
            ("", None),
        ] {
            assert_eq!(unit_of(cgroup).as_deref(), unit, "{cgroup}");
        }
    }
}
