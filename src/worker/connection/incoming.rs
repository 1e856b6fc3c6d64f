//! A request body, watched: whether somebody still reads it, and whether it was read to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
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
    state.bodies_open.fetch_add(1, Relaxed);
    Body::new(Watched {
        body,
        state: state.clone(),
        ended: false,
    })
}

/// Dropped before its end, a body leaves its rest on the wire; only hyper knows how to get past it.
struct Watched {
    body: Incoming,
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
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.ended = true;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.state.body_abandoned.store(true, Relaxed);
        }
        self.state.bodies_open.fetch_sub(1, Relaxed);
    }
}
