//! Server-sent events: one per sample, until the worker drains.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::ReusableBoxFuture;

use crate::app::Token;
use crate::exit::BoxError;

use super::Vitals;

/// After this long without a sample a comment is sent, so that no proxy takes the connection for dead.
const BEAT: Duration = Duration::from_secs(15);

/// Tells a browser to come back after a second when the connection is lost.
const RETRY: &[u8] = b"retry: 1000\n\n";
/// The last event: this worker leaves, another one answers the next connection.
const DRAIN: Bytes = Bytes::from_static(b"event: drain\ndata: {}\n\n");
const COMMENT: Bytes = Bytes::from_static(b": still here\n\n");

/// One event of type `vitals`. The JSON has no line feeds, so that one data line holds it.
pub(super) fn event(data: &impl Serialize) -> Bytes {
    let mut frame = Vec::from(*b"event: vitals\ndata: ");
    if serde_json::to_writer(&mut frame, data).is_err() {
        // No type that is sent can fail; the client skips an event that it cannot read.
        return COMMENT;
    }
    frame.extend_from_slice(b"\n\n");
    frame.into()
}

/// The body of one stream. A client that reads slowly misses samples and costs no memory.
pub(super) struct Stream(Option<ReusableBoxFuture<'static, (Feed, Option<Bytes>)>>);

struct Feed {
    vitals: Arc<Vitals>,
    events: watch::Receiver<Bytes>,
    drain: Token,
    stage: Stage,
}

enum Stage {
    Greet,
    Follow,
    Over,
}

impl Stream {
    pub(super) fn new(vitals: Arc<Vitals>) -> Self {
        let feed = Feed {
            events: vitals.events.subscribe(),
            drain: vitals.drain.clone(),
            vitals,
            stage: Stage::Greet,
        };
        Self(Some(ReusableBoxFuture::new(feed.next())))
    }
}

impl Feed {
    async fn next(mut self) -> (Self, Option<Bytes>) {
        let frame = match self.stage {
            Stage::Greet => {
                self.stage = Stage::Follow;
                // What is known now, so that a page has something to show at once.
                let now = self.vitals.event(&self.vitals.status());
                Some(Bytes::from([RETRY, &now].concat()))
            }
            Stage::Follow => self.follow().await,
            Stage::Over => None,
        };
        (self, frame)
    }

    async fn follow(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            () = self.drain.fired() => {
                self.stage = Stage::Over;
                Some(DRAIN)
            }
            changed = self.events.changed() => {
                // The sender lives as long as `vitals`, which this feed holds.
                changed.ok().map(|()| self.events.borrow_and_update().clone())
            }
            () = tokio::time::sleep(BEAT) => Some(COMMENT),
        }
    }
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let stream = self.get_mut();
        let Some(next) = &mut stream.0 else {
            return Poll::Ready(None);
        };
        let (feed, frame) = ready!(next.poll(cx));
        match frame {
            Some(frame) => {
                next.set(feed.next());
                Poll::Ready(Some(Ok(Frame::data(frame))))
            }
            None => {
                stream.0 = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}
