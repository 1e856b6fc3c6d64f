//! The way out.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use payload::testing::TestApp;
use payload::{App, Body, Payload, PayloadContext, Stage};
use tokio::time::{Instant, sleep};

use crate::{SECOND, build, failing, obedient, pair, soon, start, texts, two_steps};

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
    assert!(soon(app.stop()).await.is_empty());
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
    soon(app.stop()).await;
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
    let app = soon(TestApp::start(app)).await.unwrap();
    assert_eq!(Arc::strong_count(&owned), 4);
    soon(app.stop()).await;
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
        texts(&soon(app.stop()).await),
        ["dropping what 'app' holds panicked: boom"]
    );
}

// 12. One list, last-in first-out

#[tokio::test(start_paused = true)]
async fn everything_is_torn_down_last_in_first_out_and_a_mounted_app_before_its_parent() {
    let inner = pair(App::builder(), "inner").payload(Payload::new("inner payload", obedient));
    let builder = pair(App::builder(), "parent")
        .payload(Payload::new("payload", obedient))
        .startup("only a startup", async |_| Ok(()))
        .teardown("only a teardown", async |_| Ok(()))
        .mount("/inner", build(inner));
    let app = start(builder).await;
    let trace = app.trace();
    assert_eq!(
        trace.lines(),
        [
            "app starting",
            "payload 'payload' waiting",
            "payload '/inner: inner payload' waiting",
            "startup 'parent' begun",
            "startup 'parent' done",
            "payload 'payload' running",
            "startup 'only a startup' begun",
            "startup 'only a startup' done",
            "startup '/inner: inner' begun",
            "startup '/inner: inner' done",
            "payload '/inner: inner payload' running",
            "app serving",
        ]
    );
    assert!(soon(app.stop()).await.is_empty());
    assert_eq!(
        trace.lines()[12..],
        [
            "app draining",
            "app stopping",
            "payload '/inner: inner payload' done",
            "teardown '/inner: inner' begun",
            "teardown '/inner: inner' done",
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
    sleep(SECOND).await;
    let (trace, begun) = (app.trace(), Instant::now());
    let errors = soon(app.stop()).await;
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
    let errors = soon(app.stop_within(10 * SECOND)).await;
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
        .payload(Payload::new("obedient", obedient))
        .teardown("stuck", async |_| pending().await);
    let app = start(builder).await;
    let (trace, begun) = (app.trace(), Instant::now());
    let errors = soon(app.stop_within(Duration::ZERO)).await;
    assert_eq!(
        texts(&errors),
        [
            "teardown step 'stuck' was cut off at the stop's deadline",
            "payload 'deaf' was aborted at the stop's deadline: end it on `stopped()`",
        ]
    );
    assert!(
        trace.contains("payload 'obedient' done"),
        "it sees its notice"
    );
    assert!(trace.contains("teardown 'quick' done"));
    assert!(
        begun.elapsed() <= Duration::from_millis(30),
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
    soon(app.failed()).await;
    assert_eq!(soon(app.stop()).await.len(), 1, "the payload's");
    assert!(trace.contains("teardown 'a' done"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_without_a_drain_drains_first() {
    let app = start(App::builder().on_drain("tell", async |_| Ok(()))).await;
    let trace = app.trace();
    assert!(soon(app.stop()).await.is_empty());
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
    let errors = soon(app.stop_within(10 * SECOND)).await;
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

// 36. Every beginning has one end

#[tokio::test(start_paused = true)]
async fn every_step_that_begins_ends_once_in_the_trace() {
    let builder = two_steps()
        .on_drain("stuck drain", async |_| pending().await)
        .teardown("stuck", async |_| pending().await)
        .startup("fine", async |_| Ok(()));
    let app = start(builder).await;
    let trace = app.trace();
    soon(app.stop_within(SECOND)).await;
    let (mut ends, mut open) = (0, Vec::<String>::new());
    for line in trace.lines() {
        // "teardown 'a' done", or "teardown step 'stuck' was cut off …".
        let line = line.replacen(" step '", " '", 1);
        let Some((quote, _)) = line.match_indices('\'').nth(1) else {
            continue;
        };
        let (step, what) = line.split_at(quote + 1);
        if what == " begun" {
            open.push(step.to_owned());
            continue;
        }
        let begun = open.iter().position(|begun| begun == step);
        open.swap_remove(begun.unwrap_or_else(|| panic!("it did not run: {line}\n{trace}")));
        ends += 1;
    }
    assert_eq!((ends, open), (7, Vec::new()), "{trace}");
}
