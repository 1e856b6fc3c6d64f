//! What it costs to hand a connection on: one of two workers leaves and gives all that it has to the other.
//!
//! `cargo bench --bench handoff`; `LONG=10000` before it for another number of connections.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints what it measured"
)]

#[allow(unreachable_pub, dead_code, reason = "each bench uses its part")]
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use http::{Request, Response};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use support::{Error, Fleet};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let result = match arguments.get(1).map(String::as_str) {
        Some("run") => return payload::main(load),
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
    let hello = payload::service_fn(|_: Request<payload::Body>| async {
        Ok(Response::new(payload::Body::from(format!(
            "{}\n",
            std::process::id()
        ))))
    });
    Ok(payload::App::builder().build(hello))
}

fn measure(full: bool) -> Result<(), Error> {
    let long = std::env::var("LONG").map_or(Ok(if full { 8_000 } else { 100 }), |n| n.parse())?;
    // Both ends of each are descriptors, in three processes that inherit the limit.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    println!(
        "{:>12}{:>12}{:>18}{:>18}{:>16}",
        "handed on", "in ms", "wall µs each", "CPU µs each", "slowest ms"
    );
    for _ in 0..if full { 5 } else { 1 } {
        round(long)?;
    }
    Ok(())
}

fn round(long: usize) -> Result<(), Error> {
    let fleet = Fleet::payload(2, &[])?;
    let mut clients = Vec::new();
    for _ in 0..long {
        let mut client = TcpStream::connect(fleet.address)?;
        client.set_nodelay(true)?;
        let worker = ask(&mut client)?;
        clients.push((client, worker));
    }
    // A rebalance that began at the start is over.
    std::thread::sleep(Duration::from_secs(1));
    let before = fleet.cpu_of_all()?;
    let begun = Instant::now();
    fleet.signal(Signal::SIGTTOU)?;
    fleet.wait_for_workers(1)?;
    let took = begun.elapsed();
    let cpu = fleet.cpu_of_all()?.saturating_sub(before);
    let (mut moved, mut slowest) = (0_u32, Duration::ZERO);
    for (client, worker) in &mut clients {
        let begun = Instant::now();
        moved += u32::from(ask(client)? != *worker);
        slowest = slowest.max(begun.elapsed());
    }
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(moved.max(1));
    println!(
        "{moved:>12}{:>12.1}{:>18.1}{:>18.1}{:>16.1}",
        took.as_secs_f64() * 1e3,
        micros(took),
        micros(cpu),
        slowest.as_secs_f64() * 1e3
    );
    Ok(())
}

/// One request on a connection that stays open; who answered.
fn ask(client: &mut TcpStream) -> Result<u32, Error> {
    client.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") || answer.ends_with(b"\r\n") {
        let mut buffer = [0; 1024];
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Err("the connection was closed".into());
        }
        answer.extend_from_slice(&buffer[..count]);
    }
    let text = String::from_utf8_lossy(&answer);
    let (_, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    Ok(body.trim().parse()?)
}
