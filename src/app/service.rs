//! The author's HTTP service behind one type.

use std::fmt;
use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;

use super::mount::{Mount, Mounts};
use super::state::State;
use crate::body::Body;
use crate::exit::BoxError;

/// The response to come: the service's own future, boxed as it is.
pub(crate) struct Answer(Pin<Box<dyn Respond>>);

impl Answer {
    fn new(response: impl Respond + 'static) -> Self {
        Self(Box::pin(response))
    }
}

impl Future for Answer {
    type Output = Result<Response<Body>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll_response(cx)
    }
}

/// Any service's future, whose response is converted as it comes out: one around it would be moved and
/// kept twice.
trait Respond: Send {
    fn poll_response(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Body>, BoxError>>;
}

impl<F, B, E> Respond for F
where
    F: Future<Output = Result<Response<B>, E>> + Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    E: Into<BoxError>,
{
    fn poll_response(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Body>, BoxError>> {
        self.poll(cx).map(|answer| match answer {
            Ok(response) => Ok(response.map(Body::new)),
            Err(error) => Err(error.into()),
        })
    }
}

pub(super) trait Erased: Send + Sync {
    fn call(&self, request: Request<Body>) -> Answer;
}

/// Any `tower::Service` over `http` types, as the worker calls it. Cloning is one reference count; a call is one
/// boxed future.
#[derive(Clone)]
pub(crate) struct Service {
    erased: Arc<dyn Erased>,
    wants_peer: bool,
}

impl Service {
    #[cfg(test)]
    pub(crate) fn new<S, B>(service: S) -> Self
    where
        S: tower_service::Service<Request<Body>, Response = Response<B>>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::with_state(service, &State::default())
    }

    /// Every request carries `state` as an extension, unless it is empty: then it costs nothing.
    pub(super) fn with_state<S, B>(service: S, state: &State) -> Self
    where
        S: tower_service::Service<Request<Body>, Response = Response<B>>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let state = (!state.is_empty()).then(|| state.clone());
        Self {
            erased: Arc::new(Tower { service, state }),
            wants_peer: false,
        }
    }

    /// Answers one request. Dropping the future cancels the handler.
    ///
    /// # Errors
    /// What the service returned instead of a response; the caller answers 500.
    pub(crate) fn call(&self, request: Request<Body>) -> Answer {
        self.erased.call(request)
    }

    /// The same service, whose requests are to carry the [`Peer`](crate::Peer) as an extension, or not.
    pub(crate) fn with_peer(mut self, wanted: bool) -> Self {
        self.wants_peer = wanted;
        self
    }

    /// Gives those requests to other services that are below their paths.
    pub(super) fn with_mounts(self, mounts: Vec<Mount>) -> Self {
        if mounts.is_empty() {
            return self;
        }
        Self {
            wants_peer: self.wants_peer,
            erased: Arc::new(Mounts::new(self, mounts)),
        }
    }

    /// Whether to insert the [`Peer`](crate::Peer) before a call.
    pub(crate) fn wants_peer(&self) -> bool {
        self.wants_peer
    }
}

struct Tower<S> {
    service: S,
    state: Option<State>,
}

impl<S, B> Erased for Tower<S>
where
    S: tower_service::Service<Request<Body>, Response = Response<B>>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn call(&self, mut request: Request<Body>) -> Answer {
        if let Some(state) = &self.state {
            request.extensions_mut().insert(state.clone());
        }
        let mut service = self.service.clone();
        // Most services are always ready. Called here, they take what they want of the request, and nothing else
        // of it is kept and moved.
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Answer::new(service.call(request)),
            Poll::Ready(Err(error)) => {
                Answer::new(ready(Err::<Response<B>, BoxError>(error.into())))
            }
            // Asked again by the task that waits for it.
            Poll::Pending => Answer::new(async move {
                poll_fn(|cx| service.poll_ready(cx)).await?;
                service.call(request).await
            }),
        }
    }
}

/// Makes a service of a plain async function, for a service that needs no router.
///
/// ```
/// use http::{Request, Response};
/// use payload::Body;
///
/// async fn hello(_request: Request<Body>) -> payload::Result<Response<Body>> {
///     Ok(Response::new(Body::from("hello\n")))
/// }
///
/// let app = payload::App::builder().build(payload::service_fn(hello));
/// ```
pub fn service_fn<F, Fut, B>(handler: F) -> ServiceFn<F>
where
    F: FnMut(Request<Body>) -> Fut,
    Fut: Future<Output = super::Result<Response<B>>>,
{
    ServiceFn(handler)
}

/// What [`service_fn`] makes.
#[derive(Clone, Copy)]
pub struct ServiceFn<F>(F);

impl<F> fmt::Debug for ServiceFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceFn")
    }
}

impl<F, Fut, B> tower_service::Service<Request<Body>> for ServiceFn<F>
where
    F: FnMut(Request<Body>) -> Fut,
    Fut: Future<Output = super::Result<Response<B>>>,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<super::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Fut {
        (self.0)(request)
    }
}
