//! From a built app to a running one, and back when that fails.

use std::future::pending;
use std::io;

use payload::testing::TestApp;
use payload::{App, AppBuilder, Payload, PayloadContext};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::{SECOND, build, failing, obedient, pair, soon, start_fails, texts, two_steps};

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

#[tokio::test(start_paused = true)]
async fn a_critical_payload_that_fails_while_a_cancelled_startup_unwinds_is_no_clean_stop() {
    let payload = Payload::new("p", async |context: PayloadContext| {
        context.drain_token().fired().await;
        sleep(SECOND).await;
        failing()
    });
    let builder = App::builder().payload(payload).teardown("t", async |_| {
        sleep(2 * SECOND).await;
        Ok(())
    });
    let builder = builder.startup("x", async |_| pending().await);
    let failed = soon(TestApp::start_until(build(builder), sleep(SECOND)));
    let failed = failed.await.unwrap_err();
    assert!(failed.failure().is_cancelled());
    assert_eq!(
        texts(failed.failure().unwinding()),
        ["critical payload 'p' failed: it broke"]
    );
    assert_eq!(failed.trace().lines().last().unwrap(), "app failed");
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
    let failed = soon(TestApp::start_until(build(builder), stop))
        .await
        .unwrap_err();
    assert!(failed.failure().is_cancelled());
    let lines = failed.trace().lines();
    for line in ["startup 'last' done", "teardown 'last' done"] {
        assert!(lines.contains(&line.to_owned()), "{line}: {lines:?}");
    }
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
    let failed = soon(TestApp::start_until(build(builder), sleep(SECOND)))
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
