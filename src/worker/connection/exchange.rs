//! One request and its response: counted, timed, and contained when the author's code fails.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::events::Events;
use super::incoming;
use super::state::{RequestId, State};
use super::upgrade::Upgrade;
use crate::app::service::Answer;
use crate::body::Body;
use crate::exit::{BoxError, chain};
use crate::worker::signal::Order;

/// The author's service as hyper calls it, once per request of this connection.
pub(super) struct Calls(Arc<State>);

impl Calls {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self(state)
    }
}

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = Response<Outgoing>;
    type Error = Infallible;
    type Future = Call;

    fn call(&self, request: Request<Incoming>) -> Call {
        let exchange = Exchange::begin(self.0.clone());
        let about = About::of(&request);
        let mut request = request.map(|body| incoming::wrap(body, &self.0));
        // Streams of HTTP/2 (CONNECT) leave it by hyper alone; their connection stays.
        let asks = request.extensions().get::<OnUpgrade>().is_some();
        let upgrade = if asks && !self.0.http2.load(Relaxed) {
            Upgrade::offer(&mut request)
        } else {
            None
        };
        if self.0.server.service.wants_peer() {
            request.extensions_mut().insert(self.0.peer.clone());
        }
        // Lent to the closure, since what a closure owns is copied into the catch and out again.
        let mut request = Some(request);
        let called = catch_unwind(AssertUnwindSafe(|| {
            let request = request.take()?;
            Some(self.0.server.service.call(request))
        }));
        let answer = called.unwrap_or_else(|panic| {
            exchange.panicked(&*panic, &about);
            None
        });
        Call {
            exchange: Some(exchange),
            about,
            upgrade,
            answer,
        }
    }
}

/// The response to come. Always one: what fails in the author's code becomes a 500.
pub(super) struct Call {
    /// Until it goes along with the response.
    exchange: Option<Exchange>,
    about: About,
    /// If the request asked for one.
    upgrade: Option<Box<Upgrade>>,
    /// `None`: it panicked.
    answer: Option<Answer>,
}

impl Future for Call {
    type Output = Result<Response<Outgoing>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = &mut *self;
        let Some(exchange) = &me.exchange else {
            // It was ready before, and is asked again against the contract.
            return Poll::Pending;
        };
        let polled = me
            .answer
            .as_mut()
            .map(|answer| catch_unwind(AssertUnwindSafe(|| Pin::new(answer).poll(cx))));
        let mut response = match polled {
            Some(Ok(poll)) => match ready!(poll) {
                Ok(response) => response,
                Err(error) => {
                    exchange.failed(&*error, &me.about);
                    exchange.internal_server_error()
                }
            },
            Some(Err(panic)) => {
                exchange.panicked(&*panic, &me.about);
                let broken = me.answer.take();
                // Should what is left of the handler panic as well, nothing more is lost.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
                exchange.internal_server_error()
            }
            None => exchange.internal_server_error(),
        };
        if let Some(upgrade) = accepted(&mut me.upgrade, &response) {
            exchange.state.upgrades(upgrade);
        } else if exchange.announces_close() {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let stream = response.body().is_stream().then(|| {
            Box::new(Stream {
                about: me.about.take(),
                events: Events::of(&response, &exchange.state),
            })
        });
        let exchange = me.exchange.take();
        Poll::Ready(Ok(response.map(|body| Outgoing {
            body,
            exchange,
            stream,
        })))
    }
}

/// What was offered, if this response takes it.
fn accepted(upgrade: &mut Option<Box<Upgrade>>, response: &Response<Body>) -> Option<Box<Upgrade>> {
    let mut upgrade = upgrade.take()?;
    upgrade.is_accepted(response).then_some(upgrade)
}

/// A response body on its way out. hyper drops it when it has taken the last byte.
pub(super) struct Outgoing {
    body: Body,
    exchange: Option<Exchange>,
    stream: Option<Box<Stream>>,
}

/// What is known of a body that comes frame by frame and can fail.
struct Stream {
    about: About,
    events: Option<Events>,
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let me = self.get_mut();
        let (Some(stream), Some(exchange)) = (&mut me.stream, &me.exchange) else {
            return Pin::new(&mut me.body).poll_frame(cx);
        };
        let error = match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut me.body).poll_frame(cx))) {
            Ok(Poll::Ready(Some(Err(error)))) => {
                exchange.cut_off(&*error, &stream.about);
                error
            }
            Ok(Poll::Pending) => {
                let events = stream.events.as_mut();
                return match events.map(|events| events.poll_end(cx)) {
                    Some(Poll::Ready(())) => Poll::Ready(None),
                    _ => Poll::Pending,
                };
            }
            Ok(poll) => return poll,
            Err(panic) => {
                exchange.panicked(&*panic, &stream.about);
                "the response body panicked".into()
            }
        };
        // hyper resets the stream or closes the connection: the client must not take it for the whole.
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the log says of a request.
#[derive(Default)]
struct About {
    method: Method,
    path: Option<PathAndQuery>,
}

impl About {
    fn of(request: &Request<Incoming>) -> Self {
        Self {
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
        }
    }

    fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    fn path(&self) -> &str {
        self.path.as_ref().map_or("*", PathAndQuery::path)
    }
}

/// From the request's head to the end of the response, or to the moment nobody wants it any more.
struct Exchange {
    state: Arc<State>,
    number: u64,
    /// The server's time.
    begun: u64,
}

impl Exchange {
    fn begin(state: Arc<State>) -> Self {
        Self {
            number: state.request_begun(),
            begun: state.server.now(),
            state,
        }
    }

    fn id(&self) -> RequestId {
        self.state.request_id(self.number)
    }

    /// HTTP/2 has GOAWAY for that.
    fn announces_close(&self) -> bool {
        let closes = match self.state.order() {
            Order::Serve | Order::Rebalance => false,
            // Then it goes on elsewhere.
            Order::HandOff => !self.state.has_heir() || self.state.server.handoff.is_full(),
            Order::Drain | Order::Cancel => true,
        };
        let closes = closes || self.state.server.http.keep_alive_timeout.is_zero();
        closes && !self.state.http2.load(Relaxed)
    }

    /// Counts and logs a panic.
    fn panicked(&self, panic: &(dyn Any + Send), about: &About) {
        let message = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(no message)");
        self.state.server.meter.handler_panicked();
        tracing::error!(
            request_id = %self.id(),
            method = %about.method,
            path = about.path(),
            panic = message,
            "the handler of a request panicked"
        );
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static), about: &About) {
        tracing::error!(
            request_id = %self.id(),
            method = %about.method,
            path = about.path(),
            error = chain(error),
            "the service failed to answer a request"
        );
    }

    fn cut_off(&self, error: &(dyn std::error::Error + 'static), about: &About) {
        tracing::error!(
            request_id = %self.id(),
            method = %about.method,
            path = about.path(),
            error = chain(error),
            "a response was cut off since its body failed"
        );
    }

    fn internal_server_error(&self) -> Response<Body> {
        let mut response = Response::new(Body::from("Internal Server Error\n"));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if let Ok(id) = HeaderValue::try_from(self.id().to_string()) {
            headers.insert("x-request-id", id);
        }
        response
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.state.request_ended(self.begun);
    }
}
