//! What authors are told of the time that they have.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use payload::testing::{TestApp, TestWorker};
use payload::{App, Context, NoSettings, Payload, PayloadContext, Token};
use tokio::time::{Instant, sleep};

use crate::{SECOND, soon, start, start_fails, texts};

/// What was known, by whom; in seconds since then.
#[derive(Clone)]
struct Known(Arc<Mutex<Notes>>, Instant);

type Notes = Vec<(&'static str, Option<f64>)>;

impl Known {
    fn new() -> Self {
        Self(Arc::default(), Instant::now())
    }

    fn note(&self, who: &'static str, deadline: Option<Instant>) {
        let seconds = deadline.map(|at| at.duration_since(self.1).as_secs_f64());
        self.0.lock().unwrap().push((who, seconds));
    }

    fn all(&self) -> Notes {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_knows_when_it_is_cut_off() {
    let known = Known::new();
    let (up, free, down, first) = (known.clone(), known.clone(), known.clone(), known.clone());
    let builder = App::builder()
        .teardown("first", async move |step| {
            first.note("first down", step.deadline());
            Ok(())
        })
        .startup("limited", async move |step| {
            up.note("limited", step.deadline());
            Ok(())
        })
        .timeout(3 * SECOND)
        .startup("free", async move |step| {
            free.note("free", step.deadline());
            Ok(())
        })
        .teardown("down", async move |step| {
            down.note("down", step.deadline());
            Ok(())
        })
        .timeout(60 * SECOND);
    let app = start(builder).await;
    assert_eq!(known.all(), [("limited", Some(3.0)), ("free", None)]);
    // Of ten seconds the last one is the first step's, whatever the one before it does.
    soon(app.stop_within(10 * SECOND)).await;
    assert_eq!(
        known.all()[2..],
        [("down", Some(9.0)), ("first down", Some(10.0))]
    );
}

/// Wherever an author or a test gives a time: what waits does not get any.
#[tokio::test(start_paused = true)]
async fn a_limit_of_zero_ends_it_at_once() {
    let none = Duration::ZERO;
    let hangs = async |_| pending().await;
    let timed_out = |what: &str| format!("{what} did not finish within its limit of 0ns");
    let begun = Instant::now();

    let builder = App::builder().startup("up", hangs).timeout(none);
    let failure = start_fails(builder).await.failure().to_string();
    assert_eq!(failure, timed_out("startup step 'up'"));

    for (builder, what) in [
        (App::builder().on_drain("s", hangs), "drain step 's'"),
        (App::builder().teardown("s", hangs), "teardown step 's'"),
    ] {
        let errors = soon(start(builder.timeout(none)).await.stop()).await;
        assert_eq!(texts(&errors), [timed_out(what)]);
    }
    let deaf = async |_: PayloadContext| pending().await;
    let payload = Payload::new("deaf", deaf).stop_timeout(none);
    let app = start(App::builder().payload(payload)).await;
    // It has to be running, to be deaf.
    sleep(Duration::from_millis(1)).await;
    let errors = texts(&soon(app.stop()).await);
    let aborted = "payload 'deaf' did not stop within 0ns and was aborted";
    assert!(errors[0].starts_with(aborted), "{errors:?}");

    let worker = TestWorker::new().startup_timeout(none);
    let app = App::builder().startup("up", hangs);
    let given_up = soon(worker.start(app.build(Router::new()))).await;
    assert!(given_up.unwrap_err().failure().is_cancelled());

    let app = start(App::builder().teardown("down", hangs)).await;
    let errors = soon(app.stop_within(none)).await;
    assert_eq!(errors.len(), 1, "{errors:?}");
    // Whoever is aborted has a moment to see its notice.
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_second_half_of_a_step_knows_its_own_deadline_by_the_context_of_the_first() {
    let known = Known::new();
    let (up, down) = (known.clone(), known.clone());
    let builder = App::builder()
        .teardown("first", async |_| Ok(()))
        .step("pair", async move |step| {
            up.note("up", step.deadline());
            Ok(async move || {
                down.note("down", step.deadline());
                Ok(())
            })
        })
        .timeout(60 * SECOND);
    let app = start(builder).await;
    sleep(SECOND).await;
    soon(app.stop_within(10 * SECOND)).await;
    assert_eq!(known.all(), [("up", Some(60.0)), ("down", Some(10.0))]);
}

#[tokio::test(start_paused = true)]
async fn a_payload_knows_when_it_is_aborted() {
    let known = Known::new();
    let of = |who, limit: Duration| {
        let known = known.clone();
        let run = async move |context: PayloadContext| {
            assert_eq!(context.stop_token().deadline(), None);
            context.stopped().await;
            known.note(who, context.stop_token().deadline());
            Ok(())
        };
        Payload::new(who, run).stop_timeout(limit)
    };
    let builder = App::builder()
        .payload(of("unhurried", 60 * SECOND))
        .payload(of("usual", 2 * SECOND))
        .payload(of("early", 3 * SECOND).stop_before_requests());
    let mut app = start(builder).await;
    sleep(SECOND).await;
    app.drain();
    sleep(SECOND).await;
    assert_eq!(known.all(), [("early", Some(4.0))]);
    soon(app.stop_within(10 * SECOND)).await;
    assert_eq!(
        known.all()[1..],
        [("usual", Some(4.0)), ("unhurried", Some(12.0))]
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_taken_back_comes_with_its_own_deadline() {
    let known = Known::new();
    let notes = known.clone();
    let payload = Payload::restarting("p", move |context: PayloadContext| {
        let notes = notes.clone();
        async move {
            context.stopped().await;
            notes.note("p", context.stop_token().deadline());
            Ok(())
        }
    });
    let payload = payload.scope(payload::Scope::Slot).stop_timeout(4 * SECOND);
    let mut app = start(App::builder().payload(payload)).await;
    sleep(SECOND).await;
    app.revoke("p");
    sleep(SECOND).await;
    app.grant("p", 2);
    sleep(SECOND).await;
    soon(app.stop_within(2 * SECOND)).await;
    assert_eq!(known.all(), [("p", Some(5.0)), ("p", Some(5.0))]);
}

#[tokio::test(start_paused = true)]
async fn the_notices_of_a_worker_tell_their_deadlines_when_they_fire() {
    let tokens: Arc<Mutex<Option<(Token, Token)>>> = Arc::default();
    let out = tokens.clone();
    let load = async move |context: Context| -> payload::Result<App> {
        assert_eq!(context.startup_deadline(), None);
        *out.lock().unwrap() = Some((context.drain_token(), context.stop_token()));
        let stuck = App::builder().teardown("stuck", async |_| pending().await);
        Ok(stuck.build(Router::new()))
    };
    let mut app = soon(TestApp::load(NoSettings {}, load)).await.unwrap();
    let begun = Instant::now();
    let (drain, stop) = tokens.lock().unwrap().take().unwrap();
    app.drain_within(30 * SECOND);
    assert_eq!(drain.deadline(), Some(begun + 30 * SECOND));
    assert_eq!(stop.deadline(), None);
    sleep(SECOND).await;
    soon(app.stop_within(5 * SECOND)).await;
    // Nothing that drains lives longer than the app.
    assert_eq!(drain.deadline(), Some(begun + 6 * SECOND));
    assert_eq!(stop.deadline(), Some(begun + 6 * SECOND));
}
