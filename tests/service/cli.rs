//! The command line from outside: exit codes, and on which stream what is said.

use std::fs;
use std::process::Output;

use serde_json::Value;

use crate::support::service::payload;

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn run(arguments: &[&str]) -> Said {
    said(payload(arguments).output().unwrap())
}

/// With a configuration file of this text.
fn run_with(toml: &str, arguments: &[&str]) -> Said {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("service.toml");
    fs::write(&file, toml).unwrap();
    said(
        payload(arguments)
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap(),
    )
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code().expect("a code"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn help_and_version() {
    let said = run(&["--version"]);
    assert_eq!((said.code, &*said.err), (0, ""));
    assert_eq!(said.out, format!("payload {}\n", env!("CARGO_PKG_VERSION")));
    let said = run(&["--help"]);
    assert_eq!((said.code, &*said.err), (0, ""));
    for word in [
        "run",
        "check",
        "config",
        "status",
        "--workers",
        "--listen",
        "--config",
    ] {
        assert!(said.out.contains(word), "{word} in\n{}", said.out);
    }
    let same = run(&["help"]);
    assert_eq!((same.code, same.out), (0, said.out));
}

#[test]
fn wrong_flags_are_64() {
    for (arguments, hint) in [
        (&["--wokers=2"][..], "--workers"),
        (&["statsu"], "status"),
        (&["run", "extra"], "extra"),
        (&["check", "--workers"], "--workers"),
    ] {
        let said = run(arguments);
        assert_eq!((said.code, &*said.out), (64, ""), "{arguments:?}");
        assert!(said.err.contains(hint), "{}", said.err);
    }
}

#[test]
fn check_says_that_all_is_well() {
    let said = run_with("workers = 2\n[http]\nmax_headers = 50\n", &["check"]);
    assert_eq!((said.code, &*said.err), (0, ""));
    assert!(
        said.out
            .starts_with("payload: the configuration is valid ("),
        "{}",
        said.out
    );
}

#[test]
fn check_and_run_refuse_the_same_with_78_and_the_cure() {
    for command in ["check", "run", "config"] {
        let said = run_with("workers = 2\n[http]\nmax_heders = 50\n", &[command]);
        assert_eq!((said.code, &*said.out), (78, ""), "{command}: {}", said.err);
        for part in ["service.toml", "3:1", "max_heders", "max_headers"] {
            assert!(
                said.err.contains(part),
                "{command}: {part} in\n{}",
                said.err
            );
        }
    }
    let said = run_with("workers = \"many\"\n", &["check"]);
    assert_eq!(said.code, 78);
    assert!(
        said.err.contains("workers") && said.err.contains("many"),
        "{}",
        said.err
    );
    let said = run(&["check", "--config", "/does/not/exist.toml"]);
    assert_eq!(said.code, 78);
    assert!(said.err.contains("/does/not/exist.toml"), "{}", said.err);
}

#[test]
fn the_apps_own_settings_are_checked_too() {
    let said = run_with("[app]\nno_such_setting = 1\n", &["check"]);
    assert_eq!((said.code, &*said.out), (78, ""), "{}", said.err);
    assert!(said.err.contains("no_such_setting"), "{}", said.err);
}

#[test]
fn config_shows_each_value_with_its_origin() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("service.toml");
    fs::write(&file, "threads = 2\nworkers = 7\n").unwrap();
    let command = |json: bool| {
        let mut command = payload(&["config", "--max-headers=33"]);
        command
            .arg("--config")
            .arg(&file)
            .env("PAYLOAD_WORKERS", "5");
        if json {
            command.arg("--json");
        }
        said(command.output().unwrap())
    };
    let people = command(false);
    assert_eq!((people.code, &*people.err), (0, ""));
    let line = |key: &str| {
        let found = people
            .out
            .lines()
            .find(|line| line.trim_start().starts_with(key));
        found
            .unwrap_or_else(|| panic!("{key} in\n{}", people.out))
            .to_owned()
    };
    assert!(line("workers").contains('5') && line("workers").contains("PAYLOAD_WORKERS"));
    assert!(line("threads").contains('2') && line("threads").contains("service.toml"));
    assert!(people.out.contains("--max-headers"), "{}", people.out);
    let programs: Value = serde_json::from_str(&command(true).out).unwrap();
    let settings = programs["settings"].as_array().unwrap();
    assert!(
        settings.iter().any(|setting| setting["key"] == "workers"),
        "{programs}"
    );
    assert_eq!(programs["file"]["found"], true);
}
