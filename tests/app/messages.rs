//! What the parts of an app publish reaches the others.

use crate::{request, soon, text};
use http::Response;
use payload::testing::TestApp;
use payload::{App, Body, Context, Payload, service_fn};

/// A payload answers what a step has published, and a handler what the payload has.
#[tokio::test(start_paused = true)]
async fn steps_payloads_and_handlers_hear_each_other() {
    let app = soon(TestApp::load((), load)).await.unwrap();
    let mut farewells = app.messages().subscribe("farewell");
    let answer = soon(app.call(request())).await.unwrap();
    assert_eq!(text(answer).await, "pong of worker 1");
    assert!(soon(app.stop()).await.is_empty());
    let farewell = soon(farewells.recv()).await.unwrap();
    assert_eq!(farewell.bytes(), "from the teardown");
}

async fn load(context: Context<()>) -> payload::Result<App> {
    let messages = context.messages();
    let answer = service_fn(move |_| {
        let messages = messages.clone();
        async move {
            let mut pongs = messages.subscribe("pong");
            messages.publish("ask", "again")?;
            let pong = pongs.recv().await?;
            let text = std::str::from_utf8(pong.bytes())?.to_owned();
            let text = format!("{text} of worker {}", pong.worker());
            payload::Result::Ok(Response::new(Body::from(text)))
        }
    });
    // Before the first request, so that none is missed.
    let mut asked = context.messages().subscribe("ask");
    let player = Payload::new("player", async move |context| {
        loop {
            tokio::select! {
                () = context.stopped() => return Ok(()),
                ask = asked.recv() => drop(ask?),
            }
            context.messages().publish("pong", "pong")?;
        }
    });
    let app = App::builder()
        .payload(player)
        .teardown("bye", async |context| {
            let messages = context.messages();
            Ok(messages.publish("farewell", "from the teardown")?)
        });
    Ok(app.build(answer))
}

#[tokio::test(start_paused = true)]
async fn a_test_publishes_as_another_part_would() {
    let listener = Payload::once("listener", async |context| {
        let news = context.messages().subscribe("news").recv().await?;
        assert_eq!(news.bytes(), "it rains");
        Ok(())
    });
    let app = crate::start(App::builder().payload(listener)).await;
    // It has subscribed when it waits.
    tokio::task::yield_now().await;
    app.messages().publish("news", "it rains").unwrap();
    soon(app.trace().until("payload 'listener' done")).await;
    assert!(soon(app.stop()).await.is_empty());
}
