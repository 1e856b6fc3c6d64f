//! Streams of events: responses without an end of their own, whose clients come again when they end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Response;
use http::header::CONTENT_TYPE;
use http_body::Body as HttpBody;

use super::state::State;
use crate::body::Body;
use crate::worker::signal::Order;

/// Ends a stream of events when the server is cancelled. Cut off, it would look like a failure to its client; the
/// end is what an `EventSource` connects again after (HTML, section 9.2.3). Any other body must not end like that:
/// its client would take a part for the whole.
pub(super) struct Events {
    state: Arc<State>,
    cancelled: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
}

impl Events {
    /// None: it is not a stream of events, or it says how long it is.
    pub(super) fn of(response: &Response<Body>, state: &Arc<State>) -> Option<Self> {
        let kind = response.headers().get(CONTENT_TYPE)?.as_bytes();
        let kind = kind.split(|byte| *byte == b';').next()?.trim_ascii();
        let endless = response.body().size_hint().exact().is_none();
        if !endless || !kind.eq_ignore_ascii_case(b"text/event-stream") {
            return None;
        }
        state.events_begun();
        let server = state.server.clone();
        Some(Self {
            state: state.clone(),
            cancelled: Box::pin(async move { server.signal().reached(Order::Cancel).await }),
            ended: false,
        })
    }

    /// Ready when the stream has to end. To be asked when the author has nothing more to say for now.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ended {
            self.ended = self.cancelled.as_mut().poll(cx).is_ready();
        }
        if self.ended {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.state.events_over(self.ended);
    }
}
