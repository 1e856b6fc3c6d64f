//! What it takes a message to come from one worker to all others, beside a relay: a process that every worker is
//! connected to by a Unix socket, and that hands on what comes. The same workers send the same bytes by both ways.
//!
//! `cargo bench --bench messages`; `WORKERS=8` and `SIZE=1000` before it for other numbers.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints what it measured"
)]

#[path = "messages/relay.rs"]
mod relay;
#[path = "messages/station.rs"]
mod station;
#[allow(unreachable_pub, dead_code, reason = "each bench uses its part")]
mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use station::Book;
use support::{Error, Fleet};

/// A multiple of what is acknowledged at once.
const FLOOD: u64 = 128 * 1_000;
const PACED: u64 = 128 * 30;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let result = match arguments.get(1).map(String::as_str) {
        Some("run") => return payload::main(station::load),
        Some("relay") => relay::run(),
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

fn measure(full: bool) -> Result<(), Error> {
    let workers = number("WORKERS", 4)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("relay");
    let relay = Relay::start(&path)?;
    let path = path.display().to_string();
    let size = number("SIZE", 100)?.to_string();
    let fleet = Fleet::payload(workers, &[("RELAY", &path), ("SIZE", &size)])?;
    println!("{workers} workers, messages of {size} bytes, one publisher");
    println!(
        "{:>10}{:>10}{:>14}{:>20}{:>10}{:>10}{:>10}",
        "", "way", "messages/s", "CPU µs each", "p50 µs", "p99 µs", "missed"
    );
    let mut run = 0;
    for _ in 0..if full { 5 } else { 1 } {
        for (what, count, query) in [
            ("1,000/s", PACED, "pause=1000"),
            ("window 512", FLOOD, "window=512"),
        ] {
            let count = if full { count } else { 1_280 };
            for way in ["messages", "relay"] {
                run += 1;
                let cpu = || Ok::<_, Error>(fleet.cpu()? + relay.cpu()?);
                let (begun, before) = (Instant::now(), cpu()?);
                get(
                    &fleet,
                    &format!("/publish?way={way}&run={run}&count={count}&{query}"),
                )?;
                let (took, used) = (begun.elapsed(), cpu()?.saturating_sub(before));
                let book = book(&fleet, workers, run)?;
                let each = used.as_secs_f64() * 1e6 / (book.count() as f64);
                println!(
                    "{what:>10}{way:>10}{:>14.0}{each:>20.2}{:>10.0}{:>10.0}{:>10}",
                    count as f64 / took.as_secs_f64(),
                    book.part(0.5),
                    book.part(0.99),
                    count * (workers as u64 - 1) - book.count(),
                );
            }
        }
    }
    Ok(())
}

/// What all workers have got in a run.
fn book(fleet: &Fleet, workers: usize, run: u64) -> Result<Book, Error> {
    let mut books = BTreeMap::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while books.len() < workers {
        let text = get(fleet, &format!("/book?run={run}"))?;
        let (worker, book): (u64, Book) = serde_json::from_str(&text)?;
        books.insert(worker, book);
        if Instant::now() > deadline {
            return Err("some worker does not answer".into());
        }
    }
    Ok(books.into_values().fold(Book::default(), Book::with))
}

fn get(fleet: &Fleet, path: &str) -> Result<String, Error> {
    let mut stream = TcpStream::connect(fleet.address)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    if head.starts_with("HTTP/1.1 200") {
        Ok(body.to_owned())
    } else {
        Err(format!("{path}: {answer}").into())
    }
}

fn number(name: &str, default: usize) -> Result<usize, Error> {
    std::env::var(name).map_or(Ok(default), |text| Ok(text.parse()?))
}

struct Relay(Child);

impl Relay {
    fn start(path: &std::path::Path) -> Result<Self, Error> {
        let mut command = Command::new(std::env::current_exe()?);
        let relay = Self(command.arg("relay").env("RELAY", path).spawn()?);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !path.exists() {
            if Instant::now() > deadline {
                return Err("the relay does not start".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(relay)
    }

    /// The time that its one thread has spent on a processor.
    fn cpu(&self) -> Result<Duration, Error> {
        let schedstat = std::fs::read_to_string(format!("/proc/{}/schedstat", self.0.id()))?;
        let nanos = schedstat.split(' ').next().unwrap_or("0").parse()?;
        Ok(Duration::from_nanos(nanos))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
