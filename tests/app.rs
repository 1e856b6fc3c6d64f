//! An app's life, in process: what startup, payloads and teardown promise. The numbers are those of the list of
//! properties in CONTRIBUTING.md.

use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::{Extension, Router, routing::get};
use http::{Request, Response};
use http_body_util::BodyExt;
use payload::testing::{NotStarted, TestApp};
use payload::{App, AppBuilder, Body, Context, Payload, PayloadContext, Stage, State};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn build(builder: AppBuilder) -> App {
    builder.build(Router::new())
}

async fn start(builder: AppBuilder) -> TestApp {
    TestApp::start(build(builder)).await.unwrap()
}

async fn start_fails(builder: AppBuilder) -> NotStarted {
    TestApp::start(build(builder)).await.unwrap_err()
}

/// A step with a teardown that both only leave a trace.
fn pair(builder: AppBuilder, name: &str) -> AppBuilder {
    builder.step(name, async |_| Ok(async || Ok(())))
}

/// A payload that does as it is told.
async fn obedient(context: PayloadContext) -> payload::Result<()> {
    context.stopped().await;
    Ok(())
}

fn failing() -> payload::Result<()> {
    Err("it broke".into())
}

fn texts<E: ToString>(errors: &[E]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn request() -> Request<Body> {
    Request::new(Body::empty())
}

// 2. The states of an app

#[tokio::test(start_paused = true)]
async fn an_app_goes_through_its_states_in_order_and_once() {
    let mut app = start(pair(App::builder(), "a")).await;
    let trace = app.trace();
    assert_eq!(
        trace.lines(),
        [
            "app starting",
            "startup 'a' begun",
            "startup 'a' done",
            "app serving"
        ]
    );
    app.drain();
    app.drain();
    assert!(app.stop().await.is_empty());
    assert_eq!(
        trace.lines()[4..],
        [
            "app draining",
            "app stopping",
            "teardown 'a' begun",
            "teardown 'a' done",
            "app stopped"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_app_whose_teardown_fails_ends_as_failed() {
    let app = start(App::builder().teardown("a", async |_| failing())).await;
    let trace = app.trace();
    app.stop().await;
    assert_eq!(trace.lines().last().unwrap(), "app failed");
}

// 3. What an app owns

#[tokio::test(start_paused = true)]
async fn a_stopped_app_has_released_its_state_its_service_and_its_tasks() {
    let owned = Arc::new(());
    let (in_service, in_step) = (owned.clone(), owned.clone());
    let app = App::builder()
        .state(owned.clone())
        .on_drain("b", async move |_| {
            drop(in_step);
            Ok(())
        })
        .payload(Payload::new("p", obedient))
        .payload(Payload::new("deaf", |_| pending()))
        .build(payload::service_fn(move |_| {
            let _ = &in_service;
            async { Ok(Response::new(Body::empty())) }
        }));
    let app = TestApp::start(app).await.unwrap();
    assert_eq!(Arc::strong_count(&owned), 4);
    app.stop().await;
    assert_eq!(Arc::strong_count(&owned), 1);
    assert_eq!(
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn state_whose_drop_panics_is_an_error_of_the_stop() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("boom");
        }
    }
    let app = start(App::builder().state(Bomb)).await;
    assert_eq!(
        texts(&app.stop().await),
        ["dropping the app panicked: boom"]
    );
}

// 7. A step that does not succeed

/// Everything of `x`, that is neither torn down nor followed, and of the two steps before it.
async fn unwinds(broken: AppBuilder, how: &str) {
    let failed = start_fails(pair(broken, "never")).await;
    assert_eq!(failed.failure().to_string(), how);
    assert_eq!(failed.failure().step(), Some("x"));
    assert_eq!(
        failed.trace().lines()[5..],
        [
            "startup 'x' begun",
            how,
            "app stopping",
            "teardown 'b' begun",
            "teardown 'b' done",
            "teardown 'a' begun",
            "teardown 'a' done",
            "app failed",
        ]
    );
}

fn two_steps() -> AppBuilder {
    pair(pair(App::builder(), "a"), "b")
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_unwinds_the_steps_before_it() {
    let failing = two_steps().step("x", async |_| match failing() {
        Ok(()) => Ok(async || Ok(())),
        Err(error) => Err(error),
    });
    unwinds(failing, "startup step 'x' failed: it broke").await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_panics_unwinds_the_steps_before_it() {
    let panicking = two_steps().startup("x", async |_| panic!("number {}", 7));
    unwinds(panicking, "startup step 'x' panicked: number 7").await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_panics_before_it_returns_a_future_unwinds_too() {
    let panicking = two_steps().startup("x", |_| -> std::future::Ready<payload::Result<()>> {
        panic!("early")
    });
    unwinds(panicking, "startup step 'x' panicked: early").await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_overruns_its_limit_unwinds_the_steps_before_it() {
    let hanging = two_steps()
        .startup("x", async |_| pending().await)
        .timeout(3 * SECOND);
    let begun = Instant::now();
    unwinds(
        hanging,
        "startup step 'x' did not finish within its limit of 3s",
    )
    .await;
    assert_eq!(begun.elapsed(), 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_dropped_at_its_limit_may_panic_in_the_drop() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("boom");
        }
    }
    let hanging = two_steps()
        .startup("x", async |_| {
            let _bomb = Bomb;
            pending().await
        })
        .timeout(SECOND);
    unwinds(
        hanging,
        "startup step 'x' did not finish within its limit of 1s",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_while_unwinding_is_collected_beside_the_first_error() {
    let builder = App::builder()
        .teardown("a", async |_| panic!("boom"))
        .teardown("b", async |_| failing());
    let failed = start_fails(builder.startup("x", async |_| failing())).await;
    assert_eq!(failed.to_string(), "startup step 'x' failed: it broke");
    assert_eq!(
        texts(failed.failure().unwinding()),
        [
            "teardown step 'b' failed: it broke",
            "teardown step 'a' panicked: boom"
        ]
    );
}

// 8. Between startup and serving

#[tokio::test(start_paused = true)]
async fn a_critical_payload_that_ends_during_the_startup_unwinds_it() {
    let builder = pair(App::builder(), "a")
        .payload(Payload::new("p", async |_| failing()))
        .startup("slow", async |_| pending().await);
    let failed = start_fails(builder).await;
    assert_eq!(
        failed.to_string(),
        "critical payload 'p' failed: it broke during the startup"
    );
    assert!(failed.trace().contains("startup step 'slow' was cancelled"));
    assert!(failed.trace().contains("teardown 'a' done"));
    assert!(
        failed.failure().unwinding().is_empty(),
        "the payload's end was reported already"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_comes_with_the_end_of_the_last_step_still_unwinds_that_step() {
    let (order, ordered) = oneshot::channel();
    let builder = App::builder().step("last", async move |_| {
        order.send(()).unwrap();
        tokio::task::yield_now().await;
        Ok(async || Ok(()))
    });
    let stop = async { ordered.await.unwrap() };
    let failed = TestApp::start_until(build(builder), stop)
        .await
        .unwrap_err();
    assert!(failed.failure().is_cancelled());
    let lines = failed.trace().lines();
    assert_eq!(
        lines.contains(&"startup 'last' done".to_owned()),
        lines.contains(&"teardown 'last' done".to_owned()),
        "a step that succeeded is torn down: {lines:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_app_that_was_built_wrongly_starts_nothing() {
    let twice = pair(App::builder(), "a").state(1_u8).state(2_u8);
    let failed = start_fails(twice).await;
    assert_eq!(
        failed.to_string(),
        "the app is not valid: state of type u8 was registered twice: register one value of each type"
    );
    assert_eq!(
        failed.trace().lines(),
        ["app starting", "app stopping", "app failed"]
    );

    let failed = start_fails(App::builder().timeout(SECOND)).await;
    assert!(
        failed.to_string().contains("timeout(1s) follows no step"),
        "{failed}"
    );
    let failed = start_fails(
        App::builder()
            .payload(Payload::new("p", obedient))
            .timeout(SECOND),
    )
    .await;
    assert!(
        failed.to_string().contains("use Payload::stop_timeout"),
        "{failed}"
    );
}

// 10. A stop during the startup

#[tokio::test(start_paused = true)]
async fn a_stop_during_the_startup_cancels_it_at_once_and_is_a_clean_stop() {
    let begun = Instant::now();
    let builder = two_steps().startup("x", async |_| pending().await);
    let failed = TestApp::start_until(build(builder), sleep(SECOND))
        .await
        .unwrap_err();
    assert_eq!(begun.elapsed(), SECOND);
    assert!(failed.failure().is_cancelled());
    assert_eq!(failed.failure().step(), Some("x"));
    assert_eq!(
        failed.trace().lines()[5..],
        [
            "startup 'x' begun",
            "startup step 'x' was cancelled",
            "app stopping",
            "teardown 'b' begun",
            "teardown 'b' done",
            "teardown 'a' begun",
            "teardown 'a' done",
            "app stopped",
        ]
    );
}

// 11. The original error

#[tokio::test(start_paused = true)]
async fn the_first_error_is_reported_once_with_its_chain_of_causes() {
    #[derive(Debug)]
    struct Outer(io::Error);
    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("open the database")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let failed = start_fails(App::builder().startup("db", async |_| {
        Err(Outer(io::Error::other("disk gone")).into())
    }))
    .await;
    let chain = "startup step 'db' failed: open the database: disk gone";
    assert_eq!(failed.to_string(), chain);
    let said = failed
        .trace()
        .lines()
        .iter()
        .filter(|line| line.contains("disk gone"))
        .count();
    assert_eq!(said, 1);
}

// 12. One list, last-in first-out

#[tokio::test(start_paused = true)]
async fn everything_is_torn_down_last_in_first_out_and_a_nested_app_before_its_parent() {
    let inner = pair(App::builder(), "inner").payload(Payload::new("inner payload", obedient));
    let builder = pair(App::builder(), "parent")
        .payload(Payload::new("payload", obedient))
        .startup("only a startup", async |_| Ok(()))
        .teardown("only a teardown", async |_| Ok(()))
        .nest(inner);
    let app = start(builder).await;
    let trace = app.trace();
    assert_eq!(
        trace.lines(),
        [
            "app starting",
            "payload 'payload' waiting",
            "payload 'inner payload' waiting",
            "startup 'parent' begun",
            "startup 'parent' done",
            "payload 'payload' running",
            "startup 'only a startup' begun",
            "startup 'only a startup' done",
            "startup 'inner' begun",
            "startup 'inner' done",
            "payload 'inner payload' running",
            "app serving",
        ]
    );
    assert!(app.stop().await.is_empty());
    assert_eq!(
        trace.lines()[12..],
        [
            "app draining",
            "app stopping",
            "payload 'inner payload' done",
            "teardown 'inner' begun",
            "teardown 'inner' done",
            "teardown 'only a teardown' begun",
            "teardown 'only a teardown' done",
            "payload 'payload' done",
            "teardown 'parent' begun",
            "teardown 'parent' done",
            "app stopped",
        ]
    );
}

// 13. Every teardown step is attempted

#[tokio::test(start_paused = true)]
async fn every_teardown_is_attempted_and_what_failed_is_collected_in_order() {
    let builder = pair(App::builder(), "first")
        .teardown("hangs", async |_| pending().await)
        .timeout(2 * SECOND)
        .payload(Payload::new(
            "sore loser",
            async |context: PayloadContext| {
                context.stopped().await;
                failing()
            },
        ))
        .step("pair", async |_| Ok(async || panic!("boom")))
        .teardown("fails", async |_| failing());
    let app = start(builder).await;
    let (trace, begun) = (app.trace(), Instant::now());
    let errors = app.stop().await;
    assert_eq!(
        texts(&errors),
        [
            "teardown step 'fails' failed: it broke",
            "teardown step 'pair' panicked: boom",
            "payload 'sore loser' failed: it broke",
            "teardown step 'hangs' did not finish within its limit of 2s",
        ]
    );
    assert_eq!(errors[2].stage(), Stage::Payload);
    assert_eq!(begun.elapsed(), 2 * SECOND);
    assert!(trace.contains("teardown 'first' done"));
}

#[tokio::test(start_paused = true)]
async fn a_stuck_teardown_leaves_time_to_those_behind_it_and_the_deadline_holds() {
    let builder = App::builder()
        .teardown("needs a while", async |_| {
            sleep(SECOND / 2).await;
            Ok(())
        })
        .teardown("stuck", async |_| pending().await);
    let app = start(builder).await;
    let (trace, begun) = (app.trace(), Instant::now());
    let errors = app.stop_within(10 * SECOND).await;
    assert_eq!(
        texts(&errors),
        ["teardown step 'stuck' was cut off at the stop's deadline"]
    );
    assert!(trace.contains("teardown 'needs a while' done"));
    assert_eq!(begun.elapsed(), Duration::from_millis(9500));
}

#[tokio::test(start_paused = true)]
async fn with_no_time_left_every_teardown_is_still_attempted() {
    let builder = pair(App::builder(), "quick")
        .payload(Payload::new("deaf", |_| pending()))
        .teardown("stuck", async |_| pending().await);
    let app = start(builder).await;
    let (trace, begun) = (app.trace(), Instant::now());
    let errors = app.stop_within(Duration::ZERO).await;
    assert_eq!(
        texts(&errors),
        [
            "teardown step 'stuck' was cut off at the stop's deadline",
            "payload 'deaf' was aborted at the stop's deadline: end it on `stopped()`",
        ]
    );
    assert!(trace.contains("teardown 'quick' done"));
    assert!(
        begun.elapsed() <= Duration::from_millis(10),
        "{:?}",
        begun.elapsed()
    );
}

// 14. Every way out

#[tokio::test(start_paused = true)]
async fn the_teardown_runs_after_a_payload_has_failed() {
    let app =
        start(pair(App::builder(), "a").payload(Payload::new("p", async |_| failing()))).await;
    let trace = app.trace();
    app.failed().await;
    assert!(
        app.stop().await.is_empty(),
        "the failure was reported when it happened"
    );
    assert!(trace.contains("teardown 'a' done"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_without_a_drain_drains_first() {
    let app = start(App::builder().on_drain("tell", async |_| Ok(()))).await;
    let trace = app.trace();
    assert!(app.stop().await.is_empty());
    assert!(trace.contains("drain 'tell' done"));
}

// 15. A failing shutdown step

#[tokio::test(start_paused = true)]
async fn drain_steps_that_fail_skip_neither_the_other_drain_steps_nor_the_teardown() {
    let builder = pair(App::builder(), "a")
        .on_drain("stuck", async |_| pending().await)
        .on_drain("limited", async |_| pending().await)
        .timeout(SECOND)
        .on_drain("panics", async |_| panic!("boom"))
        .on_drain("good", async |_| Ok(()));
    let mut app = start(builder).await;
    let trace = app.trace();
    app.drain();
    sleep(SECOND).await;
    assert!(
        trace.contains("drain 'good' done"),
        "a stuck drain step does not keep the others back"
    );
    let errors = app.stop_within(10 * SECOND).await;
    assert_eq!(
        texts(&errors),
        [
            "drain step 'stuck' was cut off at the stop's deadline",
            "drain step 'limited' did not finish within its limit of 1s",
            "drain step 'panics' panicked: boom",
        ]
    );
    assert!(trace.contains("teardown 'a' done"));
}

// 16. Nothing runs detached

#[tokio::test(start_paused = true)]
async fn an_app_that_is_dropped_takes_its_payloads_with_it() {
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let app = start(
        App::builder()
            .payload(Payload::new("deaf", |_| pending()))
            .on_drain("stuck", async |_| pending().await),
    );
    let mut app = app.await;
    app.drain();
    sleep(SECOND).await;
    assert_eq!(alive(), 3, "a supervisor, its payload and the drain step");
    drop(app);
    sleep(SECOND).await;
    assert_eq!(alive(), 0);
}

// 17 and 18. The end of a payload

async fn critical(payload: Payload, cause: &str) {
    let app = start(App::builder().payload(payload)).await;
    let begun = Instant::now();
    let failure = app.failed().await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "seen at once");
    assert_eq!((failure.name(), failure.cause()), ("p", cause));
    assert_eq!(app.failed().await, failure, "and it stays so");
    let trace = app.trace();
    let said = trace
        .lines()
        .iter()
        .filter(|line| line.contains(cause))
        .count();
    assert_eq!(said, 1, "{trace}");
    assert!(trace.contains(&format!("payload 'p' failed: {cause}")));
    assert!(app.stop().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_critical_payload_that_returns_is_a_failure() {
    critical(
        Payload::new("p", async |_| Ok(())),
        "returned although nobody told it to stop",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_critical_payload_that_fails_is_a_failure() {
    critical(Payload::new("p", async |_| failing()), "failed: it broke").await;
}

#[tokio::test(start_paused = true)]
async fn a_critical_payload_that_panics_is_a_failure() {
    critical(
        Payload::new("p", async |_| panic!("boom")),
        "panicked: boom",
    )
    .await;
    let early = |_| -> std::future::Ready<payload::Result<()>> { panic!("early") };
    critical(Payload::new("p", early), "panicked: early").await;
}

#[tokio::test(start_paused = true)]
async fn the_worker_hears_of_the_first_critical_payload_only() {
    let builder = App::builder()
        .payload(Payload::new("first", async |_| failing()))
        .payload(Payload::new("second", async |_| {
            sleep(SECOND).await;
            failing()
        }));
    let app = start(builder).await;
    sleep(2 * SECOND).await;
    assert_eq!(app.failed().await.name(), "first");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_payload_runs_again_with_growing_waits() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let seen = starts.clone();
    let payload = Payload::new("p", move |context: PayloadContext| {
        seen.lock().unwrap().push(Instant::now());
        async move {
            match context.restarts() {
                0 => failing(),
                1 => Ok(()),
                2 => panic!("boom"),
                _ => obedient(context).await,
            }
        }
    });
    let app = start(App::builder().payload(payload.restart().backoff(SECOND, 3 * SECOND))).await;
    let trace = app.trace();
    assert!(
        timeout(60 * SECOND, app.failed()).await.is_err(),
        "a restarted payload is not critical"
    );
    assert_eq!(
        trace.lines()[2..],
        [
            "payload 'p' running",
            "app serving",
            "payload 'p' restarting: failed: it broke",
            "payload 'p' running",
            "payload 'p' restarting: returned although nobody told it to stop",
            "payload 'p' running",
            "payload 'p' restarting: panicked: boom",
            "payload 'p' running",
        ]
    );
    let starts = starts.lock().unwrap().clone();
    for (pair, longest) in starts.windows(2).zip([1, 2, 3]) {
        let (wait, longest) = (pair[1] - pair[0], longest * SECOND);
        assert!(
            wait >= longest / 2 && wait <= longest + SECOND / 100,
            "{wait:?} of {longest:?}"
        );
    }
    assert!(app.stop().await.is_empty());
    assert!(trace.contains("payload 'p' done"));
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_waits_for_its_restart_stops_at_once() {
    let payload = Payload::new("p", async |_| failing())
        .restart()
        .backoff(3600 * SECOND, 3600 * SECOND);
    let app = start(App::builder().payload(payload)).await;
    sleep(SECOND).await;
    let begun = Instant::now();
    assert!(app.stop().await.is_empty());
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_runs_once_may_end_and_its_failure_is_reported_but_not_critical() {
    let builder = App::builder()
        .payload(Payload::new("good", async |_| Ok(())).once())
        .payload(Payload::new("bad", async |_| failing()).once());
    let app = start(builder).await;
    assert!(timeout(SECOND, app.failed()).await.is_err());
    let trace = app.trace();
    assert!(trace.contains("payload 'good' done"));
    assert!(trace.contains("payload 'bad' failed: failed: it broke"));
    assert!(app.stop().await.is_empty());
}

// 19. The stop of a payload

#[tokio::test(start_paused = true)]
async fn a_payload_stops_after_the_requests_unless_it_asks_to_stop_before() {
    let builder = App::builder()
        .payload(Payload::new("early", obedient).stop_before_requests())
        .payload(Payload::new("late", obedient));
    let mut app = start(builder).await;
    let trace = app.trace();
    app.drain();
    sleep(SECOND).await;
    assert!(trace.contains("payload 'early' done"));
    assert!(
        !trace.contains("payload 'late' done"),
        "requests may still need it"
    );
    assert!(app.stop().await.is_empty());
    assert!(trace.contains("payload 'late' done"));
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_stops_before_the_requests_has_ended_before_any_teardown() {
    let slow = Payload::new("early", async |context: PayloadContext| {
        context.stopped().await;
        sleep(SECOND).await;
        Ok(())
    });
    let app = start(pair(
        App::builder().payload(slow.stop_before_requests()),
        "late",
    ))
    .await;
    let trace = app.trace();
    assert!(app.stop().await.is_empty());
    let at = |line: &str| trace.lines().iter().position(|seen| seen == line).unwrap();
    assert!(
        at("payload 'early' done") < at("teardown 'late' begun"),
        "{trace}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_payload_is_awaited_to_its_limit_and_then_aborted() {
    let dropped = Arc::new(());
    let held = dropped.clone();
    let deaf = Payload::new("deaf", move |_| {
        let held = held.clone();
        async move {
            let _held = held;
            pending().await
        }
    });
    let app = start(pair(App::builder(), "a").payload(deaf.stop_timeout(3 * SECOND))).await;
    sleep(SECOND).await;
    let (trace, begun) = (app.trace(), Instant::now());
    let errors = app.stop_within(60 * SECOND).await;
    let limit =
        "did not stop within 3s and was aborted: end it on `stopped()` or raise its `stop_timeout`";
    assert_eq!(texts(&errors), [format!("payload 'deaf' {limit}")]);
    assert_eq!(begun.elapsed(), 3 * SECOND);
    assert_eq!(
        Arc::strong_count(&dropped),
        1,
        "it is gone when the stop returns"
    );
    assert!(trace.contains("teardown 'a' done"));
}

#[tokio::test(start_paused = true)]
async fn an_early_payload_that_ignores_its_stop_is_aborted_although_requests_still_run() {
    let mut app =
        start(App::builder().payload(Payload::new("deaf", |_| pending()).stop_before_requests()))
            .await;
    app.drain();
    sleep(6 * SECOND).await;
    let begun = Instant::now();
    assert_eq!(app.stop().await.len(), 1);
    assert_eq!(
        begun.elapsed(),
        Duration::ZERO,
        "its limit ran from the drain on"
    );
}

#[test]
fn a_payload_that_blocks_its_thread_is_given_up_and_the_teardown_goes_on() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Mutex::new(released);
    runtime.block_on(async {
        let (blocking, blocks) = oneshot::channel();
        let mut blocking = Some((blocking, released));
        let blocker = Payload::new("blocker", move |_| {
            let taken = blocking.take();
            async move {
                if let Some((blocking, released)) = taken {
                    blocking.send(()).unwrap();
                    let _ = released.lock().unwrap().recv();
                }
                Ok(())
            }
        });
        let app = start(pair(App::builder(), "a").payload(blocker)).await;
        blocks.await.unwrap();
        let trace = app.trace();
        let errors = texts(&app.stop_within(Duration::from_millis(50)).await);
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0].starts_with("payload 'blocker' does not end although it was aborted"),
            "{errors:?}"
        );
        assert!(trace.contains("teardown 'a' done"));
        drop(release);
    });
}

// 36. Every beginning has one end

#[tokio::test(start_paused = true)]
async fn every_step_that_begins_ends_once_in_the_trace() {
    let builder = two_steps()
        .on_drain("stuck drain", async |_| pending().await)
        .teardown("stuck", async |_| pending().await)
        .startup("fine", async |_| Ok(()));
    let app = start(builder).await;
    let trace = app.trace();
    app.stop_within(SECOND).await;
    let lines = trace.lines();
    let begun = lines.iter().filter(|line| line.ends_with(" begun")).count();
    let ended = lines
        .iter()
        .filter(|line| line.ends_with(" done") || line.contains(" step '"))
        .count();
    assert_eq!((begun, ended), (7, 7), "{trace}");
}

// What load is given, and what requests see

#[tokio::test(start_paused = true)]
async fn load_gets_its_settings_and_the_notices_of_its_worker() {
    struct Settings {
        greeting: &'static str,
    }
    let drained = Arc::new(AtomicU32::new(0));
    let count = drained.clone();
    let load = async move |context: Context<Settings>| -> payload::Result<App> {
        assert_eq!(
            (context.slot(), context.workers(), context.generation()),
            (0, 1, 1)
        );
        assert_eq!(context.service().arbiter.pid, std::process::id());
        let (drain, stop) = (context.drain_token(), context.stop_token());
        let greeting = context.settings().greeting;
        Ok(App::builder()
            .teardown("look", async move |_| {
                count.store(
                    u32::from(drain.is_fired()) + u32::from(stop.is_fired()),
                    Relaxed,
                );
                Ok(())
            })
            .build(payload::service_fn(move |_| async move {
                Ok(Response::new(Body::from(greeting)))
            })))
    };
    let app = TestApp::load(
        Settings {
            greeting: "good day",
        },
        load,
    )
    .await
    .unwrap();
    assert_eq!(text(app.call(request()).await.unwrap()).await, "good day");
    app.stop().await;
    assert_eq!(drained.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn state_is_reached_by_type_from_steps_payloads_and_handlers() {
    struct Greeting(&'static str);
    async fn handler(Extension(state): Extension<State>) -> &'static str {
        state.get::<Greeting>().unwrap().0
    }
    let (said, hear) = oneshot::channel();
    let mut said = Some(said);
    let app = App::builder()
        .state(Greeting("hello"))
        .startup("step", async |step| {
            assert_eq!(step.state::<Greeting>()?.0, "hello");
            let missing = step.state::<u64>().unwrap_err().to_string();
            assert_eq!(
                missing,
                "no state of type u64 was registered: give it to AppBuilder::state"
            );
            Ok(())
        })
        .payload(Payload::new("p", move |context: PayloadContext| {
            let said = said.take();
            async move {
                let greeting = context.state::<Greeting>()?;
                said.map(|said| said.send(greeting.0));
                obedient(context).await
            }
        }))
        .build(Router::new().route("/", get(handler)));
    let app = TestApp::start(app).await.unwrap();
    assert_eq!(hear.await.unwrap(), "hello");
    assert_eq!(text(app.call(request()).await.unwrap()).await, "hello");
}

#[tokio::test(start_paused = true)]
async fn an_app_without_state_adds_nothing_to_a_request() {
    let service = payload::service_fn(async |request: Request<Body>| {
        assert!(request.extensions().is_empty());
        Ok(Response::new(Body::from("fine")))
    });
    let app = TestApp::start(App::builder().build(service)).await.unwrap();
    assert_eq!(text(app.call(request()).await.unwrap()).await, "fine");
}

#[tokio::test(start_paused = true)]
async fn a_handlers_error_reaches_the_caller() {
    let service =
        payload::service_fn(async |_| -> payload::Result<Response<Body>> { Err("no luck".into()) });
    let app = TestApp::start(App::builder().build(service)).await.unwrap();
    assert_eq!(
        app.call(request()).await.unwrap_err().to_string(),
        "no luck"
    );
}
