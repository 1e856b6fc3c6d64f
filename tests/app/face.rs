//! What `load` is given, and what requests see.

use axum::{Extension, Router, routing::get};
use http::{Request, Response};
use payload::testing::TestApp;
use payload::{App, Body, Context, NoSettings, Payload, PayloadContext, State};
use tokio::sync::oneshot;

use crate::{failing, obedient, request, soon, text};

#[tokio::test(start_paused = true)]
async fn load_gets_its_settings_and_its_place() {
    struct Settings {
        greeting: &'static str,
    }
    let load = async |context: Context<Settings>| -> payload::Result<App> {
        assert_eq!(
            (context.slot(), context.workers(), context.generation()),
            (0, 1, 1)
        );
        assert_eq!(context.service().arbiter.pid, std::process::id());
        Ok(App::builder().build(payload::service_fn(move |_| {
            let greeting = context.settings().greeting;
            async move { Ok(Response::new(Body::from(greeting))) }
        })))
    };
    let settings = Settings {
        greeting: "good day",
    };
    let app = soon(TestApp::load(settings, load)).await.unwrap();
    assert_eq!(text(app.call(request()).await.unwrap()).await, "good day");
}

#[tokio::test(start_paused = true)]
async fn the_notices_that_load_gets_fire_with_the_drain_and_with_the_teardown() {
    let (tell, told) = oneshot::channel();
    let load = async move |context: Context| -> payload::Result<App> {
        let (drain, stop) = (context.drain_token(), context.stop_token());
        tell.send((drain.clone(), stop.clone())).unwrap();
        let builder = App::builder().teardown("look", async move |_| match stop.is_fired() {
            true => Ok(()),
            false => Err("the stop token is late".into()),
        });
        let waits = async move |payload: PayloadContext| {
            soon(drain.fired()).await;
            assert!(payload.drain_token().is_fired());
            Ok(())
        };
        Ok(builder
            .payload(Payload::once("waits", waits))
            .build(Router::new()))
    };
    let mut app = soon(TestApp::load(NoSettings {}, load)).await.unwrap();
    let (drain, stop) = soon(told).await.unwrap();
    assert!(!drain.is_fired());
    app.drain();
    soon(drain.fired()).await;
    assert!(!stop.is_fired(), "requests are still being finished");
    let trace = app.trace();
    assert!(soon(app.stop()).await.is_empty(), "{trace}");
    assert!(trace.contains("payload 'waits' done"));
}

#[tokio::test(start_paused = true)]
async fn a_startup_that_is_given_up_fires_the_notices_too() {
    let (tell, told) = oneshot::channel();
    let load = async move |context: Context| -> payload::Result<App> {
        tell.send(context.stop_token()).unwrap();
        Ok(App::builder()
            .startup("x", async |_| failing())
            .build(Router::new()))
    };
    soon(TestApp::load(NoSettings {}, load)).await.unwrap_err();
    assert!(soon(told).await.unwrap().is_fired());
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
    let app = soon(TestApp::start(app)).await.unwrap();
    assert_eq!(soon(hear).await.unwrap(), "hello");
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
