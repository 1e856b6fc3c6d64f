//! Behind a proxy that speaks TLS: who the client is, over what it came, and one number for its request in all logs.
//! `nginx.conf` and `haproxy.cfg` beside this file are the proxy's part, with what it sees of reloads and stops.
//!
//! ```text
//! cargo run --example behind_proxy
//! systemfd --no-pid -s http::8080 -- cargo run --example behind_proxy
//!
//! curl -H 'X-Forwarded-For: 203.0.113.9' -H 'X-Forwarded-Proto: https' http://127.0.0.1:8080/
//! curl http://127.0.0.1:8080/slow       # 2 s, to reload or stop the service meanwhile
//! curl http://127.0.0.1:8080/healthz    # for the proxy's checks
//! ```

mod forwarded;

use std::process::ExitCode;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use payload::{App, Context, Peer};

use forwarded::{Client, Trust};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

async fn load(context: Context<Trust>) -> payload::Result<App> {
    let trust = context.settings().clone();
    let routes = Router::new()
        .route("/", get(hello))
        .route("/slow", get(slow).post(slow))
        .layer(from_fn_with_state(trust, introduce))
        // Without the layer: nobody wants the checks in the log.
        .route("/healthz", get(async || "ok\n"));
    // Every request says who is at the other end of its connection.
    Ok(App::builder().with_peer().build(routes))
}

/// The number of a request: the proxy's, so that both logs can be read together, or a new one.
#[derive(Clone)]
struct RequestId(HeaderValue);

impl RequestId {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let id = headers.get(X_REQUEST_ID)?;
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        let fits = (1..=64).contains(&id.len()) && id.as_bytes().iter().all(plain);
        fits.then(|| Self(id.clone()))
    }

    fn new() -> Self {
        let id = format!("{:032x}", fastrand::u128(..));
        Self(HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("none")))
    }

    fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// Tells handlers and the log who asks.
async fn introduce(
    State(trust): State<Trust>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = peer.address().map(|address| address.ip());
    let client = trust.client(peer, request.headers());
    let id = RequestId::of(request.headers()).filter(|_| trust.believes(peer));
    let id = id.unwrap_or_else(RequestId::new);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    request.extensions_mut().insert(client);
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    tracing::info!(
        id = id.as_str(),
        client = client.address.map(tracing::field::display),
        %method,
        path,
        status = response.status().as_u16(),
        "request"
    );
    response.headers_mut().insert(X_REQUEST_ID, id.0);
    response
}

async fn hello(
    Extension(client): Extension<Client>,
    Extension(id): Extension<RequestId>,
) -> String {
    let scheme = if client.https { "https" } else { "http" };
    match client.address {
        Some(address) => format!("{address} by {scheme}, request {}\n", id.as_str()),
        None => format!("somebody by {scheme}, request {}\n", id.as_str()),
    }
}

/// A stop or a reload waits for it, up to `timeouts.graceful`.
async fn slow(Extension(id): Extension<RequestId>) -> &'static str {
    tracing::info!(id = id.as_str(), "this takes a while");
    tokio::time::sleep(Duration::from_secs(2)).await;
    "at last\n"
}

fn main() -> ExitCode {
    payload::main(load)
}
