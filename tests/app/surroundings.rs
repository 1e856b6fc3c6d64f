//! What a test of an author's own app can set and see around it.

use std::future::pending;

use axum::{Extension, Router, routing::get};
use http::Request;
use payload::testing::{self, TestApp, TestWorker};
use payload::{App, Body, Context, NoSettings, Payload, PayloadContext, Peer, Scope};
use tokio::time::{Instant, sleep};

use crate::{SECOND, build, obedient, pair, soon};

#[tokio::test(start_paused = true)]
async fn an_app_is_told_the_place_that_its_test_has_set() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let load = async move |context: Context| -> payload::Result<App> {
        assert_eq!(
            (context.slot(), context.workers(), context.generation()),
            (2, 4, 7)
        );
        let share = Payload::new("share", async move |context: PayloadContext| {
            tell.send((context.slot(), context.slots())).unwrap();
            obedient(context).await
        });
        Ok(build(App::builder().payload(share.scope(Scope::Slot))))
    };
    let worker = TestWorker::new().slot(2).workers(4).generation(7);
    let app = soon(worker.load(NoSettings {}, load)).await.unwrap();
    assert_eq!(soon(told).await.unwrap(), (2, 4));
    assert!(soon(app.stop()).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_startup_is_given_up_at_the_deadline_that_all_can_see() {
    let begun = Instant::now();
    let worker = TestWorker::new().startup_timeout(3 * SECOND);
    let hanging = pair(App::builder(), "a").startup("x", async move |step| {
        assert_eq!(step.deadline(), Some(begun + 3 * SECOND));
        pending().await
    });
    let failed = soon(worker.clone().start(build(hanging)))
        .await
        .unwrap_err();
    assert_eq!(begun.elapsed(), 3 * SECOND);
    assert!(failed.failure().is_cancelled());
    assert!(failed.trace().contains("teardown 'a' done"));

    let begun = Instant::now();
    let load = async move |context: Context| -> payload::Result<App> {
        assert_eq!(context.startup_deadline(), Some(begun + 3 * SECOND));
        pending().await
    };
    let failed = soon(worker.load(NoSettings {}, load)).await.unwrap_err();
    assert_eq!(begun.elapsed(), 3 * SECOND);
    assert_eq!(failed.to_string(), "load did not end within 3s");
}

#[tokio::test(start_paused = true)]
async fn what_it_declares_busy_is_counted() {
    let works = Payload::once("works", async |context: PayloadContext| {
        let _busy = context.busy();
        sleep(SECOND).await;
        Ok(())
    });
    let app = soon(TestApp::start(build(App::builder().payload(works))))
        .await
        .unwrap();
    sleep(SECOND / 2).await;
    assert_eq!(app.busy(), 1);
    sleep(SECOND).await;
    assert_eq!(app.busy(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_can_come_from_anywhere_and_its_answer_be_read() {
    let routes = Router::new().route(
        "/",
        get(async |Extension(peer): Extension<Peer>| format!("{peer} on {}", peer.listener())),
    );
    let app = App::builder().with_peer().build(routes);
    let app = soon(TestApp::start(app)).await.unwrap();
    for (address, text) in [
        (Some(([192, 0, 2, 1], 443).into()), "192.0.2.1:443 on http"),
        (None, "unix on http"),
    ] {
        let mut request = Request::new(Body::empty());
        request
            .extensions_mut()
            .insert(testing::peer(address, "http"));
        let answer = app.call(request).await.unwrap();
        assert_eq!(testing::body(answer).await.unwrap(), text);
    }
}
