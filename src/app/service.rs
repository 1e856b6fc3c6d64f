//! The author's HTTP service behind one type.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;

use crate::body::Body;
use crate::exit::BoxError;

/// What a call resolves to.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

trait Erased: Send + Sync {
    fn call(&self, request: Request<Body>) -> Answer;
}

/// Any `tower::Service` over `http` types, as the worker calls it. Cloning is one reference count.
#[derive(Clone)]
pub(crate) struct Service(Arc<dyn Erased>);

impl Service {
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
        Self(Arc::new(Tower(service)))
    }

    /// Answers one request. Dropping the future cancels the handler.
    ///
    /// # Errors
    /// What the service returned instead of a response; the caller answers 500.
    pub(crate) fn call(&self, request: Request<Body>) -> Answer {
        self.0.call(request)
    }
}

struct Tower<S>(S);

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
    fn call(&self, request: Request<Body>) -> Answer {
        let mut service = self.0.clone();
        Box::pin(async move {
            poll_fn(|cx| service.poll_ready(cx))
                .await
                .map_err(Into::into)?;
            let response = service.call(request).await.map_err(Into::into)?;
            Ok(response.map(Body::new))
        })
    }
}
