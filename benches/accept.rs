//! How connections spread over workers that share one listening socket, and what an accept costs.
//!
//! `cargo bench --bench accept` measures payload and the plain tokio accept one after the other, in the
//! same shape: N single-threaded worker processes, the same handler, one client. `WORKERS=8` before it
//! for another N.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints what it measured"
)]

#[allow(unreachable_pub, dead_code, reason = "each bench uses its part")]
mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use support::{Error, Fleet};

/// Slower than this, a new connection was stalled.
const STALL: Duration = Duration::from_millis(5);
/// Set: the first worker blocks its thread half of the time.
const BLOCK: &str = "BENCH_BLOCK";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let result = match arguments.get(1).map(String::as_str) {
        Some("run") => return payload::main(load),
        Some("plain") => support::runtime().map_err(Into::into).and_then(|runtime| {
            let blocked = arguments[2..] == ["blocked", "0"];
            runtime.block_on(plain(blocked))
        }),
        // Without the flag of `cargo bench`, only that it works is tested.
        other => support::runtime()
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(measure(other == Some("--bench")))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(full: bool) -> Result<(), Error> {
    let workers = std::env::var("WORKERS").map_or(Ok(if full { 4 } else { 2 }), |n| n.parse())?;
    let (long, short, rate) = if full {
        (512, 10_000, 2_000)
    } else {
        (32, 100, 1_000)
    };
    println!("{workers} workers; long: {long} connections; short: {short} at {rate}/s");
    println!(
        "{:8}{:>18}{:>18}{:>18}{:>16}{:>14}{:>18}",
        "accept",
        "long, paced",
        "long, burst",
        "short",
        "CPU µs/short",
        "at full rate",
        "stalled, blocked"
    );
    for kind in ["plain", "payload"] {
        let start = |blocked: bool| match (kind, blocked) {
            ("payload", true) => Fleet::payload(workers, &[(BLOCK, "1")]),
            ("payload", false) => Fleet::payload(workers, &[]),
            (_, true) => Fleet::processes(&["plain", "blocked"], workers),
            (_, false) => Fleet::processes(&["plain", "free"], workers),
        };
        let paced = open_long(&start(false)?, long, false).await?;
        let burst = open_long(&start(false)?, long, true).await?;
        let slow = open_short(&start(false)?, short, Some(rate)).await?;
        let fast = open_short(&start(false)?, short, None).await?;
        let blocked = open_short(&start(true)?, short, Some(rate)).await?;
        println!(
            "{kind:8}{:>18}{:>18}{:>18}{:>16.1}{:>14.1}{:>16.2} %",
            range(&paced, workers),
            range(&burst, workers),
            range(&slow.served, workers),
            slow.cpu_micros,
            fast.cpu_micros,
            100.0 * blocked.stalled
        );
    }
    Ok(())
}

type Served = std::collections::BTreeMap<u32, usize>;

/// What the workers got: least to most, and the largest deviation from the mean.
fn range(served: &Served, workers: usize) -> String {
    let mean = served.values().sum::<usize>() as f64 / workers as f64;
    let most = served.values().copied().max().unwrap_or(0);
    let least = if served.len() < workers {
        0
    } else {
        served.values().copied().min().unwrap_or(0)
    };
    let deviation = (most as f64 - mean).max(mean - least as f64) / mean;
    format!("{least}..{most} ±{:.0}%", 100.0 * deviation)
}

struct Short {
    served: Served,
    cpu_micros: f64,
    stalled: f64,
}

async fn open_long(fleet: &Fleet, count: usize, burst: bool) -> Result<Served, Error> {
    let mut open = Vec::new();
    if burst {
        let asking: Vec<_> = (0..count)
            .map(|_| tokio::spawn(ask(fleet.address, false)))
            .collect();
        for asked in asking {
            open.push(asked.await??);
        }
    } else {
        for _ in 0..count {
            open.push(ask(fleet.address, false).await?);
        }
    }
    let mut served = Served::new();
    for (_, worker) in &open {
        *served.entry(*worker).or_default() += 1;
    }
    Ok(served)
}

async fn open_short(fleet: &Fleet, count: usize, rate: Option<u32>) -> Result<Short, Error> {
    const LANES: usize = 32;
    let before = fleet.cpu()?;
    let begun = Instant::now();
    let address = fleet.address;
    let mut asking = Vec::new();
    match rate {
        Some(rate) => {
            for n in 0..count {
                let due = begun + Duration::from_secs(1) / rate * u32::try_from(n)?;
                asking.push(tokio::spawn(async move {
                    tokio::time::sleep_until(due.into()).await;
                    Ok::<_, Error>(vec![timed(address).await?])
                }));
            }
        }
        None => {
            for _ in 0..LANES {
                asking.push(tokio::spawn(async move {
                    let mut results = Vec::new();
                    for _ in 0..count / LANES {
                        results.push(timed(address).await?);
                    }
                    Ok(results)
                }));
            }
        }
    }
    let mut results = Vec::new();
    for asked in asking {
        results.extend(asked.await??);
    }
    let mut served = Served::new();
    for (worker, _) in &results {
        *served.entry(*worker).or_default() += 1;
    }
    let slow = results.iter().filter(|(_, took)| *took > STALL).count();
    Ok(Short {
        served,
        cpu_micros: (fleet.cpu()? - before).as_secs_f64() * 1e6 / results.len() as f64,
        stalled: slow as f64 / results.len() as f64,
    })
}

async fn timed(address: SocketAddr) -> Result<(u32, Duration), Error> {
    let begun = Instant::now();
    let (_, worker) = ask(address, true).await?;
    Ok((worker, begun.elapsed()))
}

/// One request; returns the connection and the pid of the worker that answered.
async fn ask(address: SocketAddr, close: bool) -> Result<(TcpStream, u32), Error> {
    let mut stream = TcpStream::connect(address).await?;
    let close = if close { "connection: close\r\n" } else { "" };
    stream
        .write_all(format!("GET / HTTP/1.1\r\nhost: x\r\n{close}\r\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"|") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err("the worker closed the connection".into());
        }
    }
    let answer = String::from_utf8(answer)?;
    let body = answer.rsplit("\r\n\r\n").next().unwrap_or("");
    Ok((stream, body.trim_end_matches('|').parse()?))
}

fn answer() -> Bytes {
    Bytes::from(format!("{}|", std::process::id()))
}

async fn block_half_of_the_time() {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        std::thread::sleep(Duration::from_millis(100));
    }
}

async fn load(context: payload::Context) -> payload::Result<payload::App> {
    let answer = answer();
    if context.slot() == 0 && std::env::var_os(BLOCK).is_some() {
        tokio::spawn(block_half_of_the_time());
    }
    let service = payload::service_fn(move |_| {
        let response = Response::new(payload::Body::from(answer.clone()));
        std::future::ready(Ok(response))
    });
    Ok(payload::App::builder().build(service))
}

/// What one would write without thinking about it.
async fn plain(blocked: bool) -> Result<(), Error> {
    if blocked {
        tokio::spawn(block_half_of_the_time());
    }
    let answer = answer();
    let listener = tokio::net::TcpListener::from_std(support::passed()?)?;
    let http = hyper::server::conn::http1::Builder::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = answer.clone();
        let handler = hyper::service::service_fn(move |_: Request<hyper::body::Incoming>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(
                answer.clone(),
            ))))
        });
        tokio::spawn(http.serve_connection(hyper_util::rt::TokioIo::new(stream), handler));
    }
}
