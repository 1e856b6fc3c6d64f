//! What a reload takes: its time, the arbiter's absence while it changes programs, and memory.
//!
//! `cargo bench --bench reload`; `TIMES=200` before it for another number of reloads, `HOLD=64` for an app that holds
//! so many MiB in each worker.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints what it measured"
)]

#[allow(unreachable_pub, dead_code, reason = "each bench uses its part")]
mod support;

use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::{Request, Response};

use support::{Error, Fleet, median};

const WORKERS: usize = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let result = match arguments.get(1).map(String::as_str) {
        Some("run" | "reload") => return payload::main(load),
        // Without the flag of `cargo bench`, only that it works is tested.
        other => measure(other == Some("--bench")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn load(_: payload::Context) -> payload::Result<payload::App> {
    let held = vec![1_u8; number("HOLD", 0) * 1024 * 1024];
    let held = std::sync::Arc::new(held);
    let hello = payload::service_fn(move |_: Request<payload::Body>| {
        let length = held.len();
        async move { Ok(Response::new(payload::Body::from(format!("{length}\n")))) }
    });
    Ok(payload::App::builder().build(hello))
}

fn measure(full: bool) -> Result<(), Error> {
    let times = number("TIMES", if full { 50 } else { 2 });
    println!("{times} reloads, {WORKERS} workers, medians and most");
    println!(
        "{:>8}{:>22}{:>22}{:>22}{:>28}",
        "trial",
        "command ms",
        "to the commit ms",
        "arbiter absent ms",
        "memory MiB, before and most"
    );
    for trial in ["0s", "1s"] {
        round(times, trial)?;
    }
    Ok(())
}

fn round(times: usize, trial: &str) -> Result<(), Error> {
    let folder = tempfile::tempdir()?;
    let (log, control) = (folder.path().join("log"), folder.path().join("control"));
    let control = control.to_string_lossy().into_owned();
    let variables = [
        ("PAYLOAD_LOG_LEVEL", "info"),
        ("PAYLOAD_LOG_FORMAT", "json"),
        ("PAYLOAD_RELOAD_TRIAL", trial),
        ("PAYLOAD_CONTROL", &control),
    ];
    let fleet = Fleet::payload_logging(WORKERS, &variables, File::create(&log)?)?;
    let before = total(&fleet)?;
    let done = AtomicBool::new(false);
    let mut commands = Vec::new();
    let most = std::thread::scope(|scope| -> Result<u64, Error> {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Relaxed) {
                // A worker may go while it is looked at.
                most = most.max(total(&fleet).unwrap_or(0));
                std::thread::sleep(Duration::from_millis(2));
            }
            most
        });
        let reloads = (0..times).try_for_each(|_| {
            commands.push(reload(&control)?);
            fleet.wait_for_workers(WORKERS)
        });
        done.store(true, Relaxed);
        let most = watch.join().map_err(|_| "the memory cannot be watched")?;
        reloads.map(|()| most)
    })?;
    drop(fleet);
    let (commits, absences) = (seconds(&log, "reloaded")?, seconds(&log, "image-changed")?);
    let mib = |kib: u64| kib as f64 / 1024.0;
    println!(
        "{trial:>8}{:>22}{:>22}{:>22}{:>28}",
        spread(commands),
        spread(commits),
        spread(absences),
        format!("{:.1} and {:.1}", mib(before), mib(most)),
    );
    Ok(())
}

/// `payload reload`, which waits for the outcome.
fn reload(control: &str) -> Result<Duration, Error> {
    let begun = Instant::now();
    let status = Command::new(std::env::current_exe()?)
        .args(["reload", "--control", control])
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("the reload failed: {status}").into());
    }
    Ok(begun.elapsed())
}

/// What the service itself says, in the order of the reloads.
fn seconds(log: &Path, event: &str) -> Result<Vec<Duration>, Error> {
    let log = std::fs::read_to_string(log)?;
    let records = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|record| record["payload_event"] == event);
    Ok(records
        .filter_map(|record| record["seconds"].as_f64())
        .map(Duration::from_secs_f64)
        .collect())
}

/// In KiB, the arbiter and all workers.
fn total(fleet: &Fleet) -> Result<u64, Error> {
    Ok(fleet.memory()?.iter().sum())
}

fn spread(mut times: Vec<Duration>) -> String {
    let most = times.iter().max().copied().unwrap_or_default();
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    format!("{:.1}, {:.1}", millis(median(&mut times)), millis(most))
}

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or(otherwise))
}
