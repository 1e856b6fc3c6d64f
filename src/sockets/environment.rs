//! What LISTEN_* says, decided on a snapshot: sd_listen_fds(3), and systemfd's form without a pid.

use std::ffi::OsString;
use std::os::fd::RawFd;

use crate::exit::{ExitCode, Failure};

/// Where passed descriptors start (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;
/// No file descriptor store and no set of socket units comes near it; a wrong LISTEN_FDS may.
const MOST: RawFd = 65_536;

/// The variables that describe passed sockets. They are for one process and are unset once read.
pub(crate) const VARIABLES: [&str; 5] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "LISTEN_FDS_FIRST_FD",
];

/// The environment of this process as far as passed sockets go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) listen_pid: Option<OsString>,
    pub(crate) listen_fds: Option<OsString>,
    pub(crate) listen_fdnames: Option<OsString>,
    pub(crate) listen_pidfdid: Option<OsString>,
    pub(crate) first_fd: Option<OsString>,
    pub(crate) systemd_exec_pid: Option<OsString>,
    pub(crate) invocation_id: Option<OsString>,
    pub(crate) pid: u32,
    /// The inode number of our own pidfd, where the kernel has one.
    pub(crate) pidfd_id: Option<u64>,
}

/// What a snapshot means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing was passed to this process; the note says why, where that may surprise.
    Nothing { note: Option<String> },
    /// One descriptor per name, numbered from `first`.
    Take { first: RawFd, names: Vec<String> },
}

const NOTHING: Decision = Decision::Nothing { note: None };

impl Snapshot {
    /// Reads the process's environment and changes nothing.
    pub(crate) fn read() -> Self {
        let variable = std::env::var_os::<&str>;
        let listen_pidfdid = variable("LISTEN_PIDFDID");
        Self {
            listen_pid: variable("LISTEN_PID"),
            listen_fds: variable("LISTEN_FDS"),
            listen_fdnames: variable("LISTEN_FDNAMES"),
            pidfd_id: listen_pidfdid
                .as_ref()
                .and_then(|_| crate::sys::fds::own_pidfd_id()),
            listen_pidfdid,
            first_fd: variable("LISTEN_FDS_FIRST_FD"),
            systemd_exec_pid: variable("SYSTEMD_EXEC_PID"),
            invocation_id: variable("INVOCATION_ID"),
            pid: std::process::id(),
        }
    }

    /// Which descriptors are ours.
    ///
    /// # Errors
    /// A value that is no number, a count that does not match the names: exit 78.
    pub(crate) fn decide(&self) -> Result<Decision, Failure> {
        let Some(fds) = &self.listen_fds else {
            return Ok(NOTHING);
        };
        if let Some(decision) = self.meant_for_another()? {
            return Ok(decision);
        }
        let count: RawFd = number("LISTEN_FDS", fds)?;
        if count == 0 {
            return Ok(NOTHING);
        }
        let first = match &self.first_fd {
            Some(value) => number("LISTEN_FDS_FIRST_FD", value)?,
            None => FIRST,
        };
        if !(1..=MOST).contains(&count) || !(FIRST..=MOST).contains(&first) {
            return Err(wrong(format!(
                "LISTEN_FDS={count} with the first descriptor {first} cannot be: descriptors are numbered \
                 from {FIRST}, and {MOST} is the most that payload takes"
            )));
        }
        Ok(Decision::Take {
            first,
            names: self.names(first, count)?,
        })
    }

    /// `Some` when the variables were written for another process, or nobody can tell.
    fn meant_for_another(&self) -> Result<Option<Decision>, Failure> {
        let Some(pid) = &self.listen_pid else {
            return Ok(self.without_pid());
        };
        if number::<u32>("LISTEN_PID", pid)? != self.pid {
            return Ok(Some(NOTHING));
        }
        if let Some(id) = &self.listen_pidfdid {
            let id: u64 = number("LISTEN_PIDFDID", id)?;
            if self.pidfd_id.is_some_and(|own| own != id) {
                return Ok(Some(Decision::Nothing {
                    note: Some(
                        "LISTEN_PIDFDID names an earlier process with the same pid: its sockets are not used"
                            .into(),
                    ),
                }));
            }
        }
        Ok(None)
    }

    /// `systemfd --no-pid` leaves LISTEN_PID out. systemd never does: there, the variables have leaked from
    /// another process.
    fn without_pid(&self) -> Option<Decision> {
        let sign = match (&self.systemd_exec_pid, &self.invocation_id) {
            (None, None) => return None,
            (Some(_), _) => "SYSTEMD_EXEC_PID",
            (None, Some(_)) => "INVOCATION_ID",
        };
        Some(Decision::Nothing {
            note: Some(format!(
                "LISTEN_FDS is set without LISTEN_PID, and {sign} says that this runs under systemd, which \
                 always sets both: no socket is taken over. To use `systemfd --no-pid` here, start it with \
                 `env -u SYSTEMD_EXEC_PID -u INVOCATION_ID`"
            )),
        })
    }

    /// One name per descriptor; `fd3`, `fd4` ... for those without.
    fn names(&self, first: RawFd, count: RawFd) -> Result<Vec<String>, Failure> {
        let numbers = first..first + count;
        let Some(names) = &self.listen_fdnames else {
            return Ok(numbers.map(|fd| format!("fd{fd}")).collect());
        };
        let text = names.to_str().ok_or_else(|| {
            wrong(format!(
                "LISTEN_FDNAMES={} is not UTF-8: {CURE}",
                names.display()
            ))
        })?;
        let names: Vec<&str> = text.split(':').collect();
        if names.len() != numbers.len() {
            return Err(wrong(format!(
                "LISTEN_FDNAMES={text} has {} names for LISTEN_FDS={count} descriptors: {CURE}",
                names.len()
            )));
        }
        let named = |(fd, name): (RawFd, &str)| match name {
            "" => format!("fd{fd}"),
            name => name.to_owned(),
        };
        Ok(numbers.zip(names).map(named).collect())
    }
}

const CURE: &str = "let systemd or systemfd set it, or unset it and LISTEN_FDS";

fn number<T: std::str::FromStr>(variable: &str, value: &OsString) -> Result<T, Failure> {
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| {
            wrong(format!(
                "{variable}={} is not a number in range: {CURE}",
                value.display()
            ))
        })
}

fn wrong(message: String) -> Failure {
    Failure::new(ExitCode::Config, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(fds: &str) -> Snapshot {
        Snapshot {
            listen_pid: Some("77".into()),
            listen_fds: Some(fds.into()),
            pid: 77,
            ..Snapshot::default()
        }
    }

    fn names(snapshot: &Snapshot) -> Vec<String> {
        match snapshot.decide().unwrap() {
            Decision::Take { names, .. } => names,
            Decision::Nothing { note } => panic!("nothing taken: {note:?}"),
        }
    }

    fn refusal(snapshot: &Snapshot) -> String {
        let failure = snapshot.decide().unwrap_err();
        assert_eq!(failure.code(), ExitCode::Config);
        failure.to_string()
    }

    fn note(snapshot: &Snapshot) -> Option<String> {
        match snapshot.decide().unwrap() {
            Decision::Nothing { note } => note,
            Decision::Take { .. } => panic!("taken"),
        }
    }

    #[test]
    fn no_variables_mean_no_sockets() {
        assert_eq!(note(&Snapshot::default()), None);
        assert_eq!(note(&passed("0")), None);
    }

    #[test]
    fn sockets_for_another_process_are_left_alone_without_an_error() {
        let snapshot = Snapshot {
            pid: 78,
            ..passed("nonsense")
        };
        assert_eq!(note(&snapshot), None);
    }

    #[test]
    fn names_come_from_systemd_or_from_the_number() {
        let mut snapshot = passed("3");
        assert_eq!(names(&snapshot), ["fd3", "fd4", "fd5"]);
        snapshot.listen_fdnames = Some("http:http:".into());
        assert_eq!(names(&snapshot), ["http", "http", "fd5"]);
        snapshot.first_fd = Some("10".into());
        snapshot.listen_fdnames = None;
        assert_eq!(names(&snapshot), ["fd10", "fd11", "fd12"]);
    }

    #[test]
    fn a_count_that_differs_from_the_names_is_refused() {
        let snapshot = Snapshot {
            listen_fdnames: Some("a:b".into()),
            ..passed("3")
        };
        let text = refusal(&snapshot);
        assert!(
            text.contains("LISTEN_FDNAMES=a:b has 2 names for LISTEN_FDS=3"),
            "{text}"
        );
    }

    #[test]
    fn a_malformed_number_is_refused_with_its_variable_and_value() {
        for fds in ["", "x", "-1", "99999999999", "65537", " 1"] {
            assert!(
                refusal(&passed(fds)).contains(&format!("LISTEN_FDS={fds}")),
                "{fds}"
            );
        }
        let with = |change: fn(&mut Snapshot)| {
            let mut snapshot = passed("1");
            change(&mut snapshot);
            refusal(&snapshot)
        };
        assert!(with(|s| s.listen_pid = Some("me".into())).contains("LISTEN_PID=me"));
        assert!(with(|s| s.listen_pidfdid = Some("?".into())).contains("LISTEN_PIDFDID=?"));
        assert!(with(|s| s.first_fd = Some("three".into())).contains("LISTEN_FDS_FIRST_FD=three"));
        assert!(with(|s| s.first_fd = Some("2".into())).contains("first descriptor 2"));
    }

    #[test]
    fn a_pidfd_id_of_an_earlier_process_means_no_sockets() {
        let mut snapshot = Snapshot {
            listen_pidfdid: Some("1000".into()),
            ..passed("1")
        };
        assert_eq!(names(&snapshot), ["fd3"], "an old kernel cannot tell");
        snapshot.pidfd_id = Some(1000);
        assert_eq!(names(&snapshot), ["fd3"]);
        snapshot.pidfd_id = Some(1001);
        assert!(note(&snapshot).unwrap().contains("LISTEN_PIDFDID"));
    }

    #[test]
    fn the_form_without_a_pid_is_taken_outside_systemd_only() {
        let mut snapshot = Snapshot {
            listen_pid: None,
            ..passed("1")
        };
        assert_eq!(names(&snapshot), ["fd3"]);
        snapshot.invocation_id = Some("abc".into());
        assert!(note(&snapshot).unwrap().contains("INVOCATION_ID"));
        snapshot.systemd_exec_pid = Some("77".into());
        assert!(note(&snapshot).unwrap().contains("SYSTEMD_EXEC_PID says"));
    }
}
