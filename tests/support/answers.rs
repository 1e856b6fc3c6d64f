//! What the probe answers, as far as its app has no part in it.

use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Query, State};
use axum::http::Uri;
use axum::routing::{any, get};
use http_body::Frame;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};
use payload::{Context, Mounted};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::{Notify, oneshot};

use super::{Settings, appears, deaf, hold_the_thread};

#[derive(Deserialize)]
#[serde(default)]
pub(crate) struct Timing {
    ms: u64,
    chunks: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self { ms: 100, chunks: 3 }
    }
}

impl Timing {
    fn pause(&self) -> Duration {
        Duration::from_millis(self.ms)
    }
}

pub(crate) fn routes(go: Arc<Notify>) -> Router {
    Router::new()
        .route("/", any(pid))
        .route("/sleep", get(sleep))
        .route("/block", get(block))
        .route(
            "/deaf",
            get(async || deaf::hold(|| hold_the_thread(Duration::MAX))),
        )
        .route("/blocking", get(blocking))
        .route("/gate", get(gate))
        .route("/hold", get(hold))
        .route("/gate-body", get(gate_body))
        .route("/thread", get(async || gettid().to_string()))
        .route("/panic", get(fall_over))
        .route("/crash", get(crash))
        .route("/echo", any(async |body: Body| body))
        .route("/slow-body", get(slow_body))
        .route("/payload", get(let_go))
        .route("/child", get(child))
        .route("/descriptors", get(descriptors))
        .route("/orphan", get(orphan))
        .route("/environment", get(environment))
        .route("/random", get(random))
        .route("/grow", get(grow))
        .route("/log", get(log))
        .with_state(go)
}

async fn pid() -> String {
    format!("{}\n", std::process::id())
}

async fn sleep(Query(timing): Query<Timing>) -> String {
    let cancelled = Cancelled;
    tokio::time::sleep(timing.pause()).await;
    std::mem::forget(cancelled);
    pid().await
}

async fn gate(Query(Gate { file }): Query<Gate>) -> String {
    appears(Some(file)).await;
    pid().await
}

async fn hold(Query(Gate { file }): Query<Gate>) -> String {
    while !file.exists() {
        hold_the_thread(Duration::from_millis(10));
    }
    pid().await
}

async fn gate_body(Query(Gate { file }): Query<Gate>) -> Body {
    let (mut writer, reader) = tokio::io::duplex(64);
    tokio::spawn(async move {
        if writer.write_all(b"chunk\n").await.is_ok() {
            appears(Some(file)).await;
            // A client that is gone needs nothing more.
            let _ = writer.write_all(b"chunk\n").await;
        }
    });
    Body::new(Chunks(reader))
}

#[derive(Deserialize)]
pub(crate) struct Gate {
    file: PathBuf,
}

/// Says so when it is dropped.
struct Cancelled;

impl Drop for Cancelled {
    fn drop(&mut self) {
        tracing::info!(probe = "cancelled", "probe");
    }
}

pub(crate) async fn block(Query(timing): Query<Timing>) -> String {
    hold_the_thread(timing.pause());
    pid().await
}

/// Says so when it is dropped.
struct Blocking;

impl Drop for Blocking {
    fn drop(&mut self) {
        tracing::info!(probe = "unblocked", "probe");
    }
}

async fn blocking(Query(timing): Query<Timing>) {
    block_aside(timing.pause()).await;
}

pub(crate) async fn block_aside(time: Duration) {
    let (begun, begin) = oneshot::channel();
    let owned = Blocking;
    tokio::task::spawn_blocking(move || {
        let _owned = owned;
        let _ = begun.send(());
        hold_the_thread(time);
    });
    // What has not begun would be dropped.
    let _ = begin.await;
    tracing::info!(probe = "blocked", "probe");
}

pub(crate) fn busy(context: &Context<Settings>, Query(Gate { file }): Query<Gate>) {
    let busy = context.busy();
    tokio::spawn(async move {
        appears(Some(file)).await;
        drop(busy);
    });
}

#[expect(clippy::panic, reason = "what it is for")]
async fn fall_over() {
    panic!("asked to panic")
}

async fn crash() -> String {
    let done = kill(Pid::this(), Signal::SIGKILL);
    format!("{done:?}")
}

async fn slow_body(Query(timing): Query<Timing>) -> Body {
    let (pause, mut left) = (timing.pause(), timing.chunks);
    let (mut writer, reader) = tokio::io::duplex(64);
    tokio::spawn(async move {
        while left > 0 && writer.write_all(b"chunk\n").await.is_ok() {
            left -= 1;
            tokio::time::sleep(pause).await;
        }
    });
    Body::new(Chunks(reader))
}

async fn let_go(State(go): State<Arc<Notify>>) {
    go.notify_one();
}

async fn child() -> Result<Vec<u8>, String> {
    run(Command::new("cat").arg("/proc/self/status"))
}

async fn descriptors() -> Result<Vec<u8>, String> {
    run(Command::new("ls").args(["-l", "/proc/self/fd"]))
}

async fn orphan() -> Result<Vec<u8>, String> {
    run(Command::new("sh").args(["-c", "sleep 600 >/dev/null 2>&1 & echo $!"]))
}

async fn environment() -> String {
    let line = |(name, value): (OsString, OsString)| {
        format!("{}={}\n", name.to_string_lossy(), value.to_string_lossy())
    };
    std::env::vars_os().map(line).collect()
}

/// Of std, and of the generator that most of the ecosystem's small ones are like, in two threads.
async fn random() -> Result<String, String> {
    let draw = || format!("{} {}", RandomState::new().hash_one(0), fastrand::u64(..));
    let blocking = tokio::task::spawn_blocking(draw).await;
    let blocking = blocking.map_err(|error| error.to_string())?;
    Ok(format!("{} {} {blocking}\n", std::process::id(), draw()))
}

pub(crate) async fn whereabouts(Extension(mounted): Extension<Mounted>, uri: Uri) -> String {
    format!("{} {uri} {}", mounted.path(), mounted.original_uri())
}

async fn grow(Query(Amount { mib, .. }): Query<Amount>) -> String {
    static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    // Written to, or the kernel would give no page.
    let more = vec![1; mib << 20];
    KEPT.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(more);
    pid().await
}

async fn log(Query(Amount { count, .. }): Query<Amount>) {
    for number in 0..count {
        tracing::info!(number, "a record that was asked for");
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Amount {
    mib: usize,
    count: u32,
}

fn run(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command.output();
    output
        .map(|output| output.stdout)
        .map_err(|error| error.to_string())
}

/// What comes out of a pipe, chunk by chunk.
struct Chunks(DuplexStream);

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut space = [0; 64];
        let mut buffer = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
        let chunk = Bytes::copy_from_slice(buffer.filled());
        Poll::Ready((!chunk.is_empty()).then(|| Ok(Frame::data(chunk))))
    }
}
