//! The table of settings.
//!
//! One row is one setting: the field of [`Config`], its form, flag, default and help. The key is the
//! path of the field and the variable follows from the key, so the three cannot differ.

use std::path::PathBuf;
use std::time::Duration;

use super::environment::PREFIX;
use super::forms::{
    Addresses, ControlPath, Count, Describe, Format, Level, Or, Size, Span, Workers,
};
use super::layers::Layers;
use super::{AppSettings, Config, Http, Log, Recycle, Reload, Restart, Timeouts};

/// One row of the table, without its value type.
pub(crate) struct Setting {
    /// The whole key: `http.max_headers`.
    pub(crate) key: &'static str,
    /// With its dashes.
    pub(crate) flag: &'static str,
    /// In the operator's words.
    pub(crate) default: &'static str,
    pub(crate) help: &'static str,
    pub(crate) form: &'static dyn Describe,
    pub(super) sources: Sources,
}

/// Where a setting may stand besides its flag and its own variable.
#[derive(Clone, Copy)]
pub(super) struct Sources {
    pub(super) file: bool,
    /// Variables that the surroundings set for every service. The first that is set counts, and only
    /// when neither the flag nor our own variable is given.
    pub(super) foreign: &'static [Foreign],
}

/// A variable of another party.
pub(super) struct Foreign {
    pub(super) name: &'static str,
    /// From the variable's value and the service's name to a value of the setting. `None`: it is as good as not set.
    pub(super) translate: fn(value: &str, service: &str) -> Option<String>,
}

/// Makes [`SETTINGS`] and [`build`] of the rows
/// `field: form, "--flag", "default", "help" [, sources];`, first those of the top level, then those
/// of each table. A field of [`Config`] without a row, or a row without a field, does not compile.
macro_rules! settings {
    (
        $( $field:ident: $form:expr, $flag:literal, $default:literal, $help:literal $(, $more:ident)?; )*
        $(
            [$table:ident: $Table:ident]
            $( $cell:ident: $f:expr, $l:literal, $d:literal, $h:literal; )*
        )*
    ) => {
        /// Every setting, in the order of the help and of `payload config`.
        pub(crate) static SETTINGS: &[Setting] = &[
            $( settings!(@row stringify!($field), $form, $flag, $default, $help $(, $more)?), )*
            $( $(
                settings!(@row concat!(stringify!($table), ".", stringify!($cell)), $f, $l, $d, $h),
            )* )*
        ];

        /// Takes every setting from the layers. They note what is wrong, and give an empty value for it.
        pub(super) fn build(layers: &mut Layers<'_>, app: AppSettings) -> Config {
            Config {
                $( $field: layers.take(
                    &settings!(@row stringify!($field), $form, $flag, $default, $help $(, $more)?),
                    &$form,
                ), )*
                $( $table: $Table { $( $cell: layers.take(
                    &settings!(@row concat!(stringify!($table), ".", stringify!($cell)), $f, $l, $d, $h),
                    &$f,
                ), )* }, )*
                app,
            }
        }
    };
    (@row $key:expr, $form:expr, $flag:literal, $default:literal, $help:literal) => {
        settings!(@row $key, $form, $flag, $default, $help, USUAL)
    };
    (@row $key:expr, $form:expr, $flag:literal, $default:literal, $help:literal, $sources:ident) => {
        Setting {
            key: $key,
            flag: $flag,
            default: $default,
            help: $help,
            form: const { &$form },
            sources: $sources,
        }
    };
}

settings! {
    listen: Addresses, "--listen", "127.0.0.1:8080",
        "Address to listen on when no socket is passed; give it again for more", PLATFORM_PORT;
    backlog: Count::<u32>::between(1, 65_535), "--backlog", "4096",
        "Connections that wait to be accepted on a socket bound here; the kernel caps it at net.core.somaxconn";
    workers: Workers, "--workers", "auto",
        "Worker processes; auto is one for each CPU that this process may use", PLATFORM_WORKERS;
    threads: Count::<u16>::between(1, 128), "--threads", "1",
        "Runtime threads in each worker";
    control: ControlPath, "--control", "none",
        "Control socket, or none; else RUNTIME_DIRECTORY or XDG_RUNTIME_DIR say where it is", CLIENT_TOO;
    idle_exit: Or::off(Span::at_least(MILLISECOND)), "--idle-exit", "off",
        "Leave after so long without a connection; systemd keeps the sockets and starts it again";

    [http: Http]
    header_read_timeout: Span::at_least(MILLISECOND), "--header-read-timeout", "10s",
        "Time for a request head, from its first byte to its end";
    keep_alive_timeout: Span::any(), "--keep-alive-timeout", "75s",
        "How long an idle connection stays open; 0 ends each behind its response";
    max_head_size: Size::<usize>::between(8192, 16 << 20), "--max-head-size", "64KiB",
        "Largest request head";
    max_headers: Count::<usize>::between(1, 10_000), "--max-headers", "100",
        "Most header fields in a request";
    max_connections: Count::<usize>::between(1, 1_000_000), "--max-connections", "10000",
        "Connections that one worker holds; more wait in the backlog";
    max_streams: Count::<u32>::between(1, 65_535), "--max-streams", "200",
        "Concurrent HTTP/2 streams of one connection";

    [timeouts: Timeouts]
    startup: Or::unlimited(Span::at_least(MILLISECOND)), "--startup-timeout", "60s",
        "Time for load and all startup steps together";
    graceful: Or::unlimited(Span::any()), "--graceful-timeout", "30s",
        "Time for requests to end after the order to stop; 0 is at once";
    cleanup: Or::unlimited(Span::any()), "--cleanup-timeout", "10s",
        "Time for payloads and teardown after that; 0 is at once, and needs the same of the one before";
    heartbeat_boot: Or::unlimited(Span::at_least(SECOND)), "--heartbeat-boot", "60s",
        "How long a starting worker's executor may be silent";
    heartbeat_serving: Or::unlimited(Span::at_least(SECOND)), "--heartbeat-serving", "30s",
        "How long a serving worker's executor may be silent";
    heartbeat_stopping: Or::unlimited(Span::at_least(SECOND)), "--heartbeat-stopping", "30s",
        "How long a stopping worker's executor may be silent";
    abort_grace: Span::any(), "--abort-grace", "2s",
        "Time for a stuck worker to tell where it is stuck, before it is killed; 0 is none";

    [recycle: Recycle]
    max_requests: Or::off(Count::<u64>::between(1, TRILLION)), "--max-requests", "off",
        "Replace a worker after so many requests";
    max_requests_jitter: Count::<u64>::between(0, TRILLION), "--max-requests-jitter", "0",
        "Add up to so many requests at random, so that workers do not all leave at once";
    max_age: Or::off(Span::at_least(SECOND)), "--max-age", "off",
        "Replace a worker that is so old";
    max_memory: Or::off(Size::<u64>::between(1 << 20, 1 << 50)), "--max-memory", "off",
        "Replace a worker that uses more memory (its proportional share, PSS)";

    [restart: Restart]
    backoff_initial: Span::at_least(MILLISECOND), "--backoff-initial", "100ms",
        "Pause before a worker that failed early is replaced; it doubles each time";
    backoff_max: Span::at_least(MILLISECOND), "--backoff-max", "30s",
        "Longest such pause";
    crash_budget: Count::<u32>::between(1, 1_000_000), "--crash-budget", "10",
        "More failures than these within the window keep the service degraded";
    crash_window: Span::at_least(SECOND), "--crash-window", "1m",
        "The window in which crashes are counted";

    [reload: Reload]
    preflight: Span::at_least(MILLISECOND), "--reload-preflight", "10s",
        "Time for the check of the binary on disk, and its preload, before anything is replaced by it";
    trial: Span::any(), "--reload-trial", "1s",
        "How long new workers must serve before the old ones leave; 0 is not at all";

    [log: Log]
    format: Format, "--log-format", "auto",
        "auto is the journal when stderr leads there, else lines for people";
    level: Level, "--log-level", "info",
        "Least severe level to log, or directives for single modules";
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const TRILLION: u64 = 1_000_000_000_000;

const USUAL: Sources = Sources {
    file: true,
    foreign: &[],
};

/// Platforms that set PORT expect the service on every interface.
const PLATFORM_PORT: Sources = Sources {
    file: true,
    foreign: &[Foreign {
        name: "PORT",
        translate: |port, _| Some(format!("0.0.0.0:{port}")),
    }],
};

const PLATFORM_WORKERS: Sources = Sources {
    file: true,
    foreign: &[Foreign {
        name: "WEB_CONCURRENCY",
        translate: |count, _| Some(count.to_owned()),
    }],
};

/// The client reads no file, so what server and client must agree on does not stand there.
/// `RUNTIME_DIRECTORY` is a list, systemd.exec(5); the first directory is taken. A relative `XDG_RUNTIME_DIR` is invalid
/// and passed over, by the XDG Base Directory Specification: nobody has meant it for this service.
const CLIENT_TOO: Sources = Sources {
    file: false,
    foreign: &[
        Foreign {
            name: "RUNTIME_DIRECTORY",
            translate: |list, _| {
                let first = list.split(':').next().unwrap_or(list);
                Some(format!("{first}/control.sock"))
            },
        },
        Foreign {
            name: "XDG_RUNTIME_DIR",
            translate: |directory, service| {
                let is_valid = directory.starts_with('/');
                is_valid.then(|| format!("{directory}/payload/{service}.sock"))
            },
        },
    ],
};

/// Takes only the control socket's path.
pub(super) fn control(layers: &mut Layers<'_>) -> Option<PathBuf> {
    let setting = SETTINGS.iter().find(|setting| setting.key == "control")?;
    layers.take(setting, &ControlPath)
}

impl Setting {
    /// The TOML table, empty for the top level.
    pub(crate) fn table(&self) -> &'static str {
        self.key.split_once('.').map_or("", |(table, _)| table)
    }

    /// The key within its table.
    pub(crate) fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }

    /// Our own environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("{PREFIX}{}", self.key.replace('.', "_").to_uppercase())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_flags_and_variables_are_unique() {
        let unique = |names: Vec<String>| {
            let count = names.len();
            assert_eq!(names.into_iter().collect::<BTreeSet<_>>().len(), count);
        };
        unique(
            SETTINGS
                .iter()
                .map(|setting| setting.key.to_owned())
                .collect(),
        );
        unique(
            SETTINGS
                .iter()
                .map(|setting| setting.flag.to_owned())
                .collect(),
        );
        unique(SETTINGS.iter().map(Setting::variable).collect());
    }

    #[test]
    fn names_follow_from_the_key() {
        let setting = SETTINGS
            .iter()
            .find(|setting| setting.key == "http.keep_alive_timeout")
            .unwrap();
        assert_eq!(setting.table(), "http");
        assert_eq!(setting.name(), "keep_alive_timeout");
        assert_eq!(setting.variable(), "PAYLOAD_HTTP_KEEP_ALIVE_TIMEOUT");
        assert_eq!(setting.flag, "--keep-alive-timeout");
    }

    #[test]
    fn texts_are_fit_for_help() {
        for setting in SETTINGS {
            assert!(setting.flag.starts_with("--"), "{}", setting.key);
            assert!(!setting.help.ends_with('.'), "{}", setting.key);
            assert!(
                !setting.help.is_empty() && !setting.default.is_empty(),
                "{}",
                setting.key
            );
        }
    }
}
