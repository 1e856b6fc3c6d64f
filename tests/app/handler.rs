//! What the README shows of handlers, and of their tests.

use axum::extract::State;
use axum::{Extension, Router, routing::get};
use payload::{App, Context, Peer};

#[derive(Clone)]
struct Shared {
    context: Context, // this worker: settings, slot, messages, events, drain token, busy
    greeting: &'static str,
}

async fn hello(State(shared): State<Shared>, Extension(peer): Extension<Peer>) -> String {
    let Shared { context, greeting } = shared;
    let _ = context.messages().publish("greeted", peer.to_string());
    format!("{greeting} {peer}, from slot {}\n", context.slot())
}

async fn load(context: Context) -> payload::Result<App> {
    let greeting = "hello";
    let routes = Router::new().route("/", get(hello));
    Ok(App::builder()
        .with_peer() // for `Extension<Peer>`: who asks
        .build(routes.with_state(Shared { context, greeting })))
}

#[tokio::test]
async fn it_greets() {
    use payload::{Body, NoSettings, testing};

    let app = testing::TestApp::load(NoSettings {}, load).await.unwrap();
    let peer = testing::peer("203.0.113.9:4711".parse().ok(), "http");
    let mut request = http::Request::new(Body::empty());
    request.extensions_mut().insert(peer);
    let answer = app.call(request).await.unwrap();
    let said = testing::body(answer).await.unwrap();
    assert_eq!(said, "hello 203.0.113.9:4711, from slot 0\n");
    assert!(app.stop().await.is_empty()); // nothing has failed on the way out
}
