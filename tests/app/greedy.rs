//! Steps that always have something to do: tokio's budget for a poll is used up each time that they give way.
//!
//! On the real clock: a paused one goes on only when nothing else does.

use std::time::Duration;

use payload::testing::{TestApp, TestWorker};
use payload::{App, AppBuilder, Payload};
use tokio::sync::{mpsc, oneshot};
use tokio::task::coop::consume_budget;
use tokio::time::{sleep, timeout};

use crate::{build, failing, pair, texts};

const SHORT: Duration = Duration::from_millis(50);

async fn greedy() -> payload::Result<()> {
    loop {
        consume_budget().await;
    }
}

fn greedy_startup() -> AppBuilder {
    pair(App::builder(), "a").startup("greedy", async |_| greedy().await)
}

/// What must not take long, and fails its test where it never ends.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(30);
    timeout(limit, future).await.expect("it must not hang")
}

#[tokio::test]
async fn a_startup_step_that_never_waits_is_dropped_at_its_limit() {
    let app = build(greedy_startup().timeout(SHORT));
    let failed = in_time(TestApp::start(app)).await.unwrap_err();
    assert_eq!(
        failed.to_string(),
        "startup step 'greedy' did not finish within its limit of 50ms"
    );
    assert!(failed.trace().contains("teardown 'a' done"));
}

#[tokio::test]
async fn a_stop_meets_a_startup_step_that_never_waits() {
    let (begins, begun) = oneshot::channel();
    let app = pair(App::builder(), "a").startup("greedy", async move |_| {
        let _ = begins.send(());
        greedy().await
    });
    let stop = async {
        let _ = begun.await;
        sleep(SHORT).await;
    };
    let start = TestApp::start_until(build(app), stop);
    let failed = in_time(start).await.unwrap_err();
    assert!(failed.failure().is_cancelled());
    assert!(failed.trace().contains("teardown 'a' done"));
}

#[tokio::test]
async fn the_startups_deadline_meets_a_step_that_never_waits() {
    let worker = TestWorker::new().startup_timeout(SHORT);
    let failed = in_time(worker.start(build(greedy_startup())));
    assert!(failed.await.unwrap_err().failure().is_cancelled());
}

#[tokio::test]
async fn a_critical_payload_ends_a_startup_step_that_never_waits() {
    let payload = Payload::new("p", async |_| failing());
    let app = App::builder().payload(payload);
    let app = app.startup("greedy", async |_| greedy().await);
    let failed = in_time(TestApp::start(build(app))).await.unwrap_err();
    assert_eq!(
        failed.to_string(),
        "critical payload 'p' failed: it broke during the startup"
    );
}

#[tokio::test]
async fn steps_of_the_way_out_that_never_wait_end_at_their_limits_and_at_the_deadline() {
    let builder = pair(App::builder(), "a")
        .teardown("cut off", async |_| greedy().await)
        .teardown("limited", async |_| greedy().await)
        .timeout(SHORT)
        .on_drain("drains", async |_| greedy().await)
        .timeout(SHORT);
    let app = in_time(TestApp::start(build(builder))).await.unwrap();
    let trace = app.trace();
    let errors = in_time(app.stop_within(Duration::from_secs(5))).await;
    assert_eq!(
        texts(&errors),
        [
            "drain step 'drains' did not finish within its limit of 50ms",
            "teardown step 'limited' did not finish within its limit of 50ms",
            "teardown step 'cut off' was cut off at the stop's deadline",
        ]
    );
    assert!(trace.contains("teardown 'a' done"));
}

#[tokio::test]
async fn with_no_time_left_a_step_behind_one_gets_somewhere_all_the_same() {
    let builder = App::builder()
        .teardown("sends", async |_| {
            let (sender, mut receiver) = mpsc::channel(1);
            sender.send(()).await?;
            receiver.recv().await.ok_or("nothing came")?;
            Ok(())
        })
        .teardown("greedy", async |_| greedy().await);
    let app = in_time(TestApp::start(build(builder))).await.unwrap();
    let errors = in_time(app.stop_within(Duration::ZERO)).await;
    assert_eq!(
        texts(&errors),
        ["teardown step 'greedy' was cut off at the stop's deadline"]
    );
}
