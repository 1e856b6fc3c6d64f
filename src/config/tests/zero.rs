//! A time of zero: at once, or refused. Never without a limit.

use super::from_file;
use crate::config::SETTINGS;

/// What zero means for a setting that is a time.
const ZERO: &[(&str, Result<(), &str>)] = &[
    (
        "idle_exit",
        Err("at least 1ms, or \"off\" or \"unlimited\""),
    ),
    ("http.header_read_timeout", Err("at least 1ms")),
    ("http.keep_alive_timeout", Ok(())),
    ("timeouts.startup", Err("at least 1ms, or \"unlimited\"")),
    ("timeouts.graceful", Ok(())),
    // With the other one.
    ("timeouts.cleanup", Ok(())),
    (
        "timeouts.heartbeat_boot",
        Err("at least 1s, or \"unlimited\""),
    ),
    (
        "timeouts.heartbeat_serving",
        Err("at least 1s, or \"unlimited\""),
    ),
    (
        "timeouts.heartbeat_stopping",
        Err("at least 1s, or \"unlimited\""),
    ),
    ("timeouts.abort_grace", Ok(())),
    (
        "recycle.max_age",
        Err("at least 1s, or \"off\" or \"unlimited\""),
    ),
    ("restart.backoff_initial", Err("at least 1ms")),
    ("restart.backoff_max", Err("at least 1ms")),
    ("restart.crash_window", Err("at least 1s")),
    ("reload.preflight", Err("at least 1ms")),
    ("reload.trial", Ok(())),
];

#[test]
fn each_time_takes_zero_or_says_what_it_takes() {
    let times = SETTINGS
        .iter()
        .filter(|setting| setting.form.expected().contains("a duration"))
        .map(|setting| setting.key);
    assert!(times.eq(ZERO.iter().map(|(key, _)| *key)), "all of them");
    for (key, outcome) in ZERO {
        for zero in ["0", "'0'", "'0s'"] {
            let beside = match *key {
                "timeouts.cleanup" => "timeouts.graceful = 0\n",
                _ => "",
            };
            let text = format!("{beside}{key} = {zero}");
            let given = from_file(&text);
            let Err(expected) = outcome else {
                given.config();
                continue;
            };
            let column = key.len() + 4;
            let form = "a duration such as \"250ms\", \"30s\", \"5m\" or \"1h30m\"";
            let message =
                format!("f:1:{column}: {key} = {zero}: zero; expected {form}, {expected}");
            assert_eq!(given.told(), message);
        }
    }
}

#[test]
fn a_cleanup_of_zero_needs_a_graceful_one_of_zero() {
    assert_eq!(
        from_file("timeouts.cleanup = 0").told(),
        "f:1:20: timeouts.cleanup = 0 would break off every teardown after waiting for requests, with \
         timeouts.graceful = 30s (default); give the first some time, or make both 0 to stop at once"
    );
}

/// Where an operator reads which ones those are.
#[test]
fn the_shipped_file_says_which_times_take_zero() {
    let file = include_str!("../../../deploy/payload.toml");
    let words = file.split_whitespace().filter(|word| *word != "#");
    let text = words.collect::<Vec<_>>().join(" ");
    let (_, after) = text.split_once("all others refuse it: ").unwrap();
    let (list, _) = after.split_once(". ").unwrap();
    let listed: Vec<&str> = list
        .split(", ")
        .filter_map(|entry| entry.split(' ').next())
        .collect();
    let take_it = ZERO.iter().filter(|(_, outcome)| outcome.is_ok());
    assert!(
        take_it.map(|(key, _)| *key).eq(listed.iter().copied()),
        "{listed:?}"
    );
}
