//! Payloads that need a lease.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use payload::testing::Trace;
use payload::{App, KeepError, Payload, PayloadContext, Scope};
use tokio::time::sleep;

use crate::{SECOND, failing, obedient, soon, start, start_fails};

/// Every attempt: slot, slots, epoch, restarts.
type Attempts = Arc<Mutex<Vec<(u32, u32, u64, u32)>>>;

fn note(attempts: &Attempts, context: &PayloadContext) {
    attempts.lock().unwrap().push((
        context.slot(),
        context.slots(),
        context.epoch(),
        context.restarts(),
    ));
}

fn noted(attempts: &Attempts) -> Vec<(u32, u32, u64, u32)> {
    attempts.lock().unwrap().clone()
}

async fn says(trace: &Trace, line: &str, times: usize) {
    soon(trace.until_times(line, times)).await;
    assert_eq!(trace.count(line), times, "{trace}");
}

fn consumer(attempts: &Attempts) -> Payload {
    let attempts = attempts.clone();
    Payload::restarting("consumer", move |context| {
        note(&attempts, &context);
        obedient(context)
    })
    .scope(Scope::Slot)
}

#[tokio::test(start_paused = true)]
async fn it_starts_when_the_app_serves_and_stops_when_the_drain_begins() {
    let attempts = Attempts::default();
    let mut app = start(App::builder().payload(consumer(&attempts))).await;
    let trace = app.trace();
    says(&trace, "payload 'consumer' running", 1).await;
    let lines = trace.lines();
    let at = |line: &str| lines.iter().position(|said| said == line).unwrap();
    assert!(
        at("app serving") < at("payload 'consumer' running"),
        "{trace}"
    );
    assert_eq!(noted(&attempts), [(0, 1, 1, 0)]);
    app.drain();
    says(&trace, "payload 'consumer' released", 1).await;
    assert!(
        !trace.contains("app stopping"),
        "while requests may still run"
    );
    assert!(soon(app.stop()).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn its_author_can_let_it_stop_after_the_requests() {
    let payload = Payload::new("p", obedient).scope(Scope::Service);
    let mut app = start(App::builder().payload(payload.stop_after_requests())).await;
    let trace = app.trace();
    says(&trace, "payload 'p' running", 1).await;
    app.drain();
    sleep(60 * SECOND).await;
    assert!(!trace.contains("payload 'p' released"), "{trace}");
    assert!(soon(app.stop()).await.is_empty());
    assert!(trace.contains("payload 'p' released"), "{trace}");
}

#[tokio::test(start_paused = true)]
async fn a_restarting_one_starts_anew_with_the_next_lease() {
    let attempts = Attempts::default();
    let mut app = start(App::builder().payload(consumer(&attempts))).await;
    let trace = app.trace();
    says(&trace, "payload 'consumer' running", 1).await;
    app.revoke("consumer");
    says(&trace, "payload 'consumer' released", 1).await;
    sleep(60 * SECOND).await;
    assert_eq!(noted(&attempts).len(), 1, "it has no lease");
    app.grant("consumer", 4);
    says(&trace, "payload 'consumer' running", 2).await;
    assert_eq!(noted(&attempts), [(0, 1, 1, 0), (0, 4, 2, 0)]);
    assert!(soon(app.stop()).await.is_empty());
    says(&trace, "payload 'consumer' released", 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_under_the_same_lease() {
    let attempts = Attempts::default();
    let seen = attempts.clone();
    let payload = Payload::restarting("p", move |context| {
        note(&seen, &context);
        let again = context.restarts() < 2;
        async move {
            if again {
                failing()
            } else {
                obedient(context).await
            }
        }
    });
    let app = start(App::builder().payload(payload.scope(Scope::Service))).await;
    let trace = app.trace();
    says(&trace, "payload 'p' running", 3).await;
    assert_eq!(noted(&attempts), [(0, 1, 1, 0), (0, 1, 1, 1), (0, 1, 1, 2)]);
    assert!(!trace.contains("payload 'p' released"), "{trace}");
    assert!(soon(app.stop()).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_it_keeps_is_there_when_it_runs_again() {
    let found: Arc<Mutex<Vec<Option<Bytes>>>> = Arc::default();
    let seen = found.clone();
    let payload = Payload::restarting("p", move |context: PayloadContext| {
        let (seen, again) = (seen.clone(), context.restarts() < 1);
        async move {
            let before = context.kept();
            seen.lock().unwrap().push(before.clone());
            let next = [before.unwrap_or_default().as_ref(), b"x"].concat();
            context.keep(&next)?;
            assert_eq!(context.kept().unwrap(), next);
            if again {
                failing()
            } else {
                obedient(context).await
            }
        }
    });
    let mut app = start(App::builder().payload(payload.scope(Scope::Service))).await;
    let trace = app.trace();
    says(&trace, "payload 'p' running", 2).await;
    assert_eq!(app.kept("p").unwrap(), "xx");
    app.revoke("p");
    says(&trace, "payload 'p' released", 1).await;
    app.grant("p", 4);
    says(&trace, "payload 'p' running", 3).await;
    assert!(soon(app.stop()).await.is_empty());
    let found = found.lock().unwrap().clone();
    let expected = [None, Some("x"), Some("xx")].map(|text| text.map(Bytes::from));
    assert_eq!(found, expected);
}

#[tokio::test(start_paused = true)]
async fn only_a_holder_keeps_something() {
    let context: Arc<Mutex<Option<PayloadContext>>> = Arc::default();
    let seen = context.clone();
    let leased = Payload::restarting("leased", move |context: PayloadContext| {
        *seen.lock().unwrap() = Some(context.clone());
        obedient(context)
    });
    let free = Payload::new("free", async |context: PayloadContext| {
        let error = context.keep("x").unwrap_err();
        assert!(matches!(error, KeepError::EveryWorker { .. }));
        assert!(
            error.to_string().contains(".scope(Scope::Service)"),
            "{error}"
        );
        assert_eq!(context.kept(), None);
        obedient(context).await
    });
    let app = App::builder().payload(leased.scope(Scope::Slot));
    let mut app = start(app.payload(free)).await;
    let trace = app.trace();
    says(&trace, "payload 'leased' running", 1).await;
    let first = context.lock().unwrap().clone().unwrap();
    first.keep("first").unwrap();
    let long = vec![0; PayloadContext::MOST_KEPT + 1];
    let error = first.keep(long).unwrap_err();
    assert!(error.to_string().contains("16777217 bytes"), "{error}");
    app.revoke("leased");
    says(&trace, "payload 'leased' released", 1).await;
    assert!(matches!(first.keep("late"), Err(KeepError::NoLease)));
    assert_eq!(first.kept(), None);
    app.grant("leased", 1);
    says(&trace, "payload 'leased' running", 2).await;
    assert!(matches!(first.keep("late"), Err(KeepError::NoLease)));
    let second = context.lock().unwrap().clone().unwrap();
    assert_eq!(second.kept().unwrap(), "first");
    assert!(soon(app.stop()).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_can_be_started_once_is_not_started_twice() {
    let payload = Payload::new("p", obedient).scope(Scope::Service);
    let mut app = start(App::builder().payload(payload)).await;
    let trace = app.trace();
    says(&trace, "payload 'p' running", 1).await;
    app.revoke("p");
    says(&trace, "payload 'p' released", 1).await;
    app.grant("p", 1);
    sleep(60 * SECOND).await;
    says(&trace, "payload 'p' running", 1).await;
    assert!(soon(app.stop()).await.is_empty());
}

/// The lease is free when nothing of the payload is left, and not before.
#[tokio::test(start_paused = true)]
async fn one_that_is_slow_to_stop_holds_its_lease_until_its_future_is_dropped() {
    /// Says at its drop whether the lease had been given back by then.
    struct Held(Trace, Arc<Mutex<Option<bool>>>);
    impl Drop for Held {
        fn drop(&mut self) {
            *self.1.lock().unwrap() = Some(self.0.contains("payload 'p' released"));
        }
    }
    let slot: Arc<Mutex<Option<Trace>>> = Arc::default();
    let was_released = Arc::new(Mutex::new(None));
    let (seen, at_the_drop) = (slot.clone(), was_released.clone());
    let payload = Payload::new("p", async move |_| {
        sleep(SECOND).await;
        let held = Held(seen.lock().unwrap().clone().unwrap(), at_the_drop);
        std::future::pending::<()>().await;
        drop(held);
        Ok(())
    });
    let payload = payload.scope(Scope::Service).stop_timeout(3 * SECOND);
    let app = start(App::builder().payload(payload)).await;
    let trace = app.trace();
    *slot.lock().unwrap() = Some(trace.clone());
    sleep(2 * SECOND).await;
    app.revoke("p");
    sleep(2 * SECOND).await;
    assert!(!trace.contains("payload 'p' released"), "{trace}");
    says(&trace, "payload 'p' released", 1).await;
    assert_eq!(*was_released.lock().unwrap(), Some(false), "{trace}");
    assert!(
        soon(app.stop()).await.is_empty(),
        "it was reported when it happened"
    );
}

/// The supervisor hears of both at once.
#[tokio::test(start_paused = true)]
async fn a_lease_that_was_taken_back_at_once_starts_nothing() {
    for scope in [Scope::Service, Scope::Slot] {
        let payload = Payload::new("p", obedient).scope(scope);
        let mut app = start(App::builder().payload(payload)).await;
        let trace = app.trace();
        app.revoke("p");
        says(&trace, "payload 'p' released", 1).await;
        assert!(!trace.contains("payload 'p' running"), "{trace}");
        app.grant("p", 1);
        says(&trace, "payload 'p' running", 1).await;
        assert!(soon(app.stop()).await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_it_ends_with_decides_about_the_worker() {
    let critical = Payload::new("p", async |_| failing()).scope(Scope::Service);
    let app = start(App::builder().payload(critical)).await;
    assert_eq!(soon(app.failed()).await.cause(), "failed: it broke");
    says(&app.trace(), "payload 'p' released", 1).await;
    soon(app.stop()).await;

    let once = Payload::once("p", async |_| Ok(())).scope(Scope::Service);
    let app = start(App::builder().payload(once)).await;
    says(&app.trace(), "payload 'p' done", 1).await;
    says(&app.trace(), "payload 'p' released", 1).await;
    assert!(soon(app.stop()).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn two_of_one_name_cannot_be_told_apart() {
    let leased = |scope| Payload::new("twin", obedient).scope(scope);
    let twins = App::builder()
        .payload(leased(Scope::Service))
        .payload(leased(Scope::Slot));
    let failed = start_fails(twins).await;
    let text = failed.to_string();
    assert!(
        text.contains("two payloads that need a lease are called 'twin'"),
        "{text}"
    );
    // In every worker there may be as many as one likes.
    let free = App::builder().payload(leased(Scope::Worker));
    let app = start(
        free.payload(leased(Scope::Worker))
            .payload(leased(Scope::Slot)),
    )
    .await;
    assert!(soon(app.stop()).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_lease_it_knows_its_place_and_no_number() {
    let attempts = Attempts::default();
    let seen = attempts.clone();
    let payload = Payload::new("p", async move |context: PayloadContext| {
        note(&seen, &context);
        obedient(context).await
    });
    let app = start(App::builder().payload(payload)).await;
    sleep(SECOND).await;
    assert_eq!(noted(&attempts), [(0, 1, 0, 0)]);
    let trace = app.trace();
    assert!(soon(app.stop()).await.is_empty());
    assert!(!trace.contains("payload 'p' released"), "{trace}");
}
