//! The command line: starts a server, puts clients on it, disturbs it, and prints what the clients have lost.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::disturbance::{self, Disturbance};
use crate::meter::address::Address;
use crate::meter::report::Report;
use crate::meter::{Kind, Load};
use crate::server::{self, Error, Server};

/// For servers that are asked for by name; Debian's packages of those that are not ours.
const SERVERS: [(&str, &[&str]); 3] = [
    ("payload", &[]),
    ("nginx", &["nginx-light"]),
    ("gunicorn", &["gunicorn", "python3-aiohttp"]),
];

pub(crate) fn main() -> ExitCode {
    let first = std::env::args().nth(1);
    let done = match first.as_deref() {
        Some("upstream") => server::upstream().map(|()| true),
        Some(word) if !word.starts_with('-') => return payload::main(server::load),
        _ => measure(&definition().get_matches()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loss: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Without any flag, as `cargo test --benches` runs it, a short run that only shows that it works.
fn definition() -> Command {
    let short = std::env::args().len() == 1;
    let default = |long, brief| if short { brief } else { long };
    Command::new("loss")
        .about("Holds clients against a server, disturbs it, and counts what they lose")
        .args([
            Arg::new("against")
                .long("against")
                .value_name("SERVER")
                .default_value("payload")
                .help("payload, nginx, gunicorn, or the address of one that runs: IP:PORT, unix:PATH"),
            Arg::new("by")
                .long("by")
                .value_name("DISTURBANCE")
                .default_value(default("reload", "none"))
                .value_parser(value_parser!(Disturbance))
                .help("none, reload, hup, kill-worker, or command:LINE for a shell"),
            Arg::new("times")
                .long("times")
                .visible_alias("reloads")
                .value_parser(value_parser!(usize))
                .default_value(default("20", "2"))
                .help("How often it is disturbed"),
            Arg::new("every")
                .long("every")
                .value_parser(seconds)
                .default_value(default("0.5", "0.2"))
                .help("Seconds of peace between two windows"),
            Arg::new("settle")
                .long("settle")
                .value_parser(seconds)
                .default_value(default("0.5", "0.2"))
                .help("Seconds that a window goes on when the disturbance has been made"),
            Arg::new("clients")
                .long("clients")
                .value_name("KIND=N,…")
                .help(format!("Instead of the usual mix: {}", mix(&Kind::MIX))),
            Arg::new("workers")
                .long("workers")
                .value_parser(value_parser!(u32))
                .default_value("2")
                .help("Workers of the server"),
            Arg::new("upgrade")
                .long("upgrade-every")
                .value_name("N")
                .value_parser(value_parser!(usize))
                .help("payload: before every so manyth disturbance, a new file takes the program's place"),
            Arg::new("program")
                .long("program")
                .value_name("PATH")
                .help("Another nginx, or another Gunicorn, than the one in PATH"),
            Arg::new("pid")
                .long("pid")
                .value_parser(value_parser!(u32))
                .help("Whom to signal, of a server that runs already"),
            Arg::new("seed")
                .long("seed")
                .value_parser(value_parser!(u64))
                .help("Of the clients' random source"),
            Arg::new("json")
                .long("json")
                .value_name("FILE")
                .help("Writes the report there, too"),
            Arg::new("expect")
                .long("expect")
                .value_parser(PossibleValuesParser::new(["nothing-lost", "nothing-closed"]))
                .help("Fails unless it is so"),
            Arg::new("install")
                .long("install")
                .action(ArgAction::SetTrue)
                .help("Installs nginx or Gunicorn and aiohttp from Debian"),
            Arg::new("bench")
                .long("bench")
                .action(ArgAction::SetTrue)
                .hide(true),
        ])
}

/// False: a disturbance has failed, or it is not as `--expect` says.
fn measure(flags: &ArgMatches) -> Result<bool, Error> {
    raise_open_files()?;
    let against: &str = text(flags, "against").unwrap_or_default();
    if flags.get_flag("install")
        && let Some((_, packages)) = SERVERS.iter().find(|(name, _)| *name == against)
        && !packages.is_empty()
    {
        server::install(packages)?;
    }
    let workers = *flags.get_one("workers").unwrap_or(&2);
    let program = text(flags, "program").map(Path::new);
    let server = match against {
        "payload" => Server::payload(workers)?,
        "nginx" => Server::nginx(workers, program)?,
        "gunicorn" => Server::gunicorn(workers, program)?,
        address => Server::at(address.parse::<Address>()?, flags.get_one("pid").copied()),
    };
    let (report, failed) = disturbed(flags, &server)?;
    println!("{report}");
    if let Some(file) = text(flags, "json") {
        fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    let holds = match text(flags, "expect") {
        Some("nothing-lost") => report.nothing_lost(),
        // A server can only ask these to come again.
        Some(_) => report.nothing_closed(&["http2", "websocket", "sse"]),
        None => report.consistent(),
    };
    let holds = match failed {
        0 => holds,
        _ => holds.and(Err(format!("{failed} disturbances failed"))),
    };
    if let Err(why) = &holds {
        eprintln!("loss: not as expected: {why}");
    }
    Ok(holds.is_ok())
}

/// The report, and how many disturbances have failed.
fn disturbed(flags: &ArgMatches, server: &Server) -> Result<(Report, usize), Error> {
    let disturbance: &Disturbance = flags.get_one("by").ok_or("no --by")?;
    let times: usize = *flags.get_one("times").unwrap_or(&0);
    let pause = |name| *flags.get_one(name).unwrap_or(&Duration::ZERO);
    let load = clients(flags, server)?.start();
    let mut took = Vec::new();
    let mut failed = 0;
    for turn in 0..times {
        sleep(pause("every"));
        if let (Some(every), Some(paths)) = (flags.get_one::<usize>("upgrade"), &server.payload)
            && turn % (*every).max(1) == 0
        {
            disturbance::upgrade(&paths.program)?;
        }
        let window = load.window();
        let begun = Instant::now();
        if let Err(error) = disturbance.act(server, turn) {
            eprintln!("loss: disturbance {}: {error}", turn + 1);
            failed += 1;
        }
        took.push(begun.elapsed());
        sleep(pause("settle"));
        drop(window);
    }
    sleep(pause("every"));
    took.sort_unstable();
    if let (Some(median), Some(longest)) = (took.get(took.len() / 2), took.last()) {
        println!(
            "{times} times {disturbance:?}: {median:.1?} in the median, {longest:.1?} at most"
        );
    }
    Ok((load.stop(), failed))
}

fn clients(flags: &ArgMatches, server: &Server) -> Result<Load, Error> {
    let mut load = Load::new(server.address.clone());
    if let Some(seed) = flags.get_one("seed") {
        load = load.seed(*seed);
    }
    let asked = text(flags, "clients").map(parse_mix).transpose()?;
    let lacks = |kind: &Kind| {
        let lacking = server.lacks.iter();
        asked.is_none()
            && lacking
                .map(Kind::to_string)
                .any(|name| name == kind.to_string())
    };
    let mix = asked.as_deref().unwrap_or(&Kind::MIX);
    for (kind, number) in mix.iter().filter(|(kind, _)| !lacks(kind)) {
        load = match (&server.http2, kind) {
            (Some(http2), Kind::Http2(_)) => load.at(http2.clone()),
            _ => load.at(server.address.clone()),
        };
        load = load.clients(*kind, *number);
    }
    Ok(load)
}

fn parse_mix(text: &str) -> Result<Vec<(Kind, u64)>, Error> {
    let one = |part: &str| {
        let (name, number) = part.split_once('=')?;
        let mut kinds = Kind::MIX.iter();
        let (kind, _) = kinds.find(|(kind, _)| kind.to_string() == name)?;
        Some((*kind, number.parse().ok()?))
    };
    text.split(',')
        .map(|part| one(part).ok_or_else(|| format!("--clients: {part:?}").into()))
        .collect()
}

fn mix(clients: &[(Kind, u64)]) -> String {
    let parts: Vec<_> = clients
        .iter()
        .map(|(kind, number)| format!("{kind}={number}"))
        .collect();
    parts.join(",")
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn text<'a>(flags: &'a ArgMatches, name: &str) -> Option<&'a str> {
    flags.get_one::<String>(name).map(String::as_str)
}

/// As many connections as the system lets us have.
fn raise_open_files() -> Result<(), Error> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(())
}
