//! A whole Debian with a real systemd as PID 1, booted for one test and gone after it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _, stderr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::base::Suite;
use crate::cgroup::{Group, PREFIX};
use crate::support::eventually;
use crate::support::program::{copy_program, write_program};
use crate::turn::Turn;

const BOOT: Duration = Duration::from_secs(60);
/// How long one command in a machine may take, if nothing else is said.
const COMMAND: Duration = Duration::from_secs(90);

/// A booted machine: its own processes, network (loopback only), host name, and a throw-away overlay over
/// the suite's root.
///
/// It ends with this value, and also when the thread or the process of the test dies in any way.
pub(crate) struct Machine {
    name: String,
    /// The process that everything of the machine hangs on.
    holder: Child,
    /// PID 1 of the machine, as the host sees it.
    leader: u32,
    console: File,
    // Fields are dropped in order: the cgroup after `drop` has ended the machine, the turn last.
    _group: Group,
    _turn: Turn,
}

/// What a command in a machine came to.
#[derive(Debug)]
pub(crate) struct Output {
    /// `None`: ended by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command that runs in a machine beside the test.
pub(crate) struct Running {
    script: String,
    limit: Duration,
    child: Option<Child>,
}

impl Machine {
    /// Boots one. `None` where this machine cannot; see [`Suite::root`].
    pub(crate) fn boot(suite: Suite) -> Option<Self> {
        let root = suite.root()?;
        let turn = Turn::take();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}", std::process::id());
        let group = Group::new(&name);
        let console = tempfile::tempfile().expect("a file for the console");

        let holder = Command::new("sh")
            .args(["-ec", JOIN_AND_EXEC, "sh"])
            .args(group.folders())
            .arg("--")
            // The holder dies with the thread that booted it, and the process namespace with the holder.
            .args(["setpriv", "--pdeathsig", "KILL"])
            .args([
                "unshare",
                "--pid",
                "--fork",
                "--kill-child=KILL",
                "--mount-proc",
            ])
            .args([
                "systemd-nspawn",
                "--quiet",
                "--boot",
                "--volatile=overlay",
                "--private-network",
            ])
            .args(["--register=no", "--keep-unit", "--console=read-only"])
            .arg(format!("--machine={name}"))
            .arg(format!("--directory={}", root.display()))
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            // Machines share the root, which the overlay keeps as it is.
            .env("SYSTEMD_NSPAWN_LOCK", "0")
            .stdin(Stdio::null())
            .stdout(console.try_clone().expect("the console"))
            .stderr(console.try_clone().expect("the console"))
            .spawn()
            .expect("start systemd-nspawn");

        let mut machine = Self {
            name,
            holder,
            leader: 0,
            console,
            _group: group,
            _turn: turn,
        };
        machine.leader = eventually("systemd takes its own cgroup", BOOT, || {
            assert!(
                machine.holder.try_wait().expect("wait").is_none(),
                "systemd-nspawn ended"
            );
            machine._group.first_process("payload/init.scope")
        });
        eventually("the machine has booted", BOOT, || {
            let output = machine.run("systemctl is-system-running --wait");
            (output.stdout.trim() == "running").then_some(())
        });
        Some(machine)
    }

    /// Runs a shell script to its end.
    #[track_caller]
    pub(crate) fn run(&self, script: &str) -> Output {
        self.start(script).finish()
    }

    /// Runs a shell script that must succeed, and gives back what it printed, without the last newline.
    #[track_caller]
    pub(crate) fn ok(&self, script: &str) -> String {
        let output = self.run(script);
        assert_eq!(
            output.code,
            Some(0),
            "{script}\n{}{}",
            output.stdout,
            output.stderr
        );
        output.stdout.trim_end().to_owned()
    }

    /// Starts a shell script beside the test.
    #[track_caller]
    pub(crate) fn start(&self, script: &str) -> Running {
        self.start_within(COMMAND, script)
    }

    /// The same for one that takes longer.
    #[track_caller]
    pub(crate) fn start_within(&self, limit: Duration, script: &str) -> Running {
        let child = self.command(limit, script).spawn().expect("nsenter");
        Running {
            script: script.to_owned(),
            limit,
            child: Some(child),
        }
    }

    /// Writes a file, and the folders it needs.
    pub(crate) fn write_file(&self, path: &str, text: &str) {
        let host = self.host_path(path);
        fs::create_dir_all(host.parent().expect("a folder")).expect("make its folder");
        write_program(&host, text.as_bytes(), 0o644);
    }

    /// Copies a file of the host.
    pub(crate) fn copy_in(&self, from: &Path, path: &str, mode: u32) {
        let host = self.host_path(path);
        copy_program(from, &host);
        fs::set_permissions(&host, fs::Permissions::from_mode(mode)).expect("its mode");
    }

    fn command(&self, limit: Duration, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--mount", "--pid", "--cgroup", "--ipc", "--uts", "--net", "--target",
            ])
            .arg(self.leader.to_string())
            .args(["--", "timeout", "--kill-after=1"])
            .arg(limit.as_secs().to_string())
            .args(["sh", "-c", script])
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LC_ALL", "C.UTF-8")
            .env("SYSTEMD_COLORS", "0")
            .env("SYSTEMD_PAGER", "")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// A path in the machine as the host reaches it. An absolute link on the way would lead to the host's
    /// files: give paths without one.
    fn host_path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader))
    }

    /// Prints what a person would look at first. Must not panic: it runs while a panic unwinds.
    fn explain(&mut self) {
        let mut console = Vec::new();
        let _ = self
            .console
            .rewind()
            .and_then(|()| self.console.read_to_end(&mut console));
        let mut text = format!("--- {}, console:\n", self.name).into_bytes();
        text.extend(console);
        text.extend(b"\n--- journal:\n");
        if self.leader != 0
            && let Ok(journal) = self
                .command(COMMAND, "journalctl --boot --no-pager --lines=100")
                .output()
        {
            text.extend(journal.stdout);
        }
        let _ = stderr().write_all(&text);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.explain();
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = fs::remove_dir(format!("/run/systemd/nspawn/propagate/{}", self.name));
    }
}

impl Running {
    /// Waits for its end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Output {
        let child = self.child.take().expect("it runs");
        let output = child.wait_with_output().expect("wait for nsenter");
        // What timeout(1) ends with.
        assert_ne!(
            output.status.code(),
            Some(124),
            "longer than {:?}: {}",
            self.limit,
            self.script
        );
        Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> bool {
        self.child
            .as_mut()
            .is_none_or(|child| child.try_wait().expect("wait").is_some())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Enters the cgroups before `--`, then becomes the command behind it.
const JOIN_AND_EXEC: &str =
    r#"while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@""#;
