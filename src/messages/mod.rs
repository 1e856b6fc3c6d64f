//! Messages between the workers of a service: what is published in one reaches the subscribers in all of them.
//!
//! What a subscriber has still to take is kept here, in the [`hub`] of its worker. How a message comes to the other
//! workers is not known here, see [`Carry`].

mod hub;
pub(crate) mod packet;
mod ring;
mod tally;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use tokio::sync::futures::OwnedNotified;
use tokio::task::coop::poll_proceed;

pub(crate) use self::hub::Hub;
use self::hub::Topic;
pub(crate) use self::tally::Tally;

/// Publishes to all workers of the service, and subscribes to what they publish.
///
/// For what clients of every worker are to see although it happens in one: an event, a chat, a fresh sample. Made
/// by [`Context::messages`](crate::Context::messages), and by the same method of the contexts of steps and payloads.
/// Cloning is one reference count.
///
/// What holds:
///
/// - A message reaches every subscriber of its topic in every worker, also in the publisher's own; and while a
///   reload runs, in the old and in the new ones. Nothing that is published misses a worker from the moment on at which
///   that is forked. Where another one has not heard of it yet, has no file descriptor left for it, or does not listen,
///   what that publishes comes later, and of more than is kept the new one's subscribers hear [`Lagged`].
/// - What one worker publishes arrives in that order, nothing twice.
/// - Nobody waits for anybody. A subscriber that does not keep up loses the oldest of what it has not taken, and
///   hears [`Lagged`]. A worker that does not keep up, since it is blocked or frozen, costs its own subscribers
///   messages, and they hear of it as well, also when the publisher is gone by then. One that leaves tells how many
///   messages of which topics are still lost half a second after its teardown. One that is killed cannot tell: the
///   subscribers of each worker to which something was still to be sent hear that at least one message is lost, on all
///   their topics.
/// - Nothing is kept: who subscribes later does not get what was before.
///
/// A topic is any text of 1 to [255](Self::MOST_TOPIC) bytes; a message has up to [64 KiB](Self::MOST_BYTES). It goes
/// through memory only, and no other service hears it.
///
/// ```
/// # async fn run(context: payload::Context) -> payload::Result<()> {
/// let messages = context.messages();
/// let mut news = messages.subscribe("news");
/// messages.publish("news", "it rains")?;
/// let message = news.recv().await?;
/// assert_eq!(message.bytes(), "it rains");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Messages(Arc<Parts>);

struct Parts {
    worker: u64,
    hub: Arc<Hub>,
    /// `None`: there are no other workers.
    others: Option<Arc<dyn Carry>>,
}

/// Brings messages to the other workers.
pub(crate) trait Carry: Send + Sync {
    /// Sends, or keeps for later, or gives up and tells the receivers. Returns at once in any case.
    fn carry(&self, topic: &str, bytes: &Bytes);
}

/// What a subscriber gets. Cloning it is two reference counts.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    topic: Arc<str>,
    bytes: Bytes,
    worker: u64,
}

/// The messages of one topic from the moment on at which this was made, until it is dropped.
///
/// It keeps up to 1,024 messages and 4 MiB of them for its owner to take; those of one topic are kept once for
/// all of a worker's subscriptions.
///
/// It is a [`Stream`] of what [`recv`](Self::recv) returns, and never ends by itself. Server-sent events, by axum and the
/// `StreamExt` of futures-util, which end when the worker drains:
///
/// ```
/// use std::convert::Infallible;
///
/// use axum::response::sse::{Event, Sse};
/// use axum::{Router, routing::get};
/// use futures_util::StreamExt; // of `futures-util`
/// use payload::{App, Context, Lagged, Message};
///
/// fn event(next: Result<Message, Lagged>) -> Result<Event, Infallible> {
///     Ok(match next {
///         Ok(message) => Event::default().data(String::from_utf8_lossy(message.bytes())),
///         Err(lagged) => Event::default().event("missed").data(lagged.missed().to_string()),
///     })
/// }
///
/// async fn load(context: Context) -> payload::Result<App> {
///     let (messages, drain) = (context.messages(), context.drain_token());
///     let news = async move || {
///         let news = messages.subscribe("news").map(event);
///         Sse::new(news.take_until(drain.fired()))
///     };
///     Ok(App::builder().build(Router::new().route("/news", get(news))))
/// }
/// ```
///
/// The stream ends with the drain, and what it has not sent by then is not sent any more: the client connects again, to
/// another worker. One that must miss nothing says by a number (`Last-Event-ID`) where it was.
#[must_use = "messages are only kept for a subscription that is there"]
pub struct Subscription {
    hub: Arc<Hub>,
    topic: Arc<Topic>,
    /// The number of the message to take next.
    next: u64,
    /// What the last poll waits for.
    news: Option<Pin<Box<OwnedNotified>>>,
}

/// A subscriber, or its whole worker, has not kept up, and messages of its topic are lost; or their publisher was killed
/// before it had sent them. They were published between the last one that it has taken and the next one that it will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} messages were missed: their subscriber or its worker did not keep up, or who published them was killed"
)]
pub struct Lagged(u64);

/// A message that is not sent to anybody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The topic is the empty text.
    #[error("a message needs a topic, and this one's is empty")]
    EmptyTopic,
    /// The topic is too long.
    #[error("a topic has at most {most} bytes, and this one has {length}")]
    LongTopic {
        /// Its bytes.
        length: usize,
        /// How many it may have.
        most: usize,
    },
    /// There is too much in it.
    #[error(
        "a message has at most {most} bytes, and this one on '{topic}' has {length}: publish where to find it instead"
    )]
    TooLarge {
        /// Its topic.
        topic: String,
        /// Its bytes.
        length: usize,
        /// How many it may have.
        most: usize,
    },
}

impl Messages {
    /// So many bytes one message has at most: 64 KiB.
    pub const MOST_BYTES: usize = 64 * 1024;
    /// So many bytes a topic has at most.
    pub const MOST_TOPIC: usize = 255;

    /// Of a worker without others.
    pub(crate) fn alone(worker: u64) -> Self {
        Self(Arc::new(Parts {
            worker,
            hub: Arc::default(),
            others: None,
        }))
    }

    /// Of another worker in the same process, without others.
    pub(crate) fn beside(&self, worker: u64) -> Self {
        Self(Arc::new(Parts {
            worker,
            hub: Arc::clone(&self.0.hub),
            others: None,
        }))
    }

    /// Of one among others.
    pub(crate) fn carried(worker: u64, hub: Arc<Hub>, others: Arc<dyn Carry>) -> Self {
        Self(Arc::new(Parts {
            worker,
            hub,
            others: Some(others),
        }))
    }

    /// Sends a message to all who have subscribed to this topic, in all workers. Never waits, and needs no runtime.
    ///
    /// Subscribers in this worker run only when this task lets them: who publishes more than 1,024 messages of a topic
    /// without an await makes them lag.
    ///
    /// # Errors
    /// The topic or the message has the wrong size; nobody gets it.
    pub fn publish(&self, topic: &str, bytes: impl Into<Bytes>) -> Result<(), PublishError> {
        let bytes = bytes.into();
        check(topic, bytes.len())?;
        if let Some(others) = &self.0.others {
            others.carry(topic, &bytes);
        }
        // A copy: what the author gives may be a few bytes of a large buffer, which would stay as long as they do.
        let copy = || Bytes::copy_from_slice(&bytes);
        self.0.hub.deliver(self.0.worker, topic, copy);
        Ok(())
    }

    /// Begins to keep the messages of this topic. Nobody ever publishes on a topic of a wrong size.
    pub fn subscribe(&self, topic: &str) -> Subscription {
        let (topic, next) = self.0.hub.join(topic);
        Subscription {
            hub: Arc::clone(&self.0.hub),
            topic,
            next,
            news: None,
        }
    }
}

impl Subscription {
    /// The next message. Waits until there is one, for ever if need be.
    ///
    /// Cancel-safe: a call that is dropped before it has returned, by a `select!` or a timeout, has taken nothing. What
    /// came meanwhile is there for the next call.
    ///
    /// # Errors
    /// Messages were missed at this place. It goes on with the next call.
    pub async fn recv(&mut self) -> Result<Message, Lagged> {
        poll_fn(|task| self.poll_recv(task)).await
    }

    /// The next message if it is there.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Option<Result<Message, Lagged>> {
        self.topic.take(&mut self.next)
    }

    /// Wakes the task of the last call.
    fn poll_recv(&mut self, task: &mut task::Context<'_>) -> Poll<Result<Message, Lagged>> {
        // In a flood the other tasks get their turn.
        let budget = ready!(poll_proceed(task));
        loop {
            // It hears whatever comes from here on.
            let news = self.news.get_or_insert_with(|| Box::pin(self.topic.news()));
            if let Some(next) = self.topic.take(&mut self.next) {
                budget.made_progress();
                return Poll::Ready(next);
            }
            ready!(news.as_mut().poll(task));
            self.news = None;
        }
    }

    /// Its topic.
    pub fn topic(&self) -> &str {
        self.topic.name()
    }
}

impl Stream for Subscription {
    type Item = Result<Message, Lagged>;

    fn poll_next(
        self: Pin<&mut Self>,
        task: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Message, Lagged>>> {
        self.get_mut().poll_recv(task).map(Some)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::MAX, None)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.leave(&self.topic, self.next);
    }
}

impl Message {
    /// What it was published on.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// What was published.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The number of the worker that has published it, as in [`Context::worker`](crate::Context::worker).
    pub fn worker(&self) -> u64 {
        self.worker
    }
}

impl Lagged {
    /// How many messages of the topic were missed, at least.
    pub fn missed(&self) -> u64 {
        self.0
    }
}

fn check(topic: &str, length: usize) -> Result<(), PublishError> {
    if topic.is_empty() {
        return Err(PublishError::EmptyTopic);
    }
    if topic.len() > Messages::MOST_TOPIC {
        return Err(PublishError::LongTopic {
            length: topic.len(),
            most: Messages::MOST_TOPIC,
        });
    }
    if length > Messages::MOST_BYTES {
        return Err(PublishError::TooLarge {
            topic: topic.to_owned(),
            length,
            most: Messages::MOST_BYTES,
        });
    }
    Ok(())
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages")
            .field("worker", &self.0.worker)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.topic())
            .finish_non_exhaustive()
    }
}

/// Without the content, which may be long or a secret.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("bytes", &self.bytes.len())
            .field("worker", &self.worker)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::time::Duration;
    use tokio::time::timeout;

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(10), future).await.unwrap()
    }

    #[tokio::test]
    async fn every_subscriber_of_the_topic_gets_it_and_no_other() {
        let messages = Messages::alone(7);
        let mut first = messages.subscribe("a");
        let mut second = messages.clone().subscribe("a");
        let mut other = messages.subscribe("b");
        messages.publish("a", "one").unwrap();
        messages.publish("b", vec![2]).unwrap();
        for subscription in [&mut first, &mut second] {
            let message = soon(subscription.recv()).await.unwrap();
            assert_eq!(
                (message.topic(), &message.bytes()[..], message.worker()),
                ("a", &b"one"[..], 7)
            );
        }
        assert_eq!(soon(other.recv()).await.unwrap().bytes(), &[2][..]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken_and_who_comes_later_gets_nothing_old() {
        let messages = Messages::alone(1);
        messages.publish("a", "before").unwrap();
        let mut subscription = messages.subscribe("a");
        let waiting = tokio::spawn(async move { subscription.recv().await });
        tokio::task::yield_now().await;
        messages.publish("a", "after").unwrap();
        assert_eq!(soon(waiting).await.unwrap().unwrap().bytes(), "after");
    }

    #[tokio::test(start_paused = true)]
    async fn a_recv_that_is_given_up_loses_nothing() {
        let messages = Messages::alone(1);
        let mut subscription = messages.subscribe("a");
        for _ in 0..3 {
            let given_up = timeout(Duration::from_secs(1), subscription.recv()).await;
            assert!(given_up.is_err());
        }
        messages.publish("a", "one").unwrap();
        drop(subscription.recv());
        assert_eq!(soon(subscription.recv()).await.unwrap().bytes(), "one");
    }

    #[tokio::test]
    async fn one_can_look_without_waiting_and_be_woken_by_the_next_one() {
        let messages = Messages::alone(1);
        let mut subscription = messages.subscribe("a");
        assert_eq!(subscription.try_recv(), None);
        let (waker, woken) = counting_waker();
        let mut task = task::Context::from_waker(&waker);
        for round in ["one", "two"] {
            assert!(subscription.poll_recv(&mut task).is_pending());
            let before = woken.count();
            messages.publish("a", round).unwrap();
            assert!(woken.count() > before, "{round}");
            let Poll::Ready(Ok(message)) = subscription.poll_recv(&mut task) else {
                panic!("{round} is not there");
            };
            assert_eq!(message.bytes(), round);
        }
        messages.publish("a", "three").unwrap();
        let three = subscription.try_recv().unwrap().unwrap();
        assert_eq!(three.bytes(), "three");
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Woken {
        fn count(&self) -> usize {
            self.0.load(Relaxed)
        }
    }

    impl task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn counting_waker() -> (task::Waker, Arc<Woken>) {
        let woken = Arc::new(Woken::default());
        (Arc::clone(&woken).into(), woken)
    }

    /// What a subscriber has still to take is as large as it says, whatever it was cut out of.
    #[test]
    fn a_message_keeps_no_more_than_its_own_bytes() {
        struct Buffer {
            _alive: Arc<()>,
        }
        impl AsRef<[u8]> for Buffer {
            fn as_ref(&self) -> &[u8] {
                &[7; 4096]
            }
        }
        let messages = Messages::alone(1);
        let mut subscription = messages.subscribe("a");
        let alive = Arc::new(());
        let buffer = Bytes::from_owner(Buffer {
            _alive: Arc::clone(&alive),
        });
        messages.publish("a", buffer.slice(..3)).unwrap();
        drop(buffer);
        assert_eq!(Arc::strong_count(&alive), 1, "the buffer is gone");
        let message = subscription.try_recv().unwrap().unwrap();
        assert_eq!(message.bytes(), &[7; 3][..]);
    }

    #[test]
    fn what_has_the_wrong_size_is_refused_with_the_numbers() {
        let messages = Messages::alone(1);
        assert_eq!(messages.publish("", "x"), Err(PublishError::EmptyTopic));
        let error = messages.publish(&"t".repeat(256), "x").unwrap_err();
        assert_eq!(
            error.to_string(),
            "a topic has at most 255 bytes, and this one has 256"
        );
        let error = messages.publish("a", vec![0; 65_537]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a message has at most 65536 bytes, and this one on 'a' has 65537: publish where to find it instead"
        );
        messages.publish(&"t".repeat(255), vec![0; 65_536]).unwrap();
    }
}
