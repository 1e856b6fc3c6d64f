//! What the streams send: each event is built once, for all who listen.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// Lifecycle events that are kept for streams which have not sent them yet. A stream that is further behind begins
/// anew.
const KEPT: usize = 32;
/// How long a greeting is given to new streams without being built again.
const FRESH: Duration = Duration::from_secs(1);

/// The last frames, each with its place in their order.
#[derive(Debug, Default)]
pub(super) struct Frames {
    place: u64,
    /// The latest sample. Who missed one before misses nothing.
    tick: Option<(u64, Bytes)>,
    lifecycle: VecDeque<(u64, Bytes)>,
    /// All that a new stream has to know, and when that was built.
    greeting: Option<(Instant, Bytes)>,
    is_over: bool,
}

/// What a stream at some place is to send.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// This frame, and then it is at that place.
    Frame(u64, Bytes),
    /// Everything anew.
    Greeting,
    /// Nothing now.
    Wait,
    /// The last word: nothing comes any more, whatever it has not sent yet.
    Over,
}

impl Frames {
    pub(super) fn place(&self) -> u64 {
        self.place
    }

    /// `None`: there is something new, and nobody to send it to. Whoever comes begins with a greeting, so that nothing
    /// has to be kept for anybody.
    pub(super) fn tick(&mut self, frame: Option<Bytes>) {
        self.greeting = None;
        let Some(frame) = frame else {
            self.forget();
            return;
        };
        self.place += 1;
        self.tick = Some((self.place, frame));
    }

    /// The same.
    pub(super) fn lifecycle(&mut self, frame: Option<Bytes>) {
        self.greeting = None;
        let Some(frame) = frame else {
            self.forget();
            return;
        };
        self.place += 1;
        if self.lifecycle.len() >= KEPT {
            self.lifecycle.pop_front();
        }
        self.lifecycle.push_back((self.place, frame));
    }

    /// For ever.
    pub(super) fn end(&mut self) {
        self.is_over = true;
    }

    fn forget(&mut self) {
        self.tick = None;
        self.lifecycle.clear();
    }

    /// Takes a greeting over that was just built, and gives back where it leads to.
    pub(super) fn greet(&mut self, frame: Bytes) -> (u64, Bytes) {
        self.greeting = Some((Instant::now(), frame.clone()));
        (self.place, frame)
    }

    /// The greeting that holds at this place, if it was built already.
    pub(super) fn greeting(&self) -> Option<(u64, Bytes)> {
        let known = self.greeting.as_ref();
        let fresh = known.filter(|(built, _)| built.elapsed() < FRESH);
        fresh.map(|(_, frame)| (self.place, frame.clone()))
    }

    pub(super) fn after(&self, place: u64) -> Next {
        if self.is_over {
            return Next::Over;
        }
        let lost = self.lifecycle.len() >= KEPT
            && self
                .lifecycle
                .front()
                .is_some_and(|(oldest, _)| *oldest > place + 1);
        if lost {
            return Next::Greeting;
        }
        let frames = self.lifecycle.iter().chain(&self.tick);
        frames
            .filter(|(at, _)| *at > place)
            .min_by_key(|(at, _)| *at)
            .map_or(Next::Wait, |(at, frame)| Next::Frame(*at, frame.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn some(text: &'static str) -> Option<Bytes> {
        Some(frame(text))
    }

    #[tokio::test]
    async fn every_lifecycle_event_is_sent_and_only_the_latest_sample() {
        let mut frames = Frames::default();
        frames.tick(some("old"));
        frames.lifecycle(some("a"));
        frames.lifecycle(some("b"));
        frames.tick(some("new"));
        let (mut place, mut sent) = (0, Vec::new());
        while let Next::Frame(at, bytes) = frames.after(place) {
            place = at;
            sent.push(bytes);
        }
        assert_eq!(sent, ["a", "b", "new"]);
        assert_eq!(frames.after(place), Next::Wait);
    }

    #[tokio::test]
    async fn who_is_too_far_behind_begins_anew() {
        let mut frames = Frames::default();
        for _ in 0..KEPT {
            frames.lifecycle(some("a"));
        }
        assert_eq!(frames.after(0), Next::Frame(1, frame("a")));
        frames.lifecycle(some("b"));
        assert_eq!(frames.after(0), Next::Greeting);
        assert_eq!(frames.after(1), Next::Frame(2, frame("a")));
    }

    #[tokio::test]
    async fn behind_the_end_there_is_nothing() {
        let mut frames = Frames::default();
        frames.tick(some("a"));
        frames.end();
        frames.lifecycle(some("b"));
        assert_eq!(frames.after(0), Next::Over);
    }

    #[tokio::test]
    async fn when_nobody_listens_any_more_nothing_is_kept() {
        let mut frames = Frames::default();
        frames.tick(some("a"));
        frames.lifecycle(some("b"));
        frames.lifecycle(None);
        assert_eq!((&frames.tick, frames.lifecycle.len()), (&None, 0));
        frames.tick(some("c"));
        assert_eq!(frames.after(2), Next::Frame(3, frame("c")));
        frames.tick(None);
        assert_eq!(frames.tick, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_greeting_is_built_once_until_there_is_something_new() {
        let mut frames = Frames::default();
        assert_eq!(frames.greeting(), None);
        assert_eq!(frames.greet(frame("one")), (0, frame("one")));
        assert_eq!(frames.greeting(), Some((0, frame("one"))));
        frames.lifecycle(some("a"));
        assert_eq!(frames.greeting(), None);
        assert_eq!(frames.greet(frame("two")), (1, frame("two")));
        tokio::time::advance(FRESH).await;
        assert_eq!(frames.greeting(), None, "it is too old");
    }
}
