//! A queue whose jobs are shared out among the workers: each slot consumes its own part of them.
//!
//! ```text
//! cargo run --example queue -- --workers 4
//! systemfd --no-pid -s http::8080 -- cargo run --example queue -- --workers 4
//!
//! curl -d 'make me loud' http://127.0.0.1:8080/jobs
//! curl http://127.0.0.1:8080/jobs/1
//! curl http://127.0.0.1:8080/jobs
//! ```
//!
//! What holds, whatever is reloaded, scaled or killed meanwhile:
//!
//! - A job belongs to one slot, and that slot's payload runs in one worker at a time: the lease sees to it.
//! - A job that was begun is finished when the worker is told to leave.
//! - If the worker dies under it, it is done again by the next one: *at least once*. So it is after an error, and if it
//!   had to be aborted because it was not done 10 s after the worker had been told to leave: a job that takes longer is
//!   begun anew at each reload.
//! - After five attempts it is parked, since it may be what kills the workers: the log says so, `/jobs` counts it, and
//!   nobody takes it before somebody sets its `attempts` and `parked` to 0.
//! - A result is written only by the last one who took the job, see [`Queue::finish`].

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use deadpool_sqlite::rusqlite::{self, Connection, OptionalExtension as _, Row, params};
use deadpool_sqlite::{Config, Pool, Runtime};
use payload::{App, BoxError, Context, Messages, Payload, PayloadContext, Scope};
use serde::{Deserialize, Serialize};

/// The topic on which the workers tell each other that there is something to do.
const NEW_JOBS: &str = "new jobs";

/// How often a job is begun.
const ATTEMPTS: u32 = 5;

/// The `[app]` table.
#[derive(Deserialize)]
#[serde(default)]
struct Settings {
    database: PathBuf,
    /// How long a job of this example takes.
    #[serde(deserialize_with = "payload::duration")]
    work: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            database: "queue.db".into(),
            work: Duration::from_millis(500),
        }
    }
}

/// Makes the database. Runs once, in the arbiter, before there is any worker; its connection must not be open when those
/// are forked. At each reload it runs again, also if that comes to nothing: so it changes nothing that is there.
fn prepare(settings: &Settings) -> payload::Result<()> {
    Ok(Connection::open(&settings.database)?.execute_batch(SCHEMA)?)
}

async fn load(context: Context<Settings>, _prepared: &'static ()) -> payload::Result<App> {
    let pool = Config::new(&context.settings().database).create_pool(Runtime::Tokio1)?;
    let queue = Queue {
        pool,
        messages: context.messages(),
    };
    let routes = Router::new()
        .route("/jobs", get(count).post(enqueue))
        .route("/jobs/{id}", get(look))
        .with_state(queue.clone());
    let work = context.settings().work;
    let consumer = Payload::restarting("consumer", move |context| consume(context, work))
        .scope(Scope::Slot)
        // For the job that is in work when it is told to stop.
        .stop_timeout(Duration::from_secs(10));
    Ok(App::builder()
        .state(queue)
        .teardown("queue", async |context| {
            context.state::<Queue>()?.pool.close();
            Ok(())
        })
        // Behind the teardown, so that it ends before.
        .payload(consumer)
        .build(routes))
}

/// One slot's consumer.
async fn consume(context: PayloadContext, work: Duration) -> payload::Result<()> {
    let queue = context.state::<Queue>()?;
    let share = Share::of(&context)?;
    for job in queue.park(share).await? {
        tracing::warn!(
            job,
            attempts = ATTEMPTS,
            "a job is parked: no attempt came to its end"
        );
    }
    let stop = context.stop_token();
    // Asked between two jobs only, so that the one in work is finished.
    while !stop.is_fired() {
        // Before we look, so that no news falls between.
        let mut news = queue.messages.subscribe(NEW_JOBS);
        let Some(job) = queue.take(share).await? else {
            tokio::select! {
                () = stop.fired() => {}
                _ = news.recv() => {}
                // A message can be lost with the worker that sends it; a job cannot.
                () = tokio::time::sleep(Duration::from_secs(2)) => {}
            }
            continue;
        };
        // Nobody may be connected now, and still the service should not leave for idleness.
        let _busy = context.busy();
        tokio::time::sleep(work).await;
        let result = format!(
            "{} (slot {} of {})",
            job.text.to_uppercase(),
            share.slot,
            share.slots
        );
        if !queue.finish(job.id, share, result).await? {
            tracing::warn!(
                job = job.id,
                "somebody else has taken the job meanwhile; the result is dropped"
            );
        }
    }
    Ok(())
}

/// Which jobs are ours: those whose number leaves `slot` when divided by `slots`. While a consumer runs, all others have
/// the same `slots`, so every job is in exactly one share.
#[derive(Clone, Copy)]
struct Share {
    slot: u32,
    slots: u32,
    /// Everybody who has a share later has a greater one.
    epoch: i64,
}

impl Share {
    fn of(context: &PayloadContext) -> payload::Result<Self> {
        Ok(Self {
            slot: context.slot(),
            slots: context.slots(),
            epoch: context.epoch().try_into()?,
        })
    }
}

const SCHEMA: &str = "
    PRAGMA journal_mode = wal;
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS jobs (
        id INTEGER PRIMARY KEY,
        text TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        epoch INTEGER NOT NULL DEFAULT 0, -- of who took it last
        parked INTEGER NOT NULL DEFAULT 0,
        result TEXT
    ) STRICT;
    CREATE INDEX IF NOT EXISTS open ON jobs (id) WHERE result IS NULL;
    COMMIT";

#[derive(Clone)]
struct Queue {
    pool: Pool,
    messages: Messages,
}

#[derive(Serialize)]
struct Job {
    id: i64,
    text: String,
    attempts: u32,
    parked: bool,
    result: Option<String>,
}

impl Queue {
    /// Leaves those jobs of this share alone that were begun too often; which ones are new among them. Only when a
    /// consumer begins: then none is in work, and whatever has broken an attempt off is behind it.
    async fn park(&self, share: Share) -> payload::Result<Vec<i64>> {
        let Share { slot, slots, epoch } = share;
        self.call(move |connection| {
            let park = "UPDATE jobs SET parked = 1
                WHERE result IS NULL AND NOT parked AND id % ?2 = ?1 AND epoch <= ?3 AND attempts >= ?4
                RETURNING id";
            let mut park = connection.prepare_cached(park)?;
            let ids = park.query_map(params![slot, slots, epoch, ATTEMPTS], |row| row.get(0))?;
            ids.collect()
        })
        .await
    }

    /// The next job of this share, which is now ours. It may have been somebody else's who died, or our own before an
    /// error: we do one at a time, so none that is open is in work.
    async fn take(&self, share: Share) -> payload::Result<Option<Job>> {
        let Share { slot, slots, epoch } = share;
        self.call(move |connection| {
            let next = "UPDATE jobs SET epoch = ?3, attempts = attempts + 1 WHERE id =
                (SELECT id FROM jobs WHERE result IS NULL AND NOT parked AND id % ?2 = ?1 AND epoch <= ?3
                 ORDER BY id LIMIT 1)
                RETURNING *";
            let mut next = connection.prepare_cached(next)?;
            next.query_one(params![slot, slots, epoch], Job::read).optional()
        })
        .await
    }

    /// Writes the result, unless somebody with a later epoch has taken the job. The lease lets nobody else in before we
    /// have ended. But it cannot call back what is on its way: here, a write that still runs on its thread after this
    /// payload was aborted. With a database on another machine, anything that waits in the network.
    async fn finish(&self, id: i64, share: Share, result: String) -> payload::Result<bool> {
        self.call(move |connection| {
            connection
                .prepare_cached("UPDATE jobs SET result = ?3 WHERE id = ?1 AND epoch = ?2")?
                .execute(params![id, share.epoch, result])
        })
        .await
        .map(|written| written == 1)
    }

    /// Does `work` on a connection, on a thread where it may block.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> payload::Result<T> {
        let done = self.pool.get().await?.interact(work).await;
        Ok(done.map_err(|error| format!("queue: {error}"))??)
    }
}

impl Job {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            text: row.get("text")?,
            attempts: row.get("attempts")?,
            parked: row.get("parked")?,
            result: row.get("result")?,
        })
    }
}

/// Any worker takes a job in. When the client has the answer, the job is on the disk.
async fn enqueue(
    State(queue): State<Queue>,
    text: String,
) -> Result<(StatusCode, Json<Job>), Failure> {
    let job = queue.call(|connection| {
        let mut insert =
            connection.prepare_cached("INSERT INTO jobs (text) VALUES (?) RETURNING *")?;
        insert.query_one([text], Job::read)
    });
    let job = job.await?;
    queue.messages.publish(NEW_JOBS, "")?;
    Ok((StatusCode::ACCEPTED, Json(job)))
}

async fn look(State(queue): State<Queue>, Path(id): Path<i64>) -> Result<Response, Failure> {
    let job = queue.call(move |connection| {
        let mut one = connection.prepare_cached("SELECT * FROM jobs WHERE id = ?")?;
        one.query_one([id], Job::read).optional()
    });
    Ok(match job.await? {
        Some(job) => Json(job).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

#[derive(Serialize)]
struct Counts {
    open: i64,
    parked: i64,
    done: i64,
}

async fn count(State(queue): State<Queue>) -> Result<Json<Counts>, Failure> {
    let counts = queue.call(|connection| {
        let all = "SELECT count(*) FILTER (WHERE result IS NULL AND NOT parked),
            count(*) FILTER (WHERE result IS NULL AND parked), count(result) FROM jobs";
        let mut all = connection.prepare_cached(all)?;
        all.query_one([], |row| {
            Ok(Counts {
                open: row.get(0)?,
                parked: row.get(1)?,
                done: row.get(2)?,
            })
        })
    });
    Ok(Json(counts.await?))
}

/// Any error in a handler: the log has the reason, the client a 500.
struct Failure(BoxError);

impl<E: Into<BoxError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        tracing::error!(error = %self.0, "a request failed");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

fn main() -> ExitCode {
    payload::preload(prepare).main(load)
}
