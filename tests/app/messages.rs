//! What the parts of an app publish reaches the others.

use std::convert::Infallible;

use axum::response::sse::{Event, Sse};
use axum::{Router, routing::get};
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use payload::testing::{TestApp, TestWorker};
use payload::{App, Body, Context, Lagged, Message, NoSettings, Payload, service_fn};

use crate::{build, request, soon, text};

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

fn event(next: Result<Message, Lagged>) -> Result<Event, Infallible> {
    Ok(match next {
        Ok(message) => Event::default().data(String::from_utf8_lossy(message.bytes())),
        Err(lagged) => {
            let missed = Event::default().event("missed");
            missed.data(lagged.missed().to_string())
        }
    })
}

async fn next_piece(body: &mut Body) -> Option<String> {
    let frame = soon(body.frame()).await?.unwrap();
    let bytes = frame.into_data().unwrap();
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_subscription_is_a_stream_of_server_sent_events() {
    let load = async |context: Context| -> payload::Result<App> {
        let (messages, drain) = (context.messages(), context.drain_token());
        let news = async move || {
            let news = messages.subscribe("news").map(event);
            Sse::new(news.take_until(drain.fired()))
        };
        Ok(App::builder().build(Router::new().route("/news", get(news))))
    };
    let mut one = soon(TestApp::load(NoSettings {}, load)).await.unwrap();
    let beside = TestWorker::new().workers(2).slot(1).beside(&one);
    let other = soon(beside.start(build(App::builder()))).await.unwrap();
    let request = Request::get("/news").body(Body::empty()).unwrap();
    let response = soon(one.call(request)).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let publish = |text: String| other.messages().publish("news", text).unwrap();
    for text in ["it rains", "it snows"] {
        publish(text.to_owned());
        let piece = next_piece(&mut body).await.unwrap();
        assert_eq!(piece, format!("data: {text}\n\n"));
    }
    // More than is kept for one that does not take it.
    (0..1024 + 3).for_each(|number| publish(number.to_string()));
    let missed = next_piece(&mut body).await.unwrap();
    assert_eq!(missed, "event: missed\ndata: 3\n\n");
    for number in 3..1024 + 3 {
        let piece = next_piece(&mut body).await.unwrap();
        assert_eq!(piece, format!("data: {number}\n\n"));
    }
    one.drain();
    assert_eq!(next_piece(&mut body).await, None);
    assert!(soon(one.stop()).await.is_empty());
}
