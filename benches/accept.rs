//! How connections spread over workers that share one listening socket, and what an accept costs.
//!
//! `cargo bench --bench accept` runs payload's acceptor and the plain tokio accept one after the other, in
//! the same shape: N single-threaded worker processes, the same handler, one client.
//! `WORKERS=8 cargo bench --bench accept` for another N.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

type Error = Box<dyn std::error::Error + Send + Sync>;

const KINDS: [&str; 2] = ["plain", "payload"];
/// Slower than this, a new connection was stalled.
const STALL: Duration = Duration::from_millis(5);

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, kind, index, blocked] = arguments.as_slice()
        && role == "worker"
    {
        return runtime()?.block_on(worker(kind, index, blocked == "blocked"));
    }
    // Without the flag of `cargo bench` only that it works is tested.
    let full = arguments.iter().any(|argument| argument == "--bench");
    let workers = std::env::var("WORKERS").map_or(Ok(if full { 4 } else { 2 }), |n| n.parse())?;
    runtime()?.block_on(measure(workers, full))
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn measure(workers: usize, full: bool) -> Result<(), Error> {
    let (long, short, rate) = if full { (512, 10_000, 2_000) } else { (32, 100, 1_000) };
    println!("{workers} workers; long: {long} connections, short: {short} at {rate}/s");
    println!(
        "{:8} {:>18} {:>18} {:>16} {:>16} {:>14} {:>16}",
        "accept", "long, paced", "long, burst", "short, spread", "CPU µs / short", "CPU µs / max", "stalled, blocked"
    );
    for kind in KINDS {
        let paced = Fleet::start(kind, workers, false)?.long(long, false).await?;
        let burst = Fleet::start(kind, workers, false)?.long(long, true).await?;
        let slow = Fleet::start(kind, workers, false)?.short(short, Some(rate)).await?;
        let fast = Fleet::start(kind, workers, false)?.short(short, None).await?;
        let blocked = Fleet::start(kind, workers, true)?.short(short, Some(rate)).await?;
        println!(
            "{kind:8} {:>18} {:>18} {:>16} {:>16.1} {:>14.1} {:>14.2} %",
            range(&paced),
            range(&burst),
            range(&slow.served),
            slow.cpu_micros,
            fast.cpu_micros,
            100.0 * blocked.stalled
        );
    }
    Ok(())
}

/// What the workers got, as least to most, with the largest deviation from the mean.
fn range(served: &[usize]) -> String {
    let mean = served.iter().sum::<usize>() as f64 / served.len() as f64;
    let least = served.iter().copied().min().unwrap_or(0);
    let most = served.iter().copied().max().unwrap_or(0);
    let deviation = (most as f64 - mean).max(mean - least as f64) / mean;
    format!("{least}..{most} ±{:.0}%", 100.0 * deviation)
}

/// N workers on one socket, killed when this is dropped.
struct Fleet {
    workers: Vec<Child>,
    address: SocketAddr,
}

struct Short {
    served: Vec<usize>,
    cpu_micros: f64,
    stalled: f64,
}

impl Fleet {
    fn start(kind: &str, count: usize, blocked: bool) -> Result<Self, Error> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        socket2::SockRef::from(&listener).listen(4096)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let mut workers = Vec::new();
        for index in 0..count {
            let blocked = if blocked && index == 0 { "blocked" } else { "free" };
            workers.push(
                Command::new(std::env::current_exe()?)
                    .args(["worker", kind, &index.to_string(), blocked])
                    .stdin(Stdio::from(OwnedFd::from(listener.try_clone()?)))
                    .spawn()?,
            );
        }
        // Each says when it is ready by answering; give the last one a moment.
        std::thread::sleep(Duration::from_millis(300));
        Ok(Self { workers, address })
    }

    async fn long(&self, count: usize, burst: bool) -> Result<Vec<usize>, Error> {
        let mut served = vec![0; self.workers.len()];
        let mut open = Vec::new();
        if burst {
            let asking: Vec<_> = (0..count).map(|_| tokio::spawn(ask(self.address, false))).collect();
            for asked in asking {
                open.push(asked.await??);
            }
        } else {
            for _ in 0..count {
                open.push(ask(self.address, false).await?);
            }
        }
        for (_, worker) in &open {
            served[*worker] += 1;
        }
        Ok(served)
    }

    async fn short(&self, count: usize, rate: Option<u32>) -> Result<Short, Error> {
        let mut served = vec![0; self.workers.len()];
        let before = self.cpu()?;
        let mut slow = 0;
        let address = self.address;
        let one = async move || {
            let begun = Instant::now();
            let (_, worker) = ask(address, true).await?;
            Ok::<_, Error>((worker, begun.elapsed()))
        };
        let mut results = Vec::new();
        if let Some(rate) = rate {
            let begun = Instant::now();
            let asking: Vec<_> = (0..count)
                .map(|n| {
                    let due = begun + Duration::from_secs(1) / rate * u32::try_from(n).unwrap_or(u32::MAX);
                    tokio::spawn(async move {
                        tokio::time::sleep_until(due.into()).await;
                        one().await
                    })
                })
                .collect();
            for asked in asking {
                results.push(asked.await??);
            }
        } else {
            let lanes: Vec<_> = (0..32)
                .map(|_| {
                    tokio::spawn(async move {
                        let mut results = Vec::new();
                        for _ in 0..count / 32 {
                            results.push(one().await?);
                        }
                        Ok::<_, Error>(results)
                    })
                })
                .collect();
            for lane in lanes {
                results.extend(lane.await??);
            }
        }
        for (worker, took) in &results {
            served[*worker] += 1;
            slow += usize::from(*took > STALL);
        }
        Ok(Short {
            served,
            cpu_micros: (self.cpu()? - before).as_secs_f64() * 1e6 / results.len() as f64,
            stalled: slow as f64 / results.len() as f64,
        })
    }

    /// The time all workers have spent on a processor.
    fn cpu(&self) -> Result<Duration, Error> {
        let mut total = Duration::ZERO;
        for worker in &self.workers {
            let schedstat = std::fs::read_to_string(format!("/proc/{}/schedstat", worker.id()))?;
            let nanos = schedstat.split(' ').next().unwrap_or("0").parse()?;
            total += Duration::from_nanos(nanos);
        }
        Ok(total)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// One request; returns the connection and the index of the worker that answered.
async fn ask(address: SocketAddr, close: bool) -> Result<(TcpStream, usize), Error> {
    let mut stream = TcpStream::connect(address).await?;
    let close = if close { "connection: close\r\n" } else { "" };
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: x\r\n{close}\r\n").as_bytes()).await?;
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

async fn worker(kind: &str, index: &str, blocked: bool) -> Result<(), Error> {
    let listener = TcpListener::from(std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned()?);
    let answer = Bytes::from(format!("{index}|"));
    if blocked {
        tokio::spawn(async {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                std::thread::sleep(Duration::from_millis(100));
            }
        });
    }
    if kind == "payload" {
        let server = payload::bench::Bench::serve(listener, Handler(answer))?;
        return Err(server.fatal().await.into());
    }
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let http = hyper::server::conn::http1::Builder::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        stream.set_nodelay(true)?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let answer = answer.clone();
        let handler = hyper::service::service_fn(move |_: Request<hyper::body::Incoming>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(answer.clone()))))
        });
        tokio::spawn(http.serve_connection(io, handler));
    }
}

#[derive(Clone)]
struct Handler(Bytes);

impl tower_service::Service<Request<payload::body::Body>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<payload::body::Body>) -> Self::Future {
        std::future::ready(Ok(Response::new(Full::new(self.0.clone()))))
    }
}
