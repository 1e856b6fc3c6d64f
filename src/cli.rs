//! The command line: what to do, and the flags, which come from the table of settings.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, value_parser};

use crate::config::{Flags, SETTINGS, Setting};
use crate::exit::ExitCode;

/// What the operator asked for.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    pub(crate) command: Command,
    pub(crate) flags: Flags,
}

/// The commands. A new one is a row in [`COMMANDS`] besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Serve in the foreground.
    Run,
    /// Validate everything that can be validated, also beside this unit.
    Check { unit: Option<String> },
    /// Show the effective configuration.
    Config { json: bool },
    /// Ask the running service.
    Status { json: bool },
    /// Have the running service replace its binary, configuration and workers.
    Reload,
}

/// The process is over before it began: there is something to print, and a code to leave with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Ends with a newline.
    pub(crate) text: String,
    /// To standard output, else to standard error.
    pub(crate) stdout: bool,
    pub(crate) code: ExitCode,
}

/// A command's name, what it is, and what may stand behind it.
struct Row {
    name: &'static str,
    about: &'static str,
    /// It takes every setting; else only what a client needs.
    configures: bool,
    /// The flag of its own.
    own: Own,
    /// Makes it of the value of that flag.
    command: fn(own: Given) -> Command,
}

/// A flag that is no setting.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    None,
    Json,
    Unit,
}

/// What of [`Own`] was given.
#[derive(Default)]
struct Given {
    json: bool,
    unit: Option<String>,
}

const COMMANDS: [Row; 5] = [
    Row {
        name: "run",
        about: "Serve in the foreground (the default command)",
        configures: true,
        own: Own::None,
        command: |_| Command::Run,
    },
    Row {
        name: "check",
        about: "Validate everything that can be validated, and leave with 0 or 78",
        configures: true,
        own: Own::Unit,
        command: |own| Command::Check { unit: own.unit },
    },
    Row {
        name: "config",
        about: "Show the effective configuration, each value with where it came from",
        configures: true,
        own: Own::Json,
        command: |own| Command::Config { json: own.json },
    },
    Row {
        name: "status",
        about: "Show the running service: its workers, payloads and sockets",
        configures: false,
        own: Own::Json,
        command: |own| Command::Status { json: own.json },
    },
    Row {
        name: "reload",
        about: "Replace binary, configuration and workers of the running service, and wait for the outcome",
        configures: false,
        own: Own::None,
        command: |_| Command::Reload,
    },
];

/// The settings that a client of a running service needs.
const CLIENT: &[&str] = &["control"];

const CONFIG: &str = "config file";
const JSON: &str = "json";
const UNIT: &str = "unit";

/// Reads the command line of the service binary `name`; `args` begins with the program, as
/// [`std::env::args_os`] does. Values are checked later, together with those of the other layers.
///
/// # Errors
/// An [`Exit`]: help and version with 0 on standard output, a wrong command line with
/// [`ExitCode::Usage`] on standard error.
pub(crate) fn parse(
    name: &str,
    version: &str,
    args: impl IntoIterator<Item = OsString>,
) -> Result<Invocation, Exit> {
    let matches = definition(name, version)
        .try_get_matches_from(args)
        .map_err(|error| Exit::of(&error))?;
    let mut flags = Flags::default();
    collect(&matches, &mut flags);
    let Some((subcommand, matches)) = matches.subcommand() else {
        return Ok(Invocation {
            command: Command::Run,
            flags,
        });
    };
    let row = COMMANDS.iter().find(|row| row.name == subcommand);
    let Some(row) = row else {
        let text = format!("unknown command '{subcommand}'");
        return Err(Exit::of(
            &definition(name, version).error(ErrorKind::InvalidSubcommand, text),
        ));
    };
    if !row.configures && flags.others_than(CLIENT) {
        let text =
            format!("'{subcommand}' asks the running service and takes no settings but --control");
        return Err(Exit::of(
            &definition(name, version).error(ErrorKind::ArgumentConflict, text),
        ));
    }
    collect(matches, &mut flags);
    let own = match row.own {
        Own::None => Given::default(),
        Own::Json => Given {
            json: matches.get_flag(JSON),
            ..Given::default()
        },
        Own::Unit => Given {
            unit: matches.get_one(UNIT).cloned(),
            ..Given::default()
        },
    };
    Ok(Invocation {
        command: (row.command)(own),
        flags,
    })
}

/// The whole command line. Settings may stand before and behind the command; behind wins.
pub(crate) fn definition(name: &str, version: &str) -> clap::Command {
    let root = clap::Command::new(name.to_owned())
        .bin_name(name.to_owned())
        .version(version.to_owned())
        .about("Serves HTTP from supervised worker processes, under systemd or alone")
        .after_help(format!(
            "A flag wins over its environment variable, that over the configuration file, \
             that over the default.\nThe file is /etc/{name}/{name}.toml unless --config names \
             another. '{name} config' shows what holds and why."
        ))
        .args(settings(name, true));
    COMMANDS.iter().fold(root, |root, row| {
        let command = clap::Command::new(row.name)
            .about(row.about)
            .args(settings(name, row.configures));
        root.subcommand(match row.own {
            Own::None => command,
            Own::Json => command.arg(
                Arg::new(JSON)
                    .long("json")
                    .action(ArgAction::SetTrue)
                    .help("Print JSON for programs"),
            ),
            Own::Unit => command.arg(
                Arg::new(UNIT)
                    .long("unit")
                    .value_name("NAME")
                    .help("Compare the deadlines with those of this systemd unit")
                    .long_help(format!(
                        "Compare the deadlines with those of this systemd unit (TimeoutStartSec=, TimeoutStopSec=)\n\
                         [default: {name}.service, if it runs this program]"
                    )),
            ),
        })
    })
}

fn settings(name: &str, all: bool) -> Vec<Arg> {
    let file = Arg::new(CONFIG)
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("Read this configuration file")
        .long_help(format!(
            "Read this configuration file\n[default: /etc/{name}/{name}.toml, if it is there] \
             [variable: PAYLOAD_CONFIG]"
        ));
    let rows = SETTINGS
        .iter()
        .filter(|setting| all || CLIENT.contains(&setting.key));
    all.then_some(file)
        .into_iter()
        .chain(rows.map(argument))
        .collect()
}

fn argument(setting: &'static Setting) -> Arg {
    let form = setting.form;
    let long = setting.flag.trim_start_matches('-');
    let table = setting.table();
    let argument = Arg::new(setting.key)
        .long(long)
        .value_name(form.placeholder())
        .action(if form.repeats() {
            ArgAction::Append
        } else {
            ArgAction::Set
        })
        .value_parser(ValueParser::string())
        .help(setting.help)
        .long_help(format!(
            "{}\n[default: {}] [variable: {}]",
            setting.help,
            setting.default,
            setting.variable()
        ));
    if table.is_empty() {
        argument
    } else {
        argument.help_heading(format!("[{table}]"))
    }
}

fn collect(matches: &ArgMatches, flags: &mut Flags) {
    let given = |id: &str| matches!(matches.try_contains_id(id), Ok(true));
    if given(CONFIG) {
        flags.file = matches.get_one::<PathBuf>(CONFIG).cloned();
    }
    for setting in SETTINGS.iter().filter(|setting| given(setting.key)) {
        let values = matches
            .get_many::<String>(setting.key)
            .into_iter()
            .flatten()
            .cloned();
        flags.set(setting, values.collect());
    }
}

impl Exit {
    fn of(error: &clap::Error) -> Self {
        let stdout = !error.use_stderr();
        Self {
            text: error.render().to_string(),
            stdout,
            code: if stdout {
                ExitCode::Ok
            } else {
                ExitCode::Usage
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Invocation, Exit> {
        let args = std::iter::once("/usr/bin/other").chain(line.split_whitespace());
        parse("demo", "1.2.3", args.map(OsString::from))
    }

    fn told(line: &str) -> String {
        let exit = run(line).unwrap_err();
        assert_eq!((exit.code, exit.stdout), (ExitCode::Usage, false), "{line}");
        assert!(exit.text.ends_with('\n'));
        exit.text
    }

    fn command(line: &str) -> Command {
        run(line).unwrap().command
    }

    #[test]
    fn the_definition_is_consistent() {
        definition("demo", "1.2.3").debug_assert();
    }

    #[test]
    fn commands() {
        assert_eq!(command(""), Command::Run);
        assert_eq!(command("run"), Command::Run);
        assert_eq!(command("--workers 2"), Command::Run);
        assert_eq!(command("check"), Command::Check { unit: None });
        assert_eq!(
            command("check --unit a.service"),
            Command::Check {
                unit: Some("a.service".to_owned())
            }
        );
        assert_eq!(command("config"), Command::Config { json: false });
        assert_eq!(command("config --json"), Command::Config { json: true });
        assert_eq!(
            command("status --json --control /x"),
            Command::Status { json: true }
        );
    }

    #[test]
    fn settings_may_stand_before_and_behind_the_command() {
        let same = [
            "--config f --workers 2",
            "--config f run --workers 2",
            "run --config f --workers 2",
        ];
        for line in same {
            let mut flags = run(line).unwrap().flags;
            assert_eq!(flags.file.take(), Some("f".into()));
            assert!(flags.others_than(&[]), "with the number of workers");
            assert!(!flags.others_than(&["workers"]), "and nothing else");
        }
        run("--control /x status").unwrap();
    }

    #[test]
    fn every_setting_is_a_flag() {
        for setting in SETTINGS {
            let flags = run(&format!("run {}=x", setting.flag)).unwrap().flags;
            assert!(!flags.others_than(&[setting.key]), "{}", setting.flag);
            assert!(flags.others_than(&[]), "{}", setting.flag);
        }
    }

    #[test]
    fn help_and_version_go_to_standard_output() {
        for line in [
            "--help",
            "-h",
            "--version",
            "-V",
            "run --help",
            "config -h",
            "status --help",
            "help",
            "help reload",
        ] {
            let exit = run(line).unwrap_err();
            assert_eq!((exit.code, exit.stdout), (ExitCode::Ok, true), "{line}");
        }
        assert_eq!(run("help").unwrap_err(), run("--help").unwrap_err());
        assert_eq!(run("--version").unwrap_err().text, "demo 1.2.3\n");
    }

    #[test]
    fn help_names_every_flag_default_and_variable() {
        let help = run("run --help").unwrap_err().text;
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for setting in SETTINGS {
            assert!(help.contains(setting.flag), "{}", setting.flag);
            let ending = format!(
                "[default: {}] [variable: {}]",
                setting.default,
                setting.variable()
            );
            assert!(help.contains(&ending), "{ending}");
        }
    }

    #[test]
    fn wrong_command_lines_are_usage_errors() {
        assert!(told("--wokers 2").contains("--workers"));
        assert!(told("--workers").contains("--workers"));
        assert!(told("--workers 1 --workers 2").contains("cannot be used multiple times"));
        assert!(told("statsu").contains("status"));
        assert!(told("run extra").contains("extra"));
        assert!(told("check --json").contains("--json"));
        assert!(told("run --unit a").contains("--unit"));
        assert!(told("status --workers 2").contains("--workers"));
        let told = told("--workers 2 status");
        assert!(
            told.contains("'status' asks the running service and takes no settings but --control")
        );
    }
}
