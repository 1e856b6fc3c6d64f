//! The way in: the receiver's end of a link.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::socket::{Socket, Stream};
use crate::exit::chain;
use crate::ipc::parcel::{Answer, Incoming, Link, Parcel};
use crate::peer::Peer;
use crate::sys::readiness::Readiness;
use crate::worker::connection;
use crate::worker::server::Shared;
use crate::worker::signal::Order;

/// So many are taken before the runtime's other tasks have a turn.
const TURN: u32 = 16;

/// Takes connections until the sender is gone, or until this worker leaves as well.
pub(super) struct Intake {
    /// The sender's number.
    from: u64,
    link: Link<Readiness>,
    server: Arc<Shared>,
}

impl Intake {
    /// Must be called inside a runtime.
    ///
    /// # Errors
    /// The runtime cannot watch the link.
    pub(super) fn new(from: u64, link: OwnedFd, server: Arc<Shared>) -> io::Result<Self> {
        Ok(Self {
            from,
            link: Link::over(Readiness::of_both(link)?),
            server,
        })
    }

    pub(super) async fn run(self) {
        if let Err(error) = self.take_all().await {
            // Closing tells the sender that it keeps what it has no answer to.
            tracing::warn!(
                from = self.from,
                error = chain(&error),
                "a link between workers is given up"
            );
        }
    }

    async fn take_all(&self) -> io::Result<()> {
        let mut taken = 0;
        loop {
            let mut ready = self.link.channel().readable().await?;
            match self.link.receive()? {
                // The end of the link says so of all that was sent: who refused each would be offered it again.
                Incoming::Parcel(..) | Incoming::Unusable { .. } if self.leaves() => return Ok(()),
                Incoming::Parcel(parcel, socket) => self.take(parcel, socket).await?,
                Incoming::Unusable { id, reason } => self.refuse(id, reason).await?,
                Incoming::Empty => ready.clear_ready(),
                Incoming::Closed => return Ok(()),
            }
            taken += 1;
            if taken % TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn take(&self, parcel: Parcel, socket: OwnedFd) -> io::Result<()> {
        let id = parcel.id;
        let stream = match Stream::attach(socket) {
            Ok(stream) => stream,
            Err(error) => return self.refuse(id, &error.to_string()).await,
        };
        tracing::debug!(
            from = self.from,
            requests = parcel.requests,
            unread = parcel.unread.len(),
            "a connection was taken over"
        );
        // Counted from here on; it reads nothing before it is a task.
        let peer = Peer::new(parcel.peer, parcel.listener.as_str().into());
        let connection = connection::resume(stream, peer, parcel, self.server.clone());
        self.answer(&Answer::Taken { id }).await?;
        self.server.tasks.spawn(Box::pin(connection));
        Ok(())
    }

    fn leaves(&self) -> bool {
        self.server.signal().order() >= Order::HandOff
    }

    async fn refuse(&self, id: u64, reason: &str) -> io::Result<()> {
        let reason = reason.to_owned();
        self.answer(&Answer::Refused { id, reason }).await
    }

    /// A sender that is gone needs no answer.
    async fn answer(&self, answer: &Answer) -> io::Result<()> {
        loop {
            let mut ready = self.link.channel().writable().await?;
            match self.link.answer(answer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                other => return other,
            }
        }
    }
}
