//! The layers together: what wins, what is refused and in which words.

mod zero;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::Source;
use super::file::{Choice, File};
use super::origin::Origin;
use super::*;
use crate::exit::ExitCode;

/// What a test gives to a load. The file is called `f`.
#[derive(Clone, Default)]
struct Given<'a> {
    flags: &'a [(&'a str, &'a str)],
    environment: &'a [(&'a str, &'a str)],
    file: Option<&'a str>,
}

fn variables(pairs: &[(&str, &str)]) -> impl Iterator<Item = (OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect::<Vec<_>>()
        .into_iter()
}

fn flags(given: &[(&str, &str)]) -> Flags {
    let mut flags = Flags::default();
    for (flag, value) in given {
        let setting = SETTINGS
            .iter()
            .find(|setting| setting.flag == *flag)
            .unwrap();
        flags.set(setting, vec![(*value).to_owned()]);
    }
    flags
}

impl Given<'_> {
    fn load(&self) -> Result<Loaded, Failure> {
        let environment = Environment::new(variables(self.environment));
        let path = PathBuf::from("f");
        let origin = Origin::Flag("--config");
        let choice = Choice {
            path: path.clone(),
            origin,
        };
        let source = Ok(self.file.map(|text| Source {
            path,
            text: text.to_owned(),
        }));
        let file = File { choice, source };
        layers::resolve(
            "demo",
            &flags(self.flags),
            &environment,
            file,
            &Host { cpus: 3 },
        )
    }

    fn config(&self) -> Config {
        self.load().unwrap().config
    }

    /// The lines about single mistakes.
    fn told(&self) -> String {
        let failure = self.load().unwrap_err();
        assert_eq!(failure.code(), ExitCode::Config);
        let text = failure.to_string();
        match text.split_once('\n') {
            Some((header, lines)) if header.ends_with("mistakes in the configuration") => {
                lines.to_owned()
            }
            _ => text,
        }
    }
}

fn from_file(text: &str) -> Given<'_> {
    Given {
        file: Some(text),
        ..Given::default()
    }
}

fn from_environment<'a>(environment: &'a [(&'a str, &'a str)]) -> Given<'a> {
    Given {
        environment,
        ..Given::default()
    }
}

fn origin(report: &Report, key: &str) -> String {
    report
        .entries
        .iter()
        .find(|entry| entry.key == key)
        .unwrap()
        .origin
        .to_string()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_defaults() {
    let config = Given::default().config();
    assert_eq!(config.listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(
        (config.backlog, config.workers, config.threads),
        (4096, 3, 1)
    );
    assert_eq!(config.control, None);
    assert_eq!(config.http.header_read_timeout, 10 * SECOND);
    assert_eq!(config.http.keep_alive_timeout, 75 * SECOND);
    assert_eq!(config.http.max_head_size, 65_536);
    assert_eq!(config.http.max_headers, 100);
    assert_eq!(config.http.max_connections, 10_000);
    assert_eq!(config.http.max_streams, 200);
    assert_eq!(config.timeouts.startup, Some(60 * SECOND));
    assert_eq!(config.timeouts.graceful, Some(30 * SECOND));
    assert_eq!(config.timeouts.cleanup, Some(10 * SECOND));
    assert_eq!(config.timeouts.heartbeat_boot, Some(60 * SECOND));
    assert_eq!(config.timeouts.heartbeat_serving, Some(30 * SECOND));
    assert_eq!(config.timeouts.heartbeat_stopping, Some(30 * SECOND));
    assert_eq!(config.timeouts.abort_grace, 2 * SECOND);
    assert_eq!(config.recycle.max_requests, None);
    assert_eq!(config.recycle.max_requests_jitter, 0);
    assert_eq!(config.recycle.max_age, None);
    assert_eq!(config.recycle.max_memory, None);
    assert_eq!(config.restart.backoff_initial, SECOND / 10);
    assert_eq!(config.restart.backoff_max, 30 * SECOND);
    assert_eq!(config.restart.crash_budget, 10);
    assert_eq!(config.restart.crash_window, 60 * SECOND);
    assert_eq!(config.log.format, LogFormat::Auto);
    assert_eq!(config.log.level, "info");
}

#[test]
fn each_layer_wins_over_the_one_below() {
    let mut given = from_file("workers = 2");
    let seen = |given: &Given<'_>| {
        let loaded = given.load().unwrap();
        (loaded.config.workers, origin(&loaded.report, "workers"))
    };
    assert_eq!(seen(&Given::default()), (3, "default".into()));
    assert_eq!(seen(&given), (2, "f:1:11".into()));
    given.environment = &[("WEB_CONCURRENCY", "4")];
    assert_eq!(seen(&given), (4, "WEB_CONCURRENCY".into()));
    given.environment = &[("WEB_CONCURRENCY", "4"), ("PAYLOAD_WORKERS", "5")];
    assert_eq!(seen(&given), (5, "PAYLOAD_WORKERS".into()));
    given.flags = &[("--workers", "6")];
    assert_eq!(seen(&given), (6, "--workers".into()));
}

#[test]
fn port_listens_everywhere() {
    let config = from_environment(&[("PORT", "80")]).config();
    assert_eq!(config.listen, ["0.0.0.0:80".parse().unwrap()]);
    let both = from_environment(&[("PORT", "80"), ("PAYLOAD_LISTEN", "unix:@a,unix:@b")]).config();
    assert_eq!(
        both.listen,
        ["unix:@a".parse().unwrap(), "unix:@b".parse().unwrap()]
    );
}

#[test]
fn a_platform_variable_that_nobody_needs_is_not_judged() {
    let environment = &[("PORT", "http"), ("PAYLOAD_LISTEN", ":1")];
    assert_eq!(from_environment(environment).config().listen.len(), 1);
}

#[test]
fn every_way_to_write_a_table_works() {
    for text in [
        "[http]\nmax_headers = 7\n[log]\nlevel = 'warn'",
        "http.max_headers = 7\nlog.level = \"warn\"",
        "http = { max_headers = 7 }\nlog = { level = \"\"\"warn\"\"\" }",
        "[http]\n\"max_headers\" = 0x7 # comment\n[log]\n'level' = '''warn'''\n",
    ] {
        let config = from_file(text).config();
        assert_eq!(
            (config.http.max_headers, config.log.level.as_str()),
            (7, "warn"),
            "{text}"
        );
    }
}

#[test]
fn a_file_may_use_every_form() {
    let config = from_file(
        r#"
        listen = [":1", "unix:/x"]
        workers = "auto"
        http.max_head_size = "1MiB"
        timeouts = { startup = "unlimited", graceful = 0, cleanup = "0" }
        recycle = { max_requests = 1_000, max_requests_jitter = 10, max_age = "1d", max_memory = "off" }
        log.format = "json"
        "#,
    )
    .config();
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.workers, 3);
    assert_eq!(config.http.max_head_size, 1 << 20);
    assert_eq!(config.timeouts.startup, None);
    assert_eq!(config.timeouts.graceful, Some(Duration::ZERO));
    assert_eq!(config.timeouts.cleanup, Some(Duration::ZERO));
    assert_eq!(config.recycle.max_requests, Some(1000));
    assert_eq!(config.recycle.max_requests_jitter, 10);
    assert_eq!(config.recycle.max_age, Some(86_400 * SECOND));
    assert_eq!(config.recycle.max_memory, None);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(
        from_file("listen = ':9'").config().listen,
        [":9".parse().unwrap()]
    );
    assert_eq!(from_file("").config().workers, 3);
}

#[test]
fn wrong_values_say_what_where_and_what_is_right() {
    let workers = "expected \"auto\" or a whole number from 1 to 128";
    let span = "expected a duration such as \"250ms\", \"30s\", \"5m\" or \"1h30m\"";
    let address = "expected an address such as \"127.0.0.1:8080\", \"[::1]:8080\", \":8080\", \
                   \"unix:/run/x.sock\" or \"unix:@name\"";
    for (text, message) in [
        ("workers = 0", format!("f:1:11: workers = 0: zero; {workers}")),
        ("workers = 129", format!("f:1:11: workers = 129: too large; {workers}")),
        ("workers = -1", format!("f:1:11: workers = -1: negative; {workers}")),
        (
            "workers = 99999999999999999999999999999999999999999999",
            format!("f:1:11: workers = 99999999999999999999999999999999999999999999: too large; {workers}"),
        ),
        ("workers = 1.5", format!("f:1:11: workers = 1.5: a number with a fraction; {workers}")),
        ("workers = true", format!("f:1:11: workers = true: a boolean; {workers}")),
        ("workers = [1]", format!("f:1:11: workers = [1]: an array; {workers}")),
        ("workers = 2020-01-01", format!("f:1:11: workers = 2020-01-01: a date or time; {workers}")),
        ("workers = \"4\"", format!("f:1:11: workers = \"4\": a number in quotes; {workers}")),
        ("[workers]", format!("f:1:1: workers = {{…}}: a table; {workers}")),
        (
            "[http]\n  keep_alive_timeout = 30",
            format!("f:2:24: http.keep_alive_timeout = 30: no unit after 30; {span}, or \"0\""),
        ),
        (
            "timeouts.heartbeat_serving = \"500ms\"",
            format!(
                "f:1:30: timeouts.heartbeat_serving = \"500ms\": too short; {span}, at least 1s, or \
                 \"unlimited\""
            ),
        ),
        (
            "http.max_head_size = 8191",
            "f:1:22: http.max_head_size = 8191: too small; expected a size such as \"64KiB\", \"10MB\" or a \
             number of bytes, from 8KiB to 16MiB"
                .to_owned(),
        ),
        (
            "listen = [':1', 'x', 3, ':1', []]",
            format!(
                "f:1:17: listen = 'x': no port; {address}\n\
                 f:1:22: listen = 3: a number; {address}\n\
                 f:1:25: listen = ':1': 0.0.0.0:1 is there twice; expected each address once\n\
                 f:1:31: listen = []: an array in an array; {address}"
            ),
        ),
        ("listen = []", format!("f:1:10: listen = []: no address; {address}")),
        ("http = 3", "f:1:8: http = 3: expected a table, [http]".to_owned()),
        ("[[http]]\nmax_headers = 3", "f:1:1: http = [[http]]: expected a table, [http]".to_owned()),
        ("app = 3", "f:1:7: app = 3: expected a table, [app]".to_owned()),
    ] {
        assert_eq!(from_file(text).told(), message, "{text}");
    }
}

#[test]
fn unknown_keys_name_the_nearest() {
    for (text, message) in [
        (
            "wokers = 2",
            "f:1:1: unknown key 'wokers'; did you mean 'workers'?",
        ),
        (
            "\n  [http]\n  max_header = 2",
            "f:3:3: unknown key 'http.max_header'; did you mean 'http.max_headers'?",
        ),
        (
            "http = { keepalive = 2 }",
            "f:1:10: unknown key 'http.keepalive'; did you mean 'http.keep_alive_timeout'?",
        ),
        (
            "log.levle = 'x'",
            "f:1:5: unknown key 'log.levle'; did you mean 'log.level'?",
        ),
        (
            "max_requests = 2",
            "f:1:1: unknown key 'max_requests'; did you mean 'recycle.max_requests'?",
        ),
        (
            "[timeouts]\nbackoff_max = 2",
            "f:2:1: unknown key 'timeouts.backoff_max'; did you mean 'restart.backoff_max'?",
        ),
        (
            "'a b' = 2",
            "f:1:1: unknown key '\"a b\"'; known here: listen, backlog, workers, threads, idle_exit",
        ),
        (
            "log.zzz = 2",
            "f:1:5: unknown key 'log.zzz'; known here: format, level",
        ),
        (
            "[timeout]",
            "f:1:2: unknown table [timeout]; did you mean [timeouts]?",
        ),
        (
            "[htpp]\nmax_headers = 2",
            "f:1:2: unknown table [htpp]; did you mean [http]?",
        ),
        (
            "apps.x = 1",
            "f:1:1: unknown table [apps]; did you mean [app]?",
        ),
        (
            "[http.max_headerz]",
            "f:1:7: unknown key 'http.max_headerz'; did you mean 'http.max_headers'?",
        ),
        (
            "control = '/x'",
            "f:1:1: 'control' cannot stand in a file, where clients do not look; use --control or PAYLOAD_CONTROL",
        ),
    ] {
        assert_eq!(from_file(text).told(), message, "{text}");
    }
}

#[test]
fn syntax_errors_show_the_line() {
    assert_eq!(
        from_file("workers = 2\n\tlevel = \"a\n[http]\n").told(),
        "f:2:12: invalid basic string, expected `\"`\n  2 | \tlevel = \"a\n    | \t          ^"
    );
    assert_eq!(
        from_file("a = 1\na = 2").told(),
        "f:2:1: duplicate key\n  2 | a = 2\n    | ^"
    );
    let several = from_file("a = \nb = 1\nc d\n").told();
    assert!(
        several.contains("f:1:5: ") && several.contains("f:3:3: "),
        "{several}"
    );
}

#[test]
fn a_broken_line_is_told_once() {
    assert_eq!(
        from_file("a = { b = 1 c = 2 }\n").told(),
        "f:1:11: string values must be quoted, expected literal string\n  \
         1 | a = { b = 1 c = 2 }\n    |           ^"
    );
}

#[test]
fn pauses_that_do_not_grow_are_fine() {
    from_file("restart = { backoff_initial = '1s', backoff_max = '1s' }").config();
}

#[test]
fn combinations_that_mean_nothing_are_refused() {
    for (text, message) in [
        (
            "restart.backoff_initial = '1m'",
            "f:1:27: restart.backoff_initial = 1m is longer than restart.backoff_max = 30s (default); \
             lower the first or raise the second",
        ),
        (
            "restart.backoff_max = '50ms'",
            "f:1:23: restart.backoff_initial = 100ms (default) is longer than restart.backoff_max = 50ms; \
             lower the first or raise the second",
        ),
        (
            "recycle.max_requests_jitter = 5",
            "f:1:31: recycle.max_requests_jitter = 5 has nothing to add to, with recycle.max_requests = off \
             (default); set the second, or leave the first out",
        ),
        (
            "timeouts.cleanup = 0",
            "f:1:20: timeouts.cleanup = 0 would break off every teardown after waiting for requests, with \
             timeouts.graceful = 30s (default); give the first some time, or make both 0 to stop at once",
        ),
    ] {
        assert_eq!(from_file(text).told(), message, "{text}");
    }
    let flags = Given {
        flags: &[("--backoff-initial", "1h")],
        ..Given::default()
    };
    let failure = flags.load().unwrap_err();
    assert_eq!(failure.code(), ExitCode::Usage);
    assert!(
        failure
            .to_string()
            .starts_with("--backoff-initial: restart.backoff_initial = 1h is longer")
    );
}

const WATCHED: Surroundings = Surroundings {
    watched: true,
    own_sockets: false,
};

#[test]
fn under_a_watchdog_no_worker_may_be_silent_for_ever() {
    let told = |given: Given<'_>| {
        let failure = given.load().unwrap().check_against(WATCHED).unwrap_err();
        assert_eq!(failure.code(), ExitCode::Config, "a flag is no exception");
        failure.to_string()
    };
    assert_eq!(
        told(from_file("timeouts.heartbeat_serving = 'unlimited'")),
        "f:1:30: timeouts.heartbeat_serving = unlimited leaves nothing to the watchdog that WATCHDOG_USEC asks for: \
         a worker that is stuck would never be found; give it a limit, or take WatchdogSec= out of the unit"
    );
    let flags = Given {
        flags: &[("--heartbeat-boot", "unlimited")],
        environment: &[("PAYLOAD_TIMEOUTS_HEARTBEAT_STOPPING", "unlimited")],
        ..Given::default()
    };
    let both = told(flags);
    assert!(
        both.contains("\nPAYLOAD_TIMEOUTS_HEARTBEAT_STOPPING: timeouts.heartbeat_stopping = ")
            && both.contains("\n--heartbeat-boot: timeouts.heartbeat_boot = "),
        "{both}"
    );
    for fine in [
        "",
        "timeouts = { heartbeat_serving = '1d', startup = 'unlimited' }",
    ] {
        from_file(fine)
            .load()
            .unwrap()
            .check_against(WATCHED)
            .unwrap();
    }
}

fn unit(start: Option<u64>, stop: Option<u64>) -> crate::systemd::unit::Limits {
    crate::systemd::unit::Limits {
        unit: "a.service".to_owned(),
        start: start.map(Duration::from_secs),
        stop: stop.map(Duration::from_secs),
    }
}

#[test]
fn deadlines_that_the_unit_does_not_allow_are_refused_with_the_numbers() {
    let told = |given: Given<'_>, unit| {
        let failure = given.load().unwrap().check_against_unit(&unit).unwrap_err();
        assert_eq!(failure.code(), ExitCode::Config, "a flag is no exception");
        failure.to_string()
    };
    assert_eq!(
        told(
            from_file("[timeouts]\ncleanup = '20s'\ngraceful = '2m'"),
            unit(Some(100), Some(60))
        ),
        "f:3:12: a stop may take 144s: timeouts.graceful = 2m, timeouts.cleanup = 20s, timeouts.abort_grace = 2s, and \
         2s until a stuck worker is given up; a.service allows 1m (TimeoutStopSec=); lower the first or raise the second"
    );
    let flags = Given {
        flags: &[("--cleanup-timeout", "unlimited")],
        ..Given::default()
    };
    let both = told(flags, unit(Some(90), Some(60)));
    assert!(
        both.contains("\n--cleanup-timeout: a start may take for ever: timeouts.startup = 1m, ")
            && both.contains(
                "\n--cleanup-timeout: a stop may take for ever: timeouts.graceful = 30s, "
            ),
        "{both}"
    );
    // All defaults: the unit is too tight.
    let told = told(Given::default(), unit(None, Some(43)));
    assert!(told.starts_with("a stop may take 44s: "), "{told}");
}

#[test]
fn deadlines_that_the_unit_allows_are_fine() {
    for (text, unit) in [
        ("", unit(Some(74), Some(44))),
        (
            "timeouts = { graceful = '0s', cleanup = '0s', abort_grace = '0s' }",
            unit(Some(62), Some(2)),
        ),
        (
            "timeouts = { graceful = 'unlimited', startup = 'unlimited' }",
            unit(None, None),
        ),
    ] {
        from_file(text)
            .load()
            .unwrap()
            .check_against_unit(&unit)
            .unwrap();
    }
}

#[test]
fn a_service_that_binds_its_own_sockets_does_not_leave_them() {
    let own_sockets = Surroundings {
        own_sockets: true,
        ..Surroundings::default()
    };
    let loaded = from_file("idle_exit = '5m'").load().unwrap();
    let failure = loaded.check_against(own_sockets).unwrap_err();
    assert_eq!(failure.code(), ExitCode::Config);
    assert_eq!(
        failure.to_string(),
        "f:1:13: idle_exit = 5m needs sockets that systemd keeps, and none was passed: nobody could reach the \
         service once it has left; start it by its socket unit, or set idle_exit = \"off\""
    );
    loaded.check_against(Surroundings::default()).unwrap();
    for fine in ["", "idle_exit = 'off'"] {
        let loaded = from_file(fine).load().unwrap();
        loaded.check_against(own_sockets).unwrap();
    }
}

#[test]
fn a_combination_with_a_wrong_value_is_not_judged() {
    let told = from_file("restart = { backoff_initial = '1m', backoff_max = 'x' }").told();
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn everything_wrong_is_told_at_once() {
    let given = Given {
        flags: &[("--threads", "none")],
        environment: &[("PAYLOAD_BACKLOG", "0"), ("PAYLOAD_LOGLEVEL", "x")],
        file: Some(
            "z = 1\nworkers = 0\nthreads = 0\nrecycle.max_requests_jitter = 1\n[app]\nbig = 99999999999999999999\n",
        ),
    };
    let told = given.told();
    let places: Vec<&str> = told
        .lines()
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        places,
        [
            "f:1:1",
            "f:2:11",
            "f:3:11",
            "f:4:31",
            "f:6:7",
            "PAYLOAD_BACKLOG=0",
            "PAYLOAD_LOGLEVEL",
            "--threads none"
        ],
        "{told}"
    );
}

#[test]
fn only_wrong_flags_are_a_usage_error() {
    let given = Given {
        flags: &[("--workers", "none")],
        ..Given::default()
    };
    let failure = given.load().unwrap_err();
    assert_eq!(failure.code(), ExitCode::Usage);
    assert_eq!(
        failure.to_string(),
        "--workers none: not a whole number; expected \"auto\" or a whole number from 1 to 128"
    );
}

#[test]
fn a_wrong_variable_is_named_with_its_value() {
    assert_eq!(
        from_environment(&[("PORT", "http")])
            .told()
            .split(';')
            .next()
            .unwrap(),
        "PORT=http: no port number after the last ':' but 'http'"
    );
}

#[test]
fn every_default_fits_its_form() {
    let report = Given::default().load().unwrap().report;
    assert_eq!(report.entries.len(), SETTINGS.len());
}

#[test]
fn every_variable_reaches_its_setting() {
    for setting in SETTINGS {
        let value = if setting.key == "listen" {
            "unix:@x"
        } else {
            setting.default
        };
        let pair = [(setting.variable(), value.to_owned())];
        let pairs: Vec<(&str, &str)> = pair.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let report = from_environment(&pairs).load().unwrap().report;
        assert_eq!(origin(&report, setting.key), setting.variable());
        assert!(report.is_set(setting.key));
        assert_eq!(
            SETTINGS
                .iter()
                .filter(|setting| report.is_set(setting.key))
                .count(),
            1
        );
    }
}

#[test]
fn the_control_socket_is_found_in_order() {
    let path = |given: &[(&str, &str)], environment: &[(&str, &str)]| {
        let path = control_path("demo", &flags(given), variables(environment)).unwrap();
        let whole = Given {
            flags: given,
            environment,
            file: None,
        }
        .config()
        .control;
        assert_eq!(path, whole, "client and server differ");
        path.map(|path| path.to_str().unwrap().to_owned())
    };
    let all = [
        ("XDG_RUNTIME_DIR", "/run/user/7"),
        ("RUNTIME_DIRECTORY", "/run/a:/run/b"),
        ("PAYLOAD_CONTROL", "/c"),
    ];
    assert_eq!(path(&[], &[]), None);
    assert_eq!(
        path(&[], &all[..1]).unwrap(),
        "/run/user/7/payload/demo.sock"
    );
    assert_eq!(path(&[], &[("XDG_RUNTIME_DIR", "run/7")]), None);
    assert_eq!(path(&[], &[("XDG_RUNTIME_DIR", "")]), None);
    assert_eq!(path(&[], &all[..2]).unwrap(), "/run/a/control.sock");
    assert_eq!(path(&[], &all).unwrap(), "/c");
    assert_eq!(path(&[("--control", "/f")], &all).unwrap(), "/f");
    assert_eq!(path(&[("--control", "none")], &all), None);
    let wrong = control_path("demo", &flags(&[("--control", "x")]), variables(&[]));
    assert_eq!(wrong.unwrap_err().code(), ExitCode::Usage);
}

#[test]
fn the_report_aligns_and_names_origins() {
    let given = Given {
        flags: &[("--threads", "2")],
        environment: &[("PAYLOAD_LOG_LEVEL", "warn")],
        file: Some(
            "http.keep_alive_timeout = '1h30m'\n[app]\ntitle = 'x'\n[app.db]\nhosts = [1, 2]\n",
        ),
    };
    let report = given.load().unwrap().report;
    let table = report.to_string();
    let row = |key: &str| {
        let line = table
            .lines()
            .find(|line| line.starts_with(&format!("{key} ")))
            .unwrap();
        line.split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect::<Vec<_>>()
    };
    assert_eq!(row("config"), ["config", "f", "--config"]);
    assert_eq!(row("workers"), ["workers", "auto (3)", "default"]);
    assert_eq!(row("threads"), ["threads", "2", "--threads"]);
    assert_eq!(row("log.level"), ["log.level", "warn", "PAYLOAD_LOG_LEVEL"]);
    assert_eq!(
        row("http.keep_alive_timeout"),
        ["http.keep_alive_timeout", "90m", "f:1:27"]
    );
    assert_eq!(
        row("recycle.max_age"),
        ["recycle.max_age", "off", "default"]
    );
    assert_eq!(row("app.title"), ["app.title", "'x'", "f:3:9"]);
    assert_eq!(row("app.db.hosts"), ["app.db.hosts", "[1, 2]", "f:5:9"]);
    let column = |line: &str| line.rfind("  ").unwrap();
    let first = table.lines().next().unwrap();
    assert!(
        table.lines().all(|line| column(line) == column(first)),
        "{table}"
    );
}

#[test]
fn the_report_for_programs() {
    let given = Given {
        flags: &[("--threads", "2")],
        environment: &[("PAYLOAD_LOG_LEVEL", "warn")],
        file: Some("http.keep_alive_timeout = '1h30m'\nworkers = 'auto'\n[app]\nx = { y = 1.5 }\n"),
    };
    let report = given.load().unwrap().report;
    assert_eq!(report.file(), Some(Path::new("f")));
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(
        (&json["service"], &json["file"]["path"]),
        (&"demo".into(), &"f".into())
    );
    let of = |list: &str| -> BTreeMap<String, serde_json::Value> {
        let entries = json[list].as_array().unwrap().iter().cloned();
        entries
            .map(|entry| (entry["key"].as_str().unwrap().to_owned(), entry))
            .collect()
    };
    let settings = of("settings");
    assert_eq!(
        settings["threads"]["origin"],
        serde_json::json!({"kind": "flag", "flag": "--threads"})
    );
    assert_eq!(
        settings["log.level"]["origin"],
        serde_json::json!({"kind": "environment", "variable": "PAYLOAD_LOG_LEVEL"})
    );
    assert_eq!(
        settings["http.keep_alive_timeout"],
        serde_json::json!({
            "key": "http.keep_alive_timeout", "value": 5400, "text": "90m",
            "origin": {"kind": "file", "file": "f", "line": 1, "column": 27},
        })
    );
    assert_eq!(
        (&settings["workers"]["value"], &settings["workers"]["text"]),
        (&3.into(), &"auto (3)".into())
    );
    assert_eq!(
        settings["recycle.max_age"]["value"],
        serde_json::Value::Null
    );
    assert_eq!(
        settings["control"]["origin"],
        serde_json::json!({"kind": "default"})
    );
    assert_eq!(of("app")["app.x.y"]["value"], 1.5);
}

#[test]
fn the_file_named_by_the_operator_must_exist() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none.toml");
    let missing = missing.to_str().unwrap();
    let failure = load(
        "demo",
        &Flags::default(),
        variables(&[("PAYLOAD_CONFIG", missing)]),
    )
    .unwrap_err();
    assert_eq!(failure.code(), ExitCode::Config);
    assert_eq!(
        failure.to_string(),
        format!(
            "PAYLOAD_CONFIG: cannot read {missing}: No such file or directory (os error 2); \
             create it or name another"
        )
    );
    let flags = Flags {
        file: Some(missing.into()),
        ..Flags::default()
    };
    let alone = load("demo", &flags, variables(&[])).unwrap_err();
    assert_eq!(alone.code(), ExitCode::Config);
    let failure = load("demo", &flags, variables(&[("PAYLOAD_WORKERS", "x")])).unwrap_err();
    assert_eq!(failure.code(), ExitCode::Config);
    assert!(
        failure
            .to_string()
            .starts_with("2 mistakes in the configuration\nPAYLOAD_WORKERS=x: ")
    );
}

#[test]
fn the_default_file_may_be_missing() {
    let name = "payload-test-of-a-service-that-nobody-installs";
    let loaded = load(name, &Flags::default(), variables(&[])).unwrap();
    assert_eq!(loaded.report.file(), None);
}

#[test]
fn a_file_is_read_from_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.toml");
    std::fs::write(&path, "workers = 9").unwrap();
    let flags = Flags {
        file: Some(path.clone()),
        ..Flags::default()
    };
    let loaded = load(
        "demo",
        &flags,
        variables(&[("PAYLOAD_CONFIG", "/nonsense")]),
    )
    .unwrap();
    assert_eq!(loaded.config.workers, 9);
    assert_eq!(loaded.report.file(), Some(path.as_path()));
    std::fs::write(&path, b"a = 1\nb = \"\xff\"").unwrap();
    let failure = load("demo", &flags, variables(&[])).unwrap_err();
    assert_eq!(
        failure.to_string(),
        format!(
            "{}:2:6: not UTF-8 from here on; save the file as UTF-8",
            path.display()
        )
    );
}

const EXAMPLE: &str = include_str!("../../deploy/payload.toml");

#[test]
fn the_example_changes_nothing() {
    let report = from_file(EXAMPLE).load().unwrap().report;
    assert!(
        report
            .entries
            .iter()
            .all(|entry| entry.origin == Origin::Default)
    );
    assert!(report.app.is_empty());
}

#[test]
fn the_example_shows_every_setting_at_its_default() {
    let uncommented: Vec<&str> = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting,
            _ => line,
        })
        .collect();
    let uncommented = uncommented.join("\n");
    let from_example = from_file(&uncommented).load().unwrap().report;
    let defaults = Given::default().load().unwrap().report;
    for (seen, default) in from_example.entries.iter().zip(&defaults.entries) {
        assert_eq!(seen.key, default.key);
        assert_eq!(seen.shown, default.shown, "{}", seen.key);
        let in_file = matches!(seen.origin, Origin::File(_));
        assert_eq!(in_file, seen.key != "control", "{} is missing", seen.key);
    }
    for setting in SETTINGS.iter().filter(|setting| setting.sources.file) {
        let (name, default) = (setting.name(), setting.default);
        let written = [
            format!("\n{name} = \"{default}\"\n"),
            format!("\n{name} = {default}\n"),
        ];
        assert!(
            written.iter().any(|line| uncommented.contains(line)),
            "{name} = {default}"
        );
    }
}
