//! Server-sent events: one per sample and one for each handful of lifecycle events, until the worker drains.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::ReusableBoxFuture;

use super::frames::Next;
use super::state::Vitals;
use crate::BoxError;

/// After this long without a sample a comment is sent, so that no proxy takes the connection for dead.
const BEAT: Duration = Duration::from_secs(15);

/// Tells a browser to come back after a second when the connection is lost.
const RETRY: &[u8] = b"retry: 1000\n\n";
/// The last event: this worker leaves, another one answers the next connection.
const DRAIN: Bytes = Bytes::from_static(b"event: drain\ndata: {}\n\n");
const COMMENT: Bytes = Bytes::from_static(b": still here\n\n");

/// One event of this type. The JSON has no line feeds, so that one data line holds it.
pub(super) fn event(kind: &str, data: &impl Serialize) -> Bytes {
    let mut frame = format!("event: {kind}\ndata: ").into_bytes();
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
    news: watch::Receiver<u64>,
    stage: Stage,
}

enum Stage {
    Greet,
    /// From this place on.
    Follow(u64),
    Over,
}

impl Stream {
    pub(super) fn new(vitals: Arc<Vitals>) -> Self {
        let feed = Feed {
            news: vitals.news.subscribe(),
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
                let (place, now) = self.vitals.greeting();
                self.stage = Stage::Follow(place);
                Some(Bytes::from([RETRY, &now].concat()))
            }
            Stage::Follow(place) => Some(self.follow(place).await),
            Stage::Over => None,
        };
        (self, frame)
    }

    async fn follow(&mut self, place: u64) -> Bytes {
        loop {
            // From here on every change is seen.
            self.news.mark_unchanged();
            match self.vitals.frame_after(place) {
                Next::Frame(place, frame) => {
                    self.stage = Stage::Follow(place);
                    return frame;
                }
                Next::Greeting => {
                    let (place, now) = self.vitals.greeting();
                    self.stage = Stage::Follow(place);
                    return now;
                }
                Next::Over => {
                    self.stage = Stage::Over;
                    return DRAIN;
                }
                Next::Wait => {}
            }
            tokio::select! {
                biased;
                // The sender lives as long as `vitals`, which this feed holds.
                _ = self.news.changed() => {}
                () = tokio::time::sleep(BEAT) => return COMMENT,
            }
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
