//! What `load` is given, and what requests see.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use axum::{Extension, Router, routing::get};
use http::{Request, Response};
use payload::testing::TestApp;
use payload::{App, Body, Context, Payload, PayloadContext, State};
use tokio::sync::oneshot;

use crate::{obedient, request, text};

#[tokio::test(start_paused = true)]
async fn load_gets_its_settings_and_the_notices_of_its_worker() {
    struct Settings {
        greeting: &'static str,
    }
    let drained = Arc::new(AtomicU32::new(0));
    let count = drained.clone();
    let load = async move |context: Context<Settings>| -> payload::Result<App> {
        assert_eq!(
            (context.slot(), context.workers(), context.generation()),
            (0, 1, 1)
        );
        assert_eq!(context.service().arbiter.pid, std::process::id());
        let (drain, stop) = (context.drain_token(), context.stop_token());
        let greeting = context.settings().greeting;
        Ok(App::builder()
            .teardown("look", async move |_| {
                count.store(
                    u32::from(drain.is_fired()) + u32::from(stop.is_fired()),
                    Relaxed,
                );
                Ok(())
            })
            .build(payload::service_fn(move |_| async move {
                Ok(Response::new(Body::from(greeting)))
            })))
    };
    let app = TestApp::load(
        Settings {
            greeting: "good day",
        },
        load,
    )
    .await
    .unwrap();
    assert_eq!(text(app.call(request()).await.unwrap()).await, "good day");
    app.stop().await;
    assert_eq!(drained.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn state_is_reached_by_type_from_steps_payloads_and_handlers() {
    struct Greeting(&'static str);
    async fn handler(Extension(state): Extension<State>) -> &'static str {
        state.get::<Greeting>().unwrap().0
    }
    let (said, hear) = oneshot::channel();
    let mut said = Some(said);
    let app = App::builder()
        .state(Greeting("hello"))
        .startup("step", async |step| {
            assert_eq!(step.state::<Greeting>()?.0, "hello");
            let missing = step.state::<u64>().unwrap_err().to_string();
            assert_eq!(
                missing,
                "no state of type u64 was registered: give it to AppBuilder::state"
            );
            Ok(())
        })
        .payload(Payload::new("p", move |context: PayloadContext| {
            let said = said.take();
            async move {
                let greeting = context.state::<Greeting>()?;
                said.map(|said| said.send(greeting.0));
                obedient(context).await
            }
        }))
        .build(Router::new().route("/", get(handler)));
    let app = TestApp::start(app).await.unwrap();
    assert_eq!(hear.await.unwrap(), "hello");
    assert_eq!(text(app.call(request()).await.unwrap()).await, "hello");
}

#[tokio::test(start_paused = true)]
async fn an_app_without_state_adds_nothing_to_a_request() {
    let service = payload::service_fn(async |request: Request<Body>| {
        assert!(request.extensions().is_empty());
        Ok(Response::new(Body::from("fine")))
    });
    let app = TestApp::start(App::builder().build(service)).await.unwrap();
    assert_eq!(text(app.call(request()).await.unwrap()).await, "fine");
}

#[tokio::test(start_paused = true)]
async fn a_handlers_error_reaches_the_caller() {
    let service =
        payload::service_fn(async |_| -> payload::Result<Response<Body>> { Err("no luck".into()) });
    let app = TestApp::start(App::builder().build(service)).await.unwrap();
    assert_eq!(
        app.call(request()).await.unwrap_err().to_string(),
        "no luck"
    );
}
