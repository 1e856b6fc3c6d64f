//! What the author's values do when they are dropped, and his errors when they are asked what they say.

#![expect(clippy::panic, reason = "what it is about")]

use std::fmt;

use payload::{App, AppBuilder, Payload, PayloadContext, Scope};

use crate::{SECOND, failing, obedient, pair, soon, start, start_fails, texts};

/// Panics when it is dropped.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("boom");
    }
}

/// Says what it is and then panics, or panics when it is asked.
#[derive(Debug)]
enum Wicked {
    Dropped(Bomb),
    Asked,
}

impl fmt::Display for Wicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wicked::Dropped(_) => f.write_str("wicked"),
            Wicked::Asked => panic!("do not ask"),
        }
    }
}

impl std::error::Error for Wicked {}

fn wicked(asked: bool) -> payload::Result<()> {
    Err(if asked {
        Wicked::Asked.into()
    } else {
        Wicked::Dropped(Bomb).into()
    })
}

const KINDS: [(bool, &str); 2] = [(false, "failed: wicked"), (true, "panicked: do not ask")];

#[tokio::test(start_paused = true)]
async fn an_error_of_a_step_that_panics_is_an_outcome_like_any_other() {
    for (asked, said) in KINDS {
        let broken = pair(App::builder(), "a").startup("x", async move |_| wicked(asked));
        let failed = start_fails(broken).await;
        assert_eq!(failed.to_string(), format!("startup step 'x' {said}"));
        assert!(failed.trace().contains("teardown 'a' done"));

        let broken = pair(App::builder(), "a")
            .teardown("x", async move |_| wicked(asked))
            .on_drain("y", async move |_| wicked(asked));
        let app = start(broken).await;
        let trace = app.trace();
        let expected = [
            format!("drain step 'y' {said}"),
            format!("teardown step 'x' {said}"),
        ];
        assert_eq!(texts(&soon(app.stop()).await), expected);
        assert!(trace.contains("teardown 'a' done"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_payload_that_panics_is_an_outcome_like_any_other() {
    for (asked, said) in KINDS {
        let critical = Payload::new("p", async move |_| wicked(asked));
        let app = start(App::builder().payload(critical)).await;
        assert_eq!(soon(app.failed()).await.cause(), said);

        let again = Payload::restarting("p", move |context: PayloadContext| async move {
            if context.restarts() == 0 {
                return wicked(asked);
            }
            obedient(context).await
        });
        let app = start(App::builder().payload(again)).await;
        soon(app.trace().until_times("payload 'p' running", 2)).await;
        assert!(soon(app.stop()).await.is_empty());

        let leased = Payload::once("p", async move |_| wicked(asked)).scope(Scope::Service);
        let app = start(App::builder().payload(leased)).await;
        soon(app.trace().until("payload 'p' released")).await;
    }
}

fn holding(builder: AppBuilder, name: &str) -> AppBuilder {
    let bomb = Bomb;
    builder.startup(name, async move |_| {
        let _ = &bomb;
        Ok(())
    })
}

/// A thread pool or a blocking client that is dropped where it must not be.
#[tokio::test(start_paused = true)]
async fn what_was_never_started_is_dropped_behind_the_unwinding_and_each_for_itself() {
    let builder = pair(App::builder(), "a").startup("x", async |_| failing());
    let builder = holding(holding(builder, "c"), "d");
    let bomb = Bomb;
    let builder = builder.payload(Payload::new("p", move |context| {
        let _ = &bomb;
        obedient(context)
    }));
    let failed = start_fails(builder).await;
    assert_eq!(failed.to_string(), "startup step 'x' failed: it broke");
    assert_eq!(
        texts(failed.failure().unwinding()),
        [
            "dropping what 'p' holds panicked: boom",
            "dropping what 'd' holds panicked: boom",
            "dropping what 'c' holds panicked: boom",
        ]
    );
    let lines = failed.trace().lines();
    assert_eq!(
        lines[lines.len() - 2..],
        ["teardown 'a' done", "app failed"]
    );
}

#[tokio::test(start_paused = true)]
async fn what_an_app_that_was_built_wrongly_holds_is_dropped_the_same_way() {
    let builder = holding(App::builder(), "c").state(1_u8).state(2_u8);
    let failed = start_fails(builder).await;
    assert!(failed.to_string().contains("u8 was registered twice"));
    assert_eq!(
        texts(failed.failure().unwinding()),
        ["dropping what 'c' holds panicked: boom"]
    );
}

#[tokio::test(start_paused = true)]
async fn drain_steps_that_were_never_due_are_dropped_each_for_itself() {
    let draining = |builder: AppBuilder, name: &str| {
        let bomb = Bomb;
        builder.on_drain(name, async move |_| {
            let _ = &bomb;
            Ok(())
        })
    };
    let builder = draining(draining(App::builder(), "c"), "d").state(Bomb);
    let failed = start_fails(builder.startup("x", async |_| failing())).await;
    assert_eq!(
        texts(failed.failure().unwinding()),
        [
            "dropping what 'd' holds panicked: boom",
            "dropping what 'c' holds panicked: boom",
            "dropping what 'app' holds panicked: boom",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_is_slow_to_drop_a_bomb_is_reported_at_its_stop() {
    let payload = Payload::new("p", async |_| {
        let _bomb = Bomb;
        std::future::pending().await
    });
    let app = start(App::builder().payload(payload.stop_timeout(SECOND))).await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(
        texts(&soon(app.stop()).await),
        ["payload 'p' panicked: boom"]
    );
}
