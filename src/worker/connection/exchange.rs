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
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::incoming;
use super::state::{RequestId, State};
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
        let exchange = Exchange::begin(self.0.clone(), &request);
        if request
            .extensions()
            .get::<hyper::upgrade::OnUpgrade>()
            .is_some()
        {
            self.0.upgrade.store(true, Relaxed);
        }
        let mut request = request.map(|body| incoming::wrap(body, &self.0));
        if self.0.server.service.wants_peer() {
            request.extensions_mut().insert(self.0.peer.clone());
        }
        let answer = match catch_unwind(AssertUnwindSafe(|| self.0.server.service.call(request))) {
            Ok(answer) => Ok(answer),
            Err(panic) => Err(exchange.panicked(&*panic)),
        };
        Call {
            exchange: Some(exchange),
            answer,
        }
    }
}

/// The response to come. Always one: what fails in the author's code becomes a 500.
pub(super) struct Call {
    exchange: Option<Exchange>,
    answer: Result<Answer, RequestId>,
}

impl Future for Call {
    type Output = Result<Response<Outgoing>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = &mut *self;
        let polled = match &mut me.answer {
            Ok(answer) => catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))),
            Err(id) => Ok(Poll::Ready(Ok(failed(*id)))),
        };
        let Some(exchange) = &me.exchange else {
            return Poll::Pending;
        };
        let mut response = match polled {
            Ok(poll) => match ready!(poll) {
                Ok(response) => response,
                Err(error) => failed(exchange.failed(&*error)),
            },
            Err(panic) => {
                let id = exchange.panicked(&*panic);
                let answer = std::mem::replace(&mut me.answer, Err(id));
                // What is left of the handler is dropped here; should that panic too, nothing is lost.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(answer)));
                failed(id)
            }
        };
        if exchange.http1 && exchange.state.server.signal().order() > Order::Serve {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let exchange = me.exchange.take();
        Poll::Ready(Ok(response.map(|body| Outgoing { body, exchange })))
    }
}

/// A response body on its way out. hyper drops it when it has taken the last byte.
pub(super) struct Outgoing {
    body: Body,
    exchange: Option<Exchange>,
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let me = self.get_mut();
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut me.body).poll_frame(cx)));
        let error = match polled {
            Ok(Poll::Ready(Some(Err(error)))) => {
                if let Some(exchange) = &me.exchange {
                    exchange.body_failed(&*error);
                }
                error
            }
            Ok(poll) => return poll,
            Err(panic) => {
                if let Some(exchange) = &me.exchange {
                    exchange.panicked(&*panic);
                }
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

/// From the request's head to the end of the response, or to the moment nobody wants it any more.
struct Exchange {
    state: Arc<State>,
    number: u64,
    /// The server's time.
    begun: u64,
    method: Method,
    path: Option<PathAndQuery>,
    http1: bool,
}

impl Exchange {
    fn begin(state: Arc<State>, request: &Request<Incoming>) -> Self {
        Self {
            number: state.request_begun(),
            begun: state.server.now(),
            state,
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            http1: request.version() != Version::HTTP_2,
        }
    }

    fn id(&self) -> RequestId {
        self.state.request_id(self.number)
    }

    fn path(&self) -> &str {
        self.path.as_ref().map_or("*", PathAndQuery::path)
    }

    /// Counts and logs a panic.
    fn panicked(&self, panic: &(dyn Any + Send)) -> RequestId {
        let message = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(no message)");
        self.state.server.meter.handler_panicked();
        tracing::error!(
            request_id = %self.id(),
            method = %self.method,
            path = self.path(),
            panic = message,
            "the handler of a request panicked"
        );
        self.id()
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) -> RequestId {
        tracing::error!(
            request_id = %self.id(),
            method = %self.method,
            path = self.path(),
            error = chain(error),
            "the service failed to answer a request"
        );
        self.id()
    }

    fn body_failed(&self, error: &(dyn std::error::Error + 'static)) {
        tracing::error!(
            request_id = %self.id(),
            method = %self.method,
            path = self.path(),
            error = chain(error),
            "a response was cut off since its body failed"
        );
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.state.request_ended(self.begun);
    }
}

fn failed(id: RequestId) -> Response<Body> {
    let mut response = Response::new(Body::from("Internal Server Error\n"));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if let Ok(id) = HeaderValue::try_from(id.to_string()) {
        headers.insert("x-request-id", id);
    }
    response
}
