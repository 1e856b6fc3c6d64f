//! The notices that every part of an app can wait for: what it is given, and the ends that fire them.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A notice that fires once and stays fired: the drain has begun, or it is time to stop.
///
/// Cloning is cheap, and every clone sees the same notice. Only payload fires it.
#[derive(Clone, Debug, Default)]
pub struct Token {
    fired: CancellationToken,
    until: Until,
}

impl Token {
    /// Resolves when the notice has fired, at once if it already has. Borrows nothing, so that it can live in a
    /// response's stream; may be dropped and asked for again at will.
    pub fn fired(&self) -> impl Future<Output = ()> + Send + use<> {
        self.fired.clone().cancelled_owned()
    }

    /// Whether the notice has fired.
    pub fn is_fired(&self) -> bool {
        self.fired.is_cancelled()
    }

    /// When payload's patience ends with what heard this notice, and it is cut off; for `tokio::time::timeout_at`.
    /// It can still be moved to an earlier time, since an operator may hurry the service, and never to a later one.
    ///
    /// `None` as long as the notice has not fired, and where the limit is "unlimited".
    ///
    /// ```
    /// # async fn flush() {}
    /// async fn say_goodbye(drain: payload::Token) {
    ///     drain.fired().await;
    ///     let Some(deadline) = drain.deadline() else {
    ///         return flush().await; // it may take as long as it takes
    ///     };
    ///     if tokio::time::timeout_at(deadline, flush()).await.is_err() {
    ///         tracing::warn!("not everything was flushed");
    ///     }
    /// }
    /// ```
    pub fn deadline(&self) -> Option<Instant> {
        self.is_fired().then(|| self.until.at()).flatten()
    }
}

/// The end of a [`Token`] that fires it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notice(Token);

impl Notice {
    pub(crate) fn token(&self) -> Token {
        self.0.clone()
    }

    /// One that fires with this one, or by itself.
    pub(super) fn child(&self) -> Self {
        Self(Token {
            fired: self.0.fired.child_token(),
            until: Until::below(&self.0.until),
        })
    }

    /// Of several deadlines the earliest counts, also where it comes later than the notice; `None` is none.
    pub(super) fn fire(&self, deadline: Option<Instant>) {
        // First: who hears the notice asks for it.
        self.0.until.limit(deadline);
        self.0.fired.cancel();
    }

    pub(super) fn is_fired(&self) -> bool {
        self.0.is_fired()
    }

    pub(super) async fn fired(&self) {
        self.0.fired.cancelled().await;
    }
}

/// The ends of an app's two notices. The worker makes one pair for the context that it gives to `load` and for the
/// app that comes back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens {
    drain: Notice,
    stop: Notice,
}

impl Tokens {
    pub(crate) fn drain(&self) -> Token {
        self.drain.token()
    }

    pub(crate) fn stop(&self) -> Token {
        self.stop.token()
    }

    pub(super) fn fire_drain(&self, deadline: Option<Instant>) {
        self.drain.fire(deadline);
    }

    /// The stop implies the drain, and nothing that heard of that may take longer.
    pub(super) fn fire_stop(&self, deadline: Option<Instant>) {
        self.drain.fire(deadline);
        self.stop.fire(deadline);
    }
}

/// A deadline that only ever gets earlier.
#[derive(Clone, Debug, Default)]
struct Until(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    at: Mutex<Option<Instant>>,
    /// Counts as well.
    above: Option<Until>,
}

impl Until {
    fn below(above: &Self) -> Self {
        Self(Arc::new(Shared {
            at: Mutex::default(),
            above: Some(above.clone()),
        }))
    }

    fn limit(&self, deadline: Option<Instant>) {
        let mut at = self.0.at.lock().unwrap_or_else(PoisonError::into_inner);
        *at = earlier(*at, deadline);
    }

    fn at(&self) -> Option<Instant> {
        let own = *self.0.at.lock().unwrap_or_else(PoisonError::into_inner);
        earlier(own, self.0.above.as_ref().and_then(Self::at))
    }
}

/// `None` is unlimited.
pub(crate) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (limit, None) | (None, limit) => limit,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_deadline_is_known_with_the_notice_and_only_gets_earlier() {
        let now = Instant::now();
        let at = |seconds| Some(now + Duration::from_secs(seconds));
        let notice = Notice::default();
        let token = notice.token();
        assert_eq!(token.deadline(), None);
        notice.fire(at(5));
        assert_eq!(token.deadline(), at(5));
        notice.fire(at(7));
        notice.fire(None);
        assert_eq!(token.deadline(), at(5));
        notice.fire(at(3));
        assert_eq!(token.deadline(), at(3));
    }

    #[test]
    fn a_child_fires_with_its_parent_and_has_the_earlier_deadline() {
        let now = Instant::now();
        let at = |seconds| Some(now + Duration::from_secs(seconds));
        let parent = Notice::default();
        let (child, other) = (parent.child(), parent.child());
        child.fire(at(5));
        assert!(!parent.is_fired() && !other.is_fired());
        assert_eq!(other.token().deadline(), None);
        parent.fire(at(2));
        assert_eq!(child.token().deadline(), at(2));
        assert_eq!(other.token().deadline(), at(2));
    }
}
