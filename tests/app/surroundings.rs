//! What a test of an author's own app can set and see around it.

use std::future::pending;

use axum::{Extension, Router, routing::get};
use http::Request;
use payload::status::{PayloadState, ServiceState};
use payload::testing::NotStarted;
use payload::testing::{self, TestApp, TestWorker};
use payload::{App, Body, Context, Events, NoSettings, Payload, PayloadContext, Peer, Scope};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::{SECOND, build, failing, obedient, pair, soon};

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
async fn the_service_around_it_is_as_its_test_has_described_it() {
    let (tell, told) = oneshot::channel();
    let load = async move |context: Context| -> payload::Result<App> {
        assert_eq!(context.service().arbiter.state, ServiceState::Booting);
        tell.send(context).ok();
        let leased = Payload::restarting("leased", obedient).scope(Scope::Slot);
        Ok(build(
            App::builder()
                .payload(Payload::once("once", async |_| Ok(())))
                .payload(leased),
        ))
    };
    let worker = TestWorker::new().slot(2).workers(4).generation(7);
    let app = soon(worker.load(NoSettings {}, load)).await.unwrap();
    let context = soon(told).await.unwrap();
    let trace = app.trace();
    soon(trace.until("payload 'leased' running")).await;
    let busy = context.busy();
    let status = context.service();
    assert_eq!(status.arbiter.state, ServiceState::Ready);
    assert_eq!((status.arbiter.workers, status.arbiter.generation), (4, 7));
    let [worker] = &status.workers[..] else {
        panic!("{status:?}");
    };
    assert_eq!((worker.worker, worker.slot, worker.generation), (1, 2, 7));
    assert_eq!((&*worker.phase, worker.busy), ("serving", 1));
    let payloads = worker.payloads.iter();
    let payloads: Vec<_> = payloads.map(|p| (&*p.name, p.scope, p.state)).collect();
    assert_eq!(
        payloads,
        [
            ("once", Scope::Worker, PayloadState::Done),
            ("leased", Scope::Slot, PayloadState::Running)
        ]
    );
    drop(busy);
    let lease = &status.leases[0];
    assert_eq!((&*lease.payload, lease.slot), ("leased", Some(2)));
    let holder = lease.holder.as_ref().unwrap();
    assert_eq!((holder.slot, holder.epoch), (2, 1));
    app.revoke("leased");
    soon(trace.until("payload 'leased' released")).await;
    assert_eq!(context.service().leases[0].holder, None);
    assert!(soon(app.stop()).await.is_empty());
    assert_eq!(context.service().workers[0].phase, "exited");
}

#[tokio::test(start_paused = true)]
async fn what_happens_in_the_service_reaches_it_in_order() {
    let (tell, told) = oneshot::channel();
    let load = async move |context: Context| -> payload::Result<App> {
        tell.send(context.events()).ok();
        Ok(build(App::builder()))
    };
    let app = soon(TestApp::load(NoSettings {}, load)).await.unwrap();
    let events: Events = soon(told).await.unwrap();
    let mut news = events.subscribe();
    for name in ["reload-started", "reloaded"] {
        let mut event = testing::event(name);
        event.generation = Some(2);
        app.happen(event);
        let heard = soon(news.recv()).await.unwrap();
        assert_eq!((&*heard.name, heard.generation), (name, Some(2)));
    }
    assert_eq!(events.recent().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_last_holder_has_kept_is_there_from_the_beginning() {
    let (tell, told) = oneshot::channel();
    let payload = Payload::new("p", async move |context: PayloadContext| {
        tell.send(context.kept()).ok();
        obedient(context).await
    });
    let app = build(App::builder().payload(payload.scope(Scope::Service)));
    let worker = TestWorker::new().kept("p", "from before");
    let app = soon(worker.start(app)).await.unwrap();
    assert_eq!(soon(told).await.unwrap().unwrap(), "from before");
    assert_eq!(app.kept("p").unwrap(), "from before");
    assert!(soon(app.stop()).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_meets_load_and_the_startup_behind_it() {
    let begun = Instant::now();
    let hangs = async |_: Context| -> payload::Result<App> { pending().await };
    let stopped = TestWorker::new().load_until(NoSettings {}, hangs, sleep(SECOND));
    let failed = soon(stopped).await.unwrap_err();
    assert!(
        failed.to_string().starts_with("load was given up"),
        "{failed}"
    );
    assert_eq!(begun.elapsed(), SECOND);

    let hangs = async |_: Context| -> payload::Result<App> {
        let app = pair(App::builder(), "a");
        Ok(build(app.startup("x", async |_| pending().await)))
    };
    let stopped = TestWorker::new().load_until(NoSettings {}, hangs, sleep(SECOND));
    let failed = soon(stopped).await.unwrap_err();
    let failed = failed.downcast::<NotStarted>().unwrap();
    assert!(failed.failure().is_cancelled());
    assert!(failed.trace().contains("teardown 'a' done"));

    let broken = async |_: Context| -> payload::Result<App> {
        Ok(build(App::builder().startup("x", async |_| failing())))
    };
    let failed = soon(TestApp::load(NoSettings {}, broken))
        .await
        .unwrap_err();
    assert!(failed.is::<NotStarted>());
}

#[tokio::test(start_paused = true)]
async fn two_workers_of_one_service_hear_each_other() {
    let listens = || {
        let payload = Payload::once("p", async |context: PayloadContext| {
            let news = context.messages().subscribe("news").recv().await?;
            Err(format!("worker {} said it", news.worker()).into())
        });
        build(App::builder().payload(payload))
    };
    let one = soon(TestApp::start(listens())).await.unwrap();
    let beside = TestWorker::new().slot(1).workers(2).beside(&one);
    let other = soon(beside.clone().start(listens())).await.unwrap();
    let third = soon(beside.start(listens())).await.unwrap();
    tokio::task::yield_now().await;
    third.messages().publish("news", "it rains").unwrap();
    for app in [one, other, third] {
        let line = "payload 'p' failed: failed: worker 3 said it";
        soon(app.trace().until(line)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn state_that_was_registered_in_an_arc_is_missed_with_the_reason() {
    let app = App::builder().state(std::sync::Arc::new(7_u8));
    let app = app.startup("x", async |step| {
        let missing = step.state::<u8>().unwrap_err().to_string();
        assert_eq!(
            missing,
            "no state of type u8 was registered, but an Arc<u8>: give AppBuilder::state the value without the Arc"
        );
        Ok(())
    });
    soon(TestApp::start(build(app))).await.unwrap();
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
