//! Who is at the other end of a connection.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Who sent a request, and on which socket it came. Cloning is one reference count.
///
/// An app that asks for it with [`AppBuilder::with_peer`](crate::AppBuilder::with_peer) finds it among the
/// request's extensions: `request.extensions().get::<payload::Peer>()`, or axum's `Extension<Peer>`.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: Option<SocketAddr>,
    listener: Arc<str>,
}

impl Peer {
    pub(crate) fn new(address: Option<SocketAddr>, listener: Arc<str>) -> Self {
        Self(Arc::new(Inner { address, listener }))
    }

    /// The address of the client, or of the last proxy; `None` on a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.address
    }

    /// The name of the listening socket: what `FileDescriptorName=` says in the socket unit, or `listen`
    /// for one that payload bound itself.
    pub fn listener(&self) -> &str {
        &self.0.listener
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.address {
            Some(address) => write!(f, "{address}"),
            None => f.write_str("unix"),
        }
    }
}
