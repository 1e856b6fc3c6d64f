//! A job that runs on a schedule, once in the whole service, however many workers there are.
//!
//! ```text
//! cargo run --example schedule -- --workers 4
//! systemfd --no-pid -s http::8080 -- cargo run --example schedule -- --workers 4
//!
//! curl http://127.0.0.1:8080/            # the reports that there are
//! curl http://127.0.0.1:8080/1234567     # one of them
//! cargo run --example schedule -- status # who has the lease of 'schedule'
//! ```
//!
//! The runs are numbered by the clock: number n is due n times `every` after 1970. So every worker knows which ones
//! there are, and a run that was due while nobody had the lease (a reload, a crash) is made up for.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path as Segment, State};
use axum::http::StatusCode;
use axum::routing::get;
use payload::{App, Context, Payload, PayloadContext, Scope};
use serde::Deserialize;
use tokio::fs;

/// The `[app]` table.
#[derive(Clone, Deserialize)]
#[serde(default)]
struct Settings {
    /// Where the reports are written.
    reports: PathBuf,
    #[serde(deserialize_with = "payload::duration")]
    every: Duration,
    /// The most runs that are made up for; older ones are skipped.
    catch_up: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            reports: "reports".into(),
            every: Duration::from_secs(10),
            catch_up: 10,
        }
    }
}

async fn load(context: Context<Settings>) -> payload::Result<App> {
    let settings = context.settings().clone();
    fs::create_dir_all(&settings.reports).await?;
    let routes = Router::new()
        .route("/", get(list))
        .route("/{run}", get(one))
        .with_state(settings.reports.clone());
    Ok(App::builder()
        .payload(
            Payload::restarting("schedule", move |context| {
                schedule(context, settings.clone())
            })
            .scope(Scope::Service),
        )
        .build(routes))
}

/// Runs in one worker at a time. When that one leaves or dies, another one goes on.
async fn schedule(context: PayloadContext, settings: Settings) -> payload::Result<()> {
    let timetable = Timetable::new(settings.every);
    let stop = context.stop_token();
    // From whoever did this before us, in whichever process and generation. That is in the arbiter's memory: after a
    // stop it is gone, and we begin with what is due next. To make up for that too, write it down instead.
    let mut next = match context.kept() {
        Some(kept) => str::from_utf8(&kept)?.parse()?,
        None => {
            let first = timetable.now() + 1;
            // At once: if this run fails, whoever tries next must know of it.
            context.keep(first.to_string())?;
            first
        }
    };
    while !stop.is_fired() {
        let wait = timetable.until(next);
        if !wait.is_zero() {
            tokio::select! {
                () = stop.fired() => {}
                // The clock may be set meanwhile: it is asked again.
                () = tokio::time::sleep(wait) => {}
            }
            continue;
        }
        let oldest = timetable.now().saturating_sub(settings.catch_up);
        if next < oldest {
            tracing::warn!(from = next, to = oldest - 1, "runs are skipped");
            next = oldest;
        }
        // Not in the `select!`: a run that has begun is not broken off.
        run(&context, &settings.reports, next).await?;
        next += 1;
        context.keep(next.to_string())?;
    }
    Ok(())
}

/// Writes a report, unless it is there: a link cannot replace a file. So this does nothing twice, even if a predecessor
/// was killed before anybody could know that he had done it. It also shows nobody half a report.
async fn run(context: &PayloadContext, reports: &Path, run: u64) -> io::Result<()> {
    let (epoch, process) = (context.epoch(), std::process::id());
    let draft = reports.join(format!("{run}.{epoch}.draft"));
    fs::write(
        &draft,
        format!("run {run} by process {process} in epoch {epoch}\n"),
    )
    .await?;
    match fs::hard_link(&draft, reports.join(format!("{run}.txt"))).await {
        Ok(()) => tracing::info!(run, epoch, "a report was written"),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    fs::remove_file(&draft).await
}

/// Which run is due when, by the clock of the machine.
struct Timetable {
    /// In milliseconds.
    every: u64,
}

impl Timetable {
    fn new(every: Duration) -> Self {
        let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
        Self {
            every: every.max(1),
        }
    }

    /// The run that was due last.
    fn now(&self) -> u64 {
        clock() / self.every
    }

    fn until(&self, run: u64) -> Duration {
        Duration::from_millis(run.saturating_mul(self.every).saturating_sub(clock()))
    }
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "what is due by the time of day")]
fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// The numbers of all reports, in order.
async fn runs(reports: &Path) -> io::Result<Vec<u64>> {
    let mut entries = fs::read_dir(reports).await?;
    let mut runs = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name();
        let run = name.to_str().and_then(|name| name.strip_suffix(".txt"));
        runs.extend(run.and_then(|run| run.parse::<u64>().ok()));
    }
    runs.sort_unstable();
    Ok(runs)
}

async fn list(State(reports): State<PathBuf>) -> Result<String, StatusCode> {
    let runs = runs(&reports).await.map_err(|error| failed(&error))?;
    Ok(runs.iter().map(|run| format!("{run}\n")).collect())
}

async fn one(
    State(reports): State<PathBuf>,
    Segment(run): Segment<u64>,
) -> Result<String, StatusCode> {
    let report = fs::read_to_string(reports.join(format!("{run}.txt"))).await;
    report.map_err(|error| failed(&error))
}

fn failed(error: &io::Error) -> StatusCode {
    if error.kind() == ErrorKind::NotFound {
        return StatusCode::NOT_FOUND;
    }
    tracing::error!(%error, "a request failed");
    StatusCode::INTERNAL_SERVER_ERROR
}

fn main() -> ExitCode {
    payload::main(load)
}
