//! A request body, watched: whether somebody still reads it, and whether it was read to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::state::State;
use crate::body::Body;

/// The body as the service gets it. One that has no bytes costs nothing.
pub(super) fn wrap(body: Incoming, state: &Arc<State>) -> Body {
    if body.is_end_stream() {
        return Body::empty();
    }
    state.body_begun();
    Body::new(Watched {
        body: Some(body),
        state: state.clone(),
        ended: false,
    })
}

/// Dropped before its end, a body leaves its rest on the wire; only hyper knows how to get past it.
struct Watched {
    /// Until the drop.
    body: Option<Incoming>,
    state: Arc<State>,
    ended: bool,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if frame.is_none() {
            self.ended = true;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let abandoned = !self.ended && !self.is_end_stream();
        // hyper's side of it first: the connection may be in another thread, and may leave hyper as soon as
        // nobody holds a body.
        self.body = None;
        self.state.body_ended(abandoned);
    }
}
