//! Supervised background tasks.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use payload::{App, AppBuilder, Payload, PayloadContext, Stage};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::{SECOND, failing, obedient, pair, soon, start, start_fails, texts};

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
    let failure = soon(app.failed()).await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "seen at once");
    assert_eq!((failure.name(), failure.cause()), ("p", cause));
    assert_eq!(soon(app.failed()).await, failure, "and it stays so");
    let trace = app.trace();
    let said = trace
        .lines()
        .iter()
        .filter(|line| line.contains(cause))
        .count();
    assert_eq!(said, 1, "{trace}");
    assert!(trace.contains(&format!("payload 'p' failed: {cause}")));
    assert_eq!(
        texts(&soon(app.stop()).await),
        [format!("critical payload 'p' {cause}")]
    );
    assert!(trace.contains("app failed"));
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
async fn a_critical_payload_that_fails_during_the_drain_is_among_what_the_stop_gives_back() {
    let payload = Payload::new("p", async |context: PayloadContext| {
        context.drain_token().fired().await;
        failing()
    });
    let builder = App::builder().payload(payload);
    let mut app = start(builder.teardown("t", async |_| failing())).await;
    app.drain();
    sleep(SECOND).await;
    let errors = soon(app.stop()).await;
    assert_eq!(
        texts(&errors),
        [
            "critical payload 'p' failed: it broke",
            "teardown step 't' failed: it broke"
        ]
    );
    assert_eq!((errors[0].name(), errors[0].stage()), ("p", Stage::Payload));
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
    assert_eq!(soon(app.failed()).await.name(), "first");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_payload_runs_again_with_growing_waits() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let seen = starts.clone();
    let payload = Payload::restarting("p", move |context: PayloadContext| {
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
    let app = start(App::builder().payload(payload.backoff(SECOND, 3 * SECOND))).await;
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
    assert!(soon(app.stop()).await.is_empty());
    assert!(trace.contains("payload 'p' done"));
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_waits_for_its_restart_stops_at_once() {
    let payload =
        Payload::restarting("p", async |_| failing()).backoff(3600 * SECOND, 3600 * SECOND);
    let app = start(App::builder().payload(payload)).await;
    sleep(SECOND).await;
    let begun = Instant::now();
    assert!(soon(app.stop()).await.is_empty());
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_runs_once_may_end_and_its_failure_is_reported_but_not_critical() {
    let builder = App::builder()
        .payload(Payload::once("good", async |_| Ok(())))
        .payload(Payload::once("bad", async |_| failing()));
    let app = start(builder).await;
    assert!(timeout(SECOND, app.failed()).await.is_err());
    let trace = app.trace();
    assert!(trace.contains("payload 'good' done"));
    assert!(trace.contains("payload 'bad' failed: failed: it broke"));
    assert!(soon(app.stop()).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_backoff_of_a_payload_that_is_never_started_again_is_a_mistake() {
    let payload = Payload::once("p", obedient).backoff(SECOND, SECOND);
    let failed = start_fails(App::builder().payload(payload)).await;
    assert!(
        failed
            .to_string()
            .contains("make it by Payload::restarting"),
        "{failed}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_app_has_no_more_payloads_than_can_be_shown() {
    let with = |count: usize| {
        let many = (0..count).map(|number| Payload::new(number.to_string(), obedient));
        many.fold(App::builder(), AppBuilder::payload)
    };
    assert!(soon(start(with(32)).await.stop()).await.is_empty());
    let mounted = with(16).mount("/more", crate::build(with(17)));
    for builder in [with(33), mounted] {
        let failed = start_fails(builder).await;
        let text = failed.to_string();
        assert!(
            text.contains("33 payloads are too many, 32 is the limit"),
            "{text}"
        );
    }
}

/// With the path of its app: that is what the log calls it.
#[tokio::test(start_paused = true)]
async fn a_name_that_is_too_long_for_the_log_is_a_mistake() {
    let named = |length: usize| App::builder().payload(Payload::new("é".repeat(length), obedient));
    assert!(soon(start(named(64)).await.stop()).await.is_empty());
    let mounted = App::builder().mount("/more", crate::build(named(64)));
    for builder in [named(65), mounted] {
        let failed = start_fails(builder).await;
        let text = failed.to_string();
        assert!(text.contains(" bytes, 128 is the limit"), "{text}");
        assert!(text.contains("give it a shorter one"), "{text}");
    }
}

// 19. The stop of a payload

/// On one thread: neither its supervisor nor anything else has run since it was started.
#[tokio::test(start_paused = true)]
async fn a_payload_that_is_stopped_before_it_ran_is_not_started() {
    let begun = Instant::now();
    let started = Arc::new(Mutex::new(0));
    let count = started.clone();
    let payload = Payload::restarting("p", move |_| {
        *count.lock().unwrap() += 1;
        pending()
    });
    let builder = App::builder().payload(payload);
    let failed = start_fails(builder.startup("migrate", async |_| failing())).await;
    assert_eq!(
        failed.to_string(),
        "startup step 'migrate' failed: it broke"
    );
    assert!(failed.failure().unwinding().is_empty(), "{failed:?}");
    assert_eq!(*started.lock().unwrap(), 0);
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

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
    assert!(soon(app.stop()).await.is_empty());
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
    assert!(soon(app.stop()).await.is_empty());
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
    let errors = soon(app.stop_within(60 * SECOND)).await;
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
    sleep(SECOND).await;
    app.drain();
    sleep(6 * SECOND).await;
    let begun = Instant::now();
    assert_eq!(soon(app.stop()).await.len(), 1);
    assert_eq!(
        begun.elapsed(),
        Duration::ZERO,
        "its limit ran from the drain on"
    );
}

#[test]
fn a_payload_that_blocks_its_thread_is_given_up_and_the_teardown_goes_on() {
    blocks(|mut block| {
        Payload::new("blocker", async move |_| {
            block();
            Ok(())
        })
    });
}

/// What makes its future is the author's code as well.
#[test]
fn a_payload_whose_factory_blocks_its_thread_is_given_up_too() {
    blocks(|mut block| {
        Payload::restarting("blocker", move |_| {
            block();
            pending()
        })
    });
}

fn blocks(payload: impl FnOnce(Box<dyn FnMut() + Send>) -> Payload) {
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
        let blocker = payload(Box::new(move || {
            if let Some((blocking, released)) = blocking.take() {
                blocking.send(()).unwrap();
                let _ = released.lock().unwrap().recv();
            }
        }));
        let app = start(pair(App::builder(), "a").payload(blocker)).await;
        blocks.await.unwrap();
        let trace = app.trace();
        let errors = texts(&soon(app.stop_within(Duration::from_millis(50))).await);
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0].starts_with("payload 'blocker' does not end although it was aborted"),
            "{errors:?}"
        );
        assert!(trace.contains("teardown 'a' done"));
        drop(release);
    });
}
