//! What payload costs beside a bare hyper program and axum: `cargo bench --bench http`.
//!
//! The servers run side by side and take turns, with the same handler and as many single-threaded
//! workers (for axum: threads) as `WORKERS` says, 2 if it says nothing:
//! - `payload`: `payload::main`, arbiter and scoreboard included, with all its limits and timeouts;
//! - `hyper`: one process per worker that accepts plainly, with those of payload's limits and timeouts
//!   that hyper has itself: the sizes, the time for a request's head, HTTP/2's pings. It counts, logs and
//!   contains nothing, and cannot be drained. It is what the percentages refer to;
//! - `untimed`: the same without a timeout, which a server that anybody can reach cannot do without;
//! - `axum`: `axum::serve` on the multi-threaded runtime, as it is.
//!
//! All of them set TCP_NODELAY, send the date and log warnings: with no subscriber at all, `tracing` would
//! hand the spans of HTTP/2 to the `log` crate, which costs more than telling that nobody wants them.
//!
//! `ROUNDS=3 LOAD=short cargo bench --bench http` for less. The load comes from a process of its own. Each
//! figure is the median over the rounds.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints what it measured"
)]

#[allow(unreachable_pub, dead_code, reason = "each bench uses its part")]
mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use axum::serve::ListenerExt;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use support::{Error, Fleet};

const HELLO: &[u8] = b"hello, world\n";
const SERVERS: [&str; 4] = ["payload", "hyper", "untimed", "axum"];

/// A way to send requests: its name, the connections, the requests of a round in thousands.
const LOADS: [(&str, usize, usize); 4] = [
    ("keep-alive", 64, 100),
    ("short", 32, 15),
    ("pipelined", 32, 600),
    ("http2", 4, 100),
];
/// Requests that are sent before the first response is read, and streams of one HTTP/2 connection.
const DEPTH: usize = 16;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let result = match words.as_slice() {
        ["run", ..] => return payload::main(load),
        ["client", load, address, connections, requests] => {
            within(client(load, address, connections, requests))
        }
        [role @ ("hyper" | "untimed"), version, _] => {
            within(bare_hyper(*version == "2", *role == "hyper"))
        }
        ["axum", workers, _] => multi_threaded_axum(workers),
        // Without the flag of `cargo bench`, only that it works is tested.
        words => within(compare(words.contains(&"--bench"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn within(task: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    support::runtime()?.block_on(task)
}

#[derive(Clone, Copy)]
struct Round {
    cpu_micros: f64,
    per_second: f64,
    p99_micros: f64,
}

async fn compare(full: bool) -> Result<(), Error> {
    let workers = std::env::var("WORKERS").map_or(Ok(2), |workers| workers.parse())?;
    let rounds =
        std::env::var("ROUNDS").map_or(Ok(if full { 7 } else { 1 }), |rounds| rounds.parse())?;
    let payload = Fleet::payload(workers, &[])?;
    let axum = Fleet::processes(&["axum", &workers.to_string()], 1)?;
    let hyper = |role, version| Fleet::processes(&[role, version], workers);
    let (hyper1, untimed1) = (hyper("hyper", "1")?, hyper("untimed", "1")?);
    let (hyper2, untimed2) = (hyper("hyper", "2")?, hyper("untimed", "2")?);
    let http1 = [&payload, &hyper1, &untimed1, &axum];
    let http2 = [&payload, &hyper2, &untimed2, &axum];
    println!("{workers} workers, {rounds} rounds");
    println!(
        "{:12}{:10}{:>20}{:>10}{:>14}{:>12}",
        "load", "server", "CPU µs per request", "", "requests/s", "p99 µs"
    );
    let only = std::env::var("LOAD").ok();
    for (load, connections, thousands) in LOADS {
        if only.as_ref().is_some_and(|only| only != load) {
            continue;
        }
        let requests = if full {
            thousands * 1000
        } else {
            2 * connections * DEPTH
        };
        let fleets = if load == "http2" { http2 } else { http1 };
        let mut results = [const { Vec::new() }; SERVERS.len()];
        for round in 0..rounds {
            for turn in 0..SERVERS.len() {
                // Nobody is always first.
                let server = (turn + round) % SERVERS.len();
                results[server].push(measure(fleets[server], load, connections, requests)?);
            }
        }
        let base = median(&results[1], |round| round.cpu_micros);
        for (server, rounds) in SERVERS.iter().zip(&results) {
            let cpu = median(rounds, |round| round.cpu_micros);
            println!(
                "{load:12}{server:10}{cpu:>20.2}{:>+9.1}%{:>14.0}{:>12.0}",
                100.0 * (cpu / base - 1.0),
                median(rounds, |round| round.per_second),
                median(rounds, |round| round.p99_micros),
            );
        }
    }
    for (server, fleet) in SERVERS.iter().zip(&http1) {
        println!(
            "{server}: PSS of its processes in KiB {:?}",
            fleet.memory()?
        );
    }
    Ok(())
}

fn measure(fleet: &Fleet, load: &str, connections: usize, requests: usize) -> Result<Round, Error> {
    let before = fleet.cpu()?;
    let output = Command::new(std::env::current_exe()?)
        .args(["client", load, &fleet.address.to_string()])
        .args([connections.to_string(), requests.to_string()])
        .output()?;
    let cpu = fleet.cpu()? - before;
    if !output.status.success() {
        return Err(format!(
            "the client failed: {}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    let figures = String::from_utf8(output.stdout)?;
    let figures: Vec<f64> = figures
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [done, micros, p99_micros] = figures[..] else {
        return Err("the client did not report three figures".into());
    };
    Ok(Round {
        cpu_micros: cpu.as_secs_f64() * 1e6 / done,
        per_second: done / micros * 1e6,
        p99_micros,
    })
}

fn median(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> f64 {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

// The servers.

async fn load(_context: payload::Context) -> payload::Result<payload::App> {
    let service = payload::service_fn(|_| {
        std::future::ready(Ok(Response::new(payload::Body::from(Bytes::from_static(
            HELLO,
        )))))
    });
    Ok(payload::App::builder().build(service))
}

/// Does not look which protocol the client speaks, it is told.
async fn bare_hyper(speaks_http2: bool, timed: bool) -> Result<(), Error> {
    log_warnings();
    let listener = tokio::net::TcpListener::from_std(support::passed()?)?;
    let mut http1 = hyper::server::conn::http1::Builder::new();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(timed.then_some(Duration::from_secs(10)))
        .max_header_size(64 * 1024)
        .max_buf_size(64 * 1024);
    let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(200)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(timed.then_some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    let handler = |_: Request<hyper::body::Incoming>| {
        let response = Response::new(Full::new(Bytes::from_static(HELLO)));
        std::future::ready(Ok::<_, Infallible>(response))
    };
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = hyper::service::service_fn(handler);
        if speaks_http2 {
            tokio::spawn(http2.serve_connection(TokioIo::new(stream), service));
        } else {
            tokio::spawn(http1.serve_connection(TokioIo::new(stream), service));
        }
    }
}

fn multi_threaded_axum(threads: &str) -> Result<(), Error> {
    log_warnings();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.parse()?)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(support::passed()?)?.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let hello = axum::routing::get(async || Bytes::from_static(HELLO));
        axum::serve(listener, axum::Router::new().route("/", hello)).await?;
        Ok(())
    })
}

fn log_warnings() {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .init();
}

// The client: prints how many requests were answered, in how many microseconds, and the 99th percentile.

async fn client(load: &str, address: &str, connections: &str, requests: &str) -> Result<(), Error> {
    let address: SocketAddr = address.parse()?;
    let connections: usize = connections.parse()?;
    let share = requests.parse::<usize>()? / connections;
    let begun = Instant::now();
    let mut lanes: Vec<JoinHandle<Result<Vec<Duration>, Error>>> = Vec::new();
    for _ in 0..connections {
        lanes.push(match load {
            "keep-alive" => tokio::spawn(pipelined(address, share, 1)),
            "pipelined" => tokio::spawn(pipelined(address, share, DEPTH)),
            "short" => tokio::spawn(short(address, share)),
            _ => tokio::spawn(http2(address, share)),
        });
    }
    let mut times = Vec::new();
    for lane in lanes {
        times.extend(lane.await??);
    }
    let elapsed = begun.elapsed();
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    println!(
        "{} {} {}",
        times.len(),
        elapsed.as_micros(),
        p99.as_micros()
    );
    Ok(())
}

const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\nuser-agent: bench\r\naccept: */*\r\n\r\n";

/// One connection; each batch of `depth` requests is answered before the next is sent. All responses are
/// as long as the first.
async fn pipelined(
    address: SocketAddr,
    requests: usize,
    depth: usize,
) -> Result<Vec<Duration>, Error> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(GET.as_bytes()).await?;
    let mut first = Vec::new();
    while !first.ends_with(HELLO) {
        if stream.read_buf(&mut first).await? == 0 {
            return Err("closed before the first response".into());
        }
    }
    let batch = GET.repeat(depth);
    let mut answer = vec![0; first.len() * depth];
    let mut times = Vec::with_capacity(requests);
    for _ in 0..requests / depth {
        let begun = Instant::now();
        stream.write_all(batch.as_bytes()).await?;
        stream.read_exact(&mut answer).await?;
        if !answer.ends_with(HELLO) {
            return Err("not the response that was expected".into());
        }
        times.extend(std::iter::repeat_n(begun.elapsed(), depth));
    }
    Ok(times)
}

async fn short(address: SocketAddr, requests: usize) -> Result<Vec<Duration>, Error> {
    let request = GET.replace("accept", "connection: close\r\naccept");
    let mut times = Vec::with_capacity(requests);
    let mut answer = Vec::new();
    for _ in 0..requests {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        answer.clear();
        stream.read_to_end(&mut answer).await?;
        if !answer.ends_with(HELLO) {
            return Err("not the response that was expected".into());
        }
        times.push(begun.elapsed());
    }
    Ok(times)
}

async fn http2(address: SocketAddr, requests: usize) -> Result<Vec<Duration>, Error> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut streams: Vec<JoinHandle<Result<Vec<Duration>, Error>>> = Vec::new();
    for _ in 0..DEPTH {
        let mut sender = sender.clone();
        streams.push(tokio::spawn(async move {
            let mut times = Vec::new();
            for _ in 0..requests / DEPTH {
                let begun = Instant::now();
                let request = Request::get("http://localhost/").body(Empty::<Bytes>::new())?;
                let response = sender.send_request(request).await?;
                if response.into_body().collect().await?.to_bytes() != HELLO {
                    return Err("not the response that was expected".into());
                }
                times.push(begun.elapsed());
            }
            Ok(times)
        }));
    }
    let mut times = Vec::new();
    for stream in streams {
        times.extend(stream.await??);
    }
    Ok(times)
}
