//! Notes in SQLite: an axum service with a pool of connections, typed state and settings of its own.
//!
//! ```text
//! cargo run --example sqlite
//! systemfd --no-pid -s http::8080 -- cargo run --example sqlite
//!
//! curl -d 'buy milk' http://127.0.0.1:8080/notes
//! curl http://127.0.0.1:8080/notes
//! curl -X DELETE http://127.0.0.1:8080/notes/1
//! curl http://127.0.0.1:8080/healthz
//! ```
//!
//! With `--config FILE`, the file's `[app]` table is [`Settings`]; `check` refuses what does not fit.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Extension, Json, Router};
use deadpool_sqlite::rusqlite::{self, Connection, ErrorCode, TransactionBehavior};
use deadpool_sqlite::{Config, Pool, Runtime};
use payload::{App, BoxError, Context};
use serde::{Deserialize, Serialize};

/// The `[app]` table. It is parsed before any worker is forked.
#[derive(Deserialize)]
#[serde(default)]
struct Settings {
    /// The database file; made if it is not there.
    database: PathBuf,
    /// The most connections that one worker opens.
    connections: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            database: "notes.db".into(),
            connections: 4,
        }
    }
}

/// Runs once in every worker, after the fork: SQLite's connections must not cross one.
async fn load(context: Context<Settings>) -> payload::Result<App> {
    let database = Database::new(context.settings())?;
    let routes = Router::new()
        .route("/notes", get(list).post(add))
        .route("/notes/{id}", delete(remove))
        .route("/healthz", get(health))
        // For axum's `State`, which the compiler checks.
        .with_state(database.clone());
    Ok(App::builder()
        // For steps, payloads, and handlers that are not generic over a router's state.
        .state(database)
        .step("database", async |context| {
            let database = context.state::<Database>()?;
            database.call(migrate).await?;
            // What comes back is the teardown. It runs when the last request is answered.
            Ok(async move || {
                database.0.close();
                Ok(())
            })
        })
        .timeout(Duration::from_secs(30))
        .build(routes))
}

#[derive(Clone)]
struct Database(Pool);

impl Database {
    /// Opens nothing yet: the pool makes connections when they are asked for.
    fn new(settings: &Settings) -> payload::Result<Self> {
        let config = Config::new(&settings.database);
        let pool = config
            .builder(Runtime::Tokio1)?
            .max_size(settings.connections)
            .wait_timeout(Some(Duration::from_secs(5)))
            .build()?;
        Ok(Self(pool))
    }

    /// Does `work` on a connection, on a thread where it may block: SQLite reads files and waits for its locks, for
    /// up to 5 s, which is what rusqlite sets as `busy_timeout`.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> payload::Result<T> {
        let connection = self.0.get().await?;
        let done = connection.interact(work).await;
        Ok(done.map_err(|error| format!("database: {error}"))??)
    }
}

/// Each brings the schema one version further. Once released, an entry stays as it is.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT",
    "ALTER TABLE notes ADD COLUMN created INTEGER NOT NULL DEFAULT 0",
];

/// All workers start at the same time and all of them call this. The first to get the write lock migrates, the others
/// wait for it and find nothing left to do.
///
/// At a reload the old workers still serve meanwhile, and go on if the new ones fail. So a migration has to leave a
/// schema that the version before it can work with: add now, and take away in a later release. That is also why
/// this is no `payload::preload`: the check before a reload runs that, for a reload that may not come about.
fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    // Readers do not block the writer, nor he them; the file remembers it. For this SQLite does not wait until nobody
    // else is in the file, which is only so while all workers make it together.
    while let Err(error) = connection.pragma_update(None, "journal_mode", "wal") {
        if error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: u32 =
        transaction.pragma_query_value(None, "user_version", |row| row.get("user_version"))?;
    for (sql, version) in MIGRATIONS.iter().zip(1..).skip(version as usize) {
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", version)?;
        tracing::info!(version, "the schema was migrated");
    }
    transaction.commit()
}

#[derive(Serialize)]
struct Note {
    id: i64,
    text: String,
    /// In seconds since 1970.
    created: i64,
}

impl TryFrom<&rusqlite::Row<'_>> for Note {
    type Error = rusqlite::Error;

    fn try_from(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            text: row.get("text")?,
            created: row.get("created")?,
        })
    }
}

async fn list(State(database): State<Database>) -> Result<Json<Vec<Note>>, Failure> {
    let notes = database.call(|connection| {
        let mut all = connection.prepare_cached("SELECT * FROM notes ORDER BY id")?;
        all.query_map([], |row| Note::try_from(row))?.collect()
    });
    Ok(Json(notes.await?))
}

async fn add(
    State(database): State<Database>,
    text: String,
) -> Result<(StatusCode, Json<Note>), Failure> {
    let note = database.call(|connection| {
        connection
            .prepare_cached(
                "INSERT INTO notes (text, created) VALUES (?, unixepoch()) RETURNING *",
            )?
            .query_one([text], |row| Note::try_from(row))
    });
    Ok((StatusCode::CREATED, Json(note.await?)))
}

async fn remove(
    State(database): State<Database>,
    Path(id): Path<i64>,
) -> Result<StatusCode, Failure> {
    let removed =
        database.call(move |connection| connection.execute("DELETE FROM notes WHERE id = ?", [id]));
    Ok(match removed.await? {
        0 => StatusCode::NOT_FOUND,
        _ => StatusCode::NO_CONTENT,
    })
}

/// Says more than that the process is there: a request can use the database.
async fn health(Extension(state): Extension<payload::State>) -> Result<&'static str, Failure> {
    let database = state.get::<Database>()?;
    let answer = database.call(|connection| connection.query_one("SELECT 1", [], |_| Ok("ok\n")));
    Ok(answer.await?)
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
    payload::main(load)
}
