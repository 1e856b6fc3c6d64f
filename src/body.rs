//! The one body type that requests and responses have at the boundary of payload.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

use crate::exit::BoxError;

/// A request's or a response's body: nothing, one buffer, or any stream of frames.
///
/// Any `http_body::Body` becomes one by [`Body::new`]; small bodies are not boxed.
pub struct Body(Inner);

enum Inner {
    Full(Full<Bytes>),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    /// No bytes at all.
    pub fn empty() -> Self {
        Self(Inner::Full(Full::new(Bytes::new())))
    }

    /// Wraps any body. A `Body` or a `Full<Bytes>` is not boxed again.
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut body = Some(body);
        let any: &mut dyn std::any::Any = &mut body;
        if let Some(body) = any.downcast_mut::<Option<Body>>().and_then(Option::take) {
            return body;
        }
        if let Some(full) = any
            .downcast_mut::<Option<Full<Bytes>>>()
            .and_then(Option::take)
        {
            return Self(Inner::Full(full));
        }
        match body {
            Some(body) => Self(Inner::Boxed(body.map_err(Into::into).boxed_unsync())),
            None => Self::empty(),
        }
    }

    /// Whether it comes from the author's code frame by frame, and not from a buffer, which cannot fail.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.0, Inner::Boxed(_))
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("size", &self.size_hint())
            .finish()
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self(Inner::Full(Full::new(bytes.into())))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().0 {
            Inner::Full(full) => Pin::new(full)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Inner::Boxed(boxed) => Pin::new(boxed).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Full(full) => full.is_end_stream(),
            Inner::Boxed(boxed) => boxed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Full(full) => full.size_hint(),
            Inner::Boxed(boxed) => boxed.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_buffer_is_exact_so_that_hyper_sends_a_content_length() {
        assert_eq!(Body::from("hello").size_hint().exact(), Some(5));
        assert!(Body::empty().is_end_stream());
    }

    #[test]
    fn a_body_is_not_boxed_twice() {
        let body = Body::new(Body::new(Full::new(Bytes::from_static(b"abc"))));
        assert!(matches!(body.0, Inner::Full(_)));
    }
}
