//! The two notices that every part of an app can wait for.

use tokio_util::sync::CancellationToken;

/// A notice that fires once and stays fired: the drain has begun, or it is time to stop.
///
/// Cloning is cheap, and every clone sees the same notice. Only payload fires it.
#[derive(Clone, Debug)]
pub struct Token(CancellationToken);

impl Token {
    pub(crate) fn new(inner: CancellationToken) -> Self {
        Self(inner)
    }

    /// Resolves when the notice has fired, at once if it already has. Borrows nothing, so that it can live in a
    /// response's stream; may be dropped and asked for again at will.
    pub fn fired(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.clone().cancelled_owned()
    }

    /// Whether the notice has fired.
    pub fn is_fired(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// The ends of an app's two notices that fire them. The worker makes one pair for the context that it gives to
/// `load` and for the app that comes back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens {
    drain: CancellationToken,
    stop: CancellationToken,
}

impl Tokens {
    pub(crate) fn drain(&self) -> Token {
        Token::new(self.drain.clone())
    }

    pub(crate) fn stop(&self) -> Token {
        Token::new(self.stop.clone())
    }

    pub(super) fn fire_drain(&self) {
        self.drain.cancel();
    }

    /// The stop implies the drain.
    pub(super) fn fire_stop(&self) {
        self.drain.cancel();
        self.stop.cancel();
    }
}
