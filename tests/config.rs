//! The command line and the configuration, from outside: the real binary, its exit codes and what it prints.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

#[allow(dead_code, reason = "a part of it is for others")]
#[path = "support/program.rs"]
mod program;

use program::write_program;

/// A run of the binary with an environment and a configuration file of its own.
struct Run {
    directory: TempDir,
    environment: Vec<(&'static str, &'static str)>,
    /// Where it finds other programs.
    path: Option<PathBuf>,
}

struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    fn with(file: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("payload.toml"), file).unwrap();
        Self {
            directory,
            environment: Vec::new(),
            path: None,
        }
    }

    fn and(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("payload.toml")
    }

    /// A systemctl(1) that says this of every unit.
    fn beside(mut self, unit: &str) -> Self {
        let folder = self.directory.path().join("bin");
        std::fs::create_dir(&folder).unwrap();
        let script = folder.join("systemctl");
        let answer = format!(
            "#!/bin/sh\necho \"$@\" >>{0}.asked\ncat <<'END'\n{unit}\nEND\n",
            script.display()
        );
        write_program(&script, answer.as_bytes(), 0o755);
        self.path = Some(folder);
        self
    }

    /// Places in what it says begin with `f` instead of the file's path.
    fn say(&self, arguments: &[&str]) -> Said {
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new(env!("CARGO_BIN_EXE_payload"))
            .args(arguments)
            .env_clear()
            .env("PAYLOAD_CONFIG", self.file())
            .envs(self.environment.iter().copied())
            .envs(
                self.path
                    .iter()
                    .map(|path| ("PATH", format!("{}:/usr/bin:/bin", path.display()))),
            )
            .output()
            .unwrap();
        let file = self.file();
        let text = |bytes| {
            String::from_utf8(bytes)
                .unwrap()
                .replace(file.to_str().unwrap(), "f")
        };
        Said {
            code: status.code().unwrap(),
            stdout: text(stdout),
            stderr: text(stderr),
        }
    }
}

#[test]
fn a_valid_configuration_passes_the_check() {
    let said = Run::with("workers = 2\n[log]\nlevel = 'debug'\n").say(&["check"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert!(!said.stdout.is_empty());
}

#[test]
fn the_shipped_example_passes_the_check() {
    let said = Run::with(include_str!("../deploy/payload.toml")).say(&["check"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
}

#[test]
fn a_wrong_configuration_fails_the_check_with_all_mistakes() {
    let run = Run::with("wokers = 2\n[http]\nmax_headers = 0\n[app]\n").and("PAYLOAD_THREAD", "2");
    for command in ["check", "config", "run"] {
        let said = run.say(&[command]);
        assert_eq!((said.code, said.stdout.as_str()), (78, ""), "{command}");
        let lines: Vec<&str> = said.stderr.lines().collect();
        assert_eq!(
            lines,
            [
                "payload: 3 mistakes in the configuration",
                "f:1:1: unknown key 'wokers'; did you mean 'workers'?",
                "f:3:15: http.max_headers = 0: zero; expected a whole number from 1 to 10000",
                "PAYLOAD_THREAD: unknown variable; did you mean PAYLOAD_THREADS?",
            ],
            "{command}"
        );
    }
}

#[test]
fn a_watchdog_and_workers_that_may_be_stuck_for_ever_do_not_go_together() {
    let run = || Run::with("[timeouts]\nheartbeat_serving = 'unlimited'\n");
    for command in ["check", "run"] {
        let said = run().and("WATCHDOG_USEC", "30000000").say(&[command]);
        assert_eq!((said.code, said.stdout.as_str()), (78, ""), "{command}");
        assert!(
            said.stderr
                .starts_with("payload: f:2:21: timeouts.heartbeat_serving = unlimited "),
            "{}",
            said.stderr
        );
        assert!(said.stderr.contains("WatchdogSec="), "{}", said.stderr);
    }
    assert_eq!(run().say(&["check"]).code, 0, "without a watchdog");
    let other = run()
        .and("WATCHDOG_USEC", "30000000")
        .and("WATCHDOG_PID", "1");
    assert_eq!(other.say(&["check"]).code, 0, "that of another process");
}

/// As systemctl(1) shows a unit that runs the binary under test.
fn unit(start: &str, stop: &str) -> String {
    let program = env!("CARGO_BIN_EXE_payload");
    format!(
        "LoadState=loaded\nTimeoutStartUSec={start}\nTimeoutStopUSec={stop}\n\
         ExecStart={{ path={program} ; argv[]={program} run ; ignore_errors=no ; pid=0 ; code=(null) }}"
    )
}

#[test]
fn deadlines_are_compared_with_those_of_the_unit_that_runs_this_program() {
    let slow = "[timeouts]\ngraceful = '50s'\n";
    let said = Run::with(slow)
        .beside(&unit("1min 30s", "1min"))
        .say(&["check"]);
    assert_eq!((said.code, said.stdout.as_str()), (78, ""));
    assert!(
        said.stderr
            .starts_with("payload: f:2:12: a stop may take 64s: timeouts.graceful = 50s, "),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr
            .contains("payload.service allows 1m (TimeoutStopSec=)"),
        "{}",
        said.stderr
    );
    let said = Run::with(slow)
        .beside(&unit("1min 30s", "1min 4s"))
        .say(&["check"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert!(
        said.stdout.ends_with(
            "payload: a start may take 74s and a stop 64s; payload.service allows 90s and 64s\n"
        ),
        "{}",
        said.stdout
    );
    let said = Run::with(slow)
        .beside(&unit("infinity", "infinity"))
        .say(&["check"]);
    assert!(
        said.stdout.ends_with("allows any time and any time\n"),
        "{}",
        said.stdout
    );
    // What runs another program says nothing about this one, unless it is named.
    let other = unit("1s", "1s").replace(env!("CARGO_BIN_EXE_payload"), "/usr/bin/true");
    let run = Run::with(slow).beside(&other);
    assert_eq!(run.say(&["check"]).code, 0);
    let said = run.say(&["check", "--unit", "other"]);
    assert_eq!(said.code, 78);
    assert!(
        said.stderr
            .contains("other.service allows 1s (TimeoutStartSec=)"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr
            .contains("other.service allows 1s (TimeoutStopSec=)"),
        "{}",
        said.stderr
    );
    // Only the check asks.
    assert_eq!(run.say(&["config"]).code, 0);
    let asked = std::fs::read_to_string(run.directory.path().join("bin/systemctl.asked")).unwrap();
    let asked: Vec<_> = asked
        .lines()
        .filter_map(|line| line.split_once(" -- "))
        .collect();
    assert_eq!(
        asked.iter().map(|(_, unit)| *unit).collect::<Vec<_>>(),
        ["payload.service", "other"]
    );
}

#[test]
fn a_unit_that_cannot_be_asked_about_is_an_error_only_where_it_was_named() {
    let missing = unit("1s", "1s")
        .replace("loaded", "not-found")
        .replace(env!("CARGO_BIN_EXE_payload"), "");
    let run = Run::with("").beside(&missing);
    assert_eq!(run.say(&["check"]).code, 0);
    let said = run.say(&["check", "--unit", "nothing"]);
    assert_eq!(said.code, 78);
    assert_eq!(
        said.stderr,
        "payload: --unit nothing: systemd has no such unit\n"
    );
    for broken in ["", "LoadState=loaded\nTimeoutStartUSec=soon"] {
        let run = Run::with("").beside(broken);
        let said = run.say(&["check"]);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""));
        assert!(
            said.stdout.ends_with("were not looked at\n"),
            "{}",
            said.stdout
        );
        assert_eq!(run.say(&["check", "--unit", "payload"]).code, 69);
    }
}

#[test]
fn the_shipped_unit_allows_the_defaults_and_the_shipped_configuration() {
    let shipped = include_str!("../deploy/systemd/payload.service");
    let of = |key: &str| {
        let line = shipped.lines().find_map(|line| line.strip_prefix(key));
        line.expect("the unit has it")
    };
    let unit = unit(of("TimeoutStartSec="), of("TimeoutStopSec="));
    for configuration in ["", include_str!("../deploy/payload.toml")] {
        let said = Run::with(configuration).beside(&unit).say(&["check"]);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""));
        assert!(
            said.stdout
                .contains("; payload.service allows 90s and 1m\n"),
            "{}",
            said.stdout
        );
    }
}

#[test]
fn a_syntax_error_shows_its_line() {
    let said = Run::with("[http\nmax_headers = 3\n").say(&["check"]);
    assert_eq!(said.code, 78);
    assert!(
        said.stderr.starts_with("payload: f:1:6: "),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr.ends_with("\n  1 | [http\n    |      ^\n"),
        "{}",
        said.stderr
    );
}

#[test]
fn a_key_that_the_app_does_not_know_fails_the_check() {
    // Nothing in the type of the app's settings asks for that.
    let said = Run::with("[app]\nsurely_unknown = 1\n").say(&["check"]);
    assert_eq!(said.code, 78);
    assert!(
        said.stderr
            .contains("f:2:1: unknown key 'app.surely_unknown'"),
        "{}",
        said.stderr
    );
}

#[test]
fn a_file_that_is_not_there_is_a_configuration_error() {
    let said = Run::with("").say(&["check", "--config", "/nowhere/payload.toml"]);
    assert_eq!(said.code, 78);
    assert!(
        said.stderr
            .contains("--config: cannot read /nowhere/payload.toml"),
        "{}",
        said.stderr
    );
}

#[test]
fn each_value_comes_with_its_origin() {
    let run = Run::with("backlog = 9\n")
        .and("PAYLOAD_LOG_LEVEL", "warn")
        .and("WEB_CONCURRENCY", "5");
    let said = run.say(&["config", "--threads", "2"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    let row = |key: &str| {
        let line = said
            .stdout
            .lines()
            .find(|line| line.split_whitespace().next() == Some(key));
        line.unwrap()
            .split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(row("config"), "f PAYLOAD_CONFIG");
    assert_eq!(row("backlog"), "9 f:1:11");
    assert_eq!(row("workers"), "5 WEB_CONCURRENCY");
    assert_eq!(row("threads"), "2 --threads");
    assert_eq!(row("log.level"), "warn PAYLOAD_LOG_LEVEL");
    assert_eq!(row("restart.crash_budget"), "10 default");
}

#[test]
fn the_configuration_as_json() {
    let said = Run::with("workers = 3\n").say(&["config", "--json"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    let json: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let settings = json["settings"].as_array().unwrap();
    let workers = settings
        .iter()
        .find(|setting| setting["key"] == "workers")
        .unwrap();
    assert_eq!(workers["value"], 3);
    assert_eq!(workers["origin"]["line"], 1);
    assert_eq!(json["file"]["found"], true);
}

#[test]
fn wrong_flags_are_usage_errors() {
    let run = Run::with("");
    for arguments in [
        &["--wokers", "2"][..],
        &["statsu"],
        &["check", "--json"],
        &["check", "--workers", "none"],
        &["status", "--workers", "2"],
    ] {
        let said = run.say(arguments);
        assert_eq!((said.code, said.stdout.as_str()), (64, ""), "{arguments:?}");
        assert!(!said.stderr.is_empty());
    }
}

#[test]
fn help_and_version() {
    let run = Run::with("");
    for arguments in [&["--help"][..], &["run", "--help"], &["-h"]] {
        let said = run.say(arguments);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(said.stdout.contains("--workers"), "{}", said.stdout);
    }
    let version = run.say(&["--version"]).stdout;
    assert_eq!(version, format!("payload {}\n", env!("CARGO_PKG_VERSION")));
}

/// The affinity of the process is what it may use, whatever the machine has.
#[test]
fn auto_is_one_worker_per_cpu_that_may_be_used() {
    let output = Command::new("taskset")
        .args(["-c", "0", env!("CARGO_BIN_EXE_payload"), "config", "--json"])
        .env_clear()
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let settings = report["settings"].as_array().unwrap();
    let workers = settings
        .iter()
        .find(|setting| setting["key"] == "workers")
        .unwrap();
    assert_eq!(
        workers["value"].to_string().trim_matches('"'),
        "1",
        "{workers}"
    );
}
