//! An app's life, in process: what startup, teardown and payloads promise.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper fails its test by a panic"
)]

mod connections;
mod deadlines;
mod destructors;
mod face;
mod greedy;
mod handler;
mod leases;
mod messages;
mod mounts;
mod payloads;
mod readme;
mod startup;
mod surroundings;
mod teardown;

use std::time::Duration;

use axum::Router;
use http::{Request, Response};
use http_body_util::BodyExt;
use payload::testing::{NotStarted, TestApp};
use payload::{App, AppBuilder, Body, PayloadContext};
use tokio::time::timeout;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn build(builder: AppBuilder) -> App {
    builder.build(Router::new())
}

pub(crate) async fn start(builder: AppBuilder) -> TestApp {
    soon(TestApp::start(build(builder))).await.unwrap()
}

pub(crate) async fn start_fails(builder: AppBuilder) -> NotStarted {
    soon(TestApp::start(build(builder))).await.unwrap_err()
}

/// A step with a teardown that both only leave a trace.
pub(crate) fn pair(builder: AppBuilder, name: &str) -> AppBuilder {
    builder.step(name, async |_| Ok(async || Ok(())))
}

/// A payload that does as it is told.
pub(crate) async fn obedient(context: PayloadContext) -> payload::Result<()> {
    context.stopped().await;
    Ok(())
}

/// Waits for something that must happen. With the clock paused, a day passes as soon as nothing else does.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    let day = 24 * 3600 * SECOND;
    timeout(day, future).await.expect("it must not hang")
}

pub(crate) fn failing() -> payload::Result<()> {
    Err("it broke".into())
}

pub(crate) fn texts<E: ToString>(errors: &[E]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

pub(crate) async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn request() -> Request<Body> {
    Request::new(Body::empty())
}

pub(crate) fn two_steps() -> AppBuilder {
    pair(pair(App::builder(), "a"), "b")
}
