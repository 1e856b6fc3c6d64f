//! A service for the black-box tests: it starts as slowly, and answers as badly, as its settings and its
//! requests ask for.
//!
//! `[app]`: `startup_delay` in seconds, `startup_failure` with a text. Requests: `/` the worker's pid,
//! `/slow?SECONDS`, `/panic`, `/block?SECONDS` (holds the executor).

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::extract::RawQuery;
use axum::routing::get;
use payload::{App, Context};
use serde::Deserialize;

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    startup_delay: f64,
    startup_failure: Option<String>,
}

fn main() -> ExitCode {
    payload::main(load)
}

async fn load(context: Context<Settings>) -> payload::Result<App> {
    let Settings {
        startup_delay,
        startup_failure,
    } = context.settings().clone();
    let routes = Router::new()
        .route("/", get(pid))
        .route("/slow", get(slow))
        .route("/panic", get(fall_over))
        .route("/block", get(block));
    let app = App::builder().startup("warm up", async move |_| {
        tokio::time::sleep(Duration::from_secs_f64(startup_delay)).await;
        startup_failure.map_or(Ok(()), |text| Err(text.into()))
    });
    Ok(app.build(routes))
}

async fn pid() -> String {
    format!("{}\n", std::process::id())
}

async fn slow(query: RawQuery) -> String {
    tokio::time::sleep(seconds(query)).await;
    pid().await
}

#[expect(clippy::panic, reason = "what it is for")]
async fn fall_over() {
    panic!("asked to")
}

async fn block(query: RawQuery) -> String {
    thread::sleep(seconds(query));
    pid().await
}

fn seconds(RawQuery(query): RawQuery) -> Duration {
    let number = query.and_then(|text| text.parse().ok()).unwrap_or(1.0);
    Duration::from_secs_f64(number)
}
