//! One connection's way out of this worker, and maybe back.

use std::os::fd::AsFd;

use bytes::Bytes;

use super::heir::Verdict;
use super::socket::Socket;
use crate::ipc::orders::ARBITER;
use crate::ipc::parcel::Parcel;
use crate::worker::server::Shared;
use crate::worker::signal::Order;

/// Where a connection is that was to be given away.
pub(in crate::worker) enum Given<S> {
    /// With another worker, or closed.
    Gone,
    /// Nobody took it: it is to be served here, these bytes first.
    Back {
        socket: S,
        unread: Bytes,
        /// The arbiter has refused it, so nobody ever will.
        for_good: bool,
    },
}

/// Offers a connection to one heir after the other, and takes it back when nobody wants it.
pub(in crate::worker) async fn give<S: Socket>(
    server: &Shared,
    socket: S,
    mut parcel: Parcel,
) -> Given<S> {
    let fd = match socket.detach() {
        Ok(fd) => fd,
        Err(error) => {
            tracing::warn!(error = %error, "a connection was lost on its way out of the runtime");
            return Given::Gone;
        }
    };
    let (mut tried, mut for_good) = (Vec::new(), false);
    while let Some(offer) = server.handoff.choose(server, &tried) {
        let to = offer.to();
        tried.push(to);
        let verdict = tokio::select! {
            biased;
            verdict = offer.make(&mut parcel, fd.as_fd()) => verdict,
            () = server.signal().reached(Order::Cancel) => return Given::Gone,
        };
        if verdict == Verdict::Taken {
            server.handoff.was_given();
            server.meter.connection_given();
            return Given::Gone;
        }
        for_good |= to == ARBITER;
    }
    server.handoff.was_taken_back();
    match S::attach(fd) {
        Ok(socket) => Given::Back {
            socket,
            unread: parcel.unread,
            for_good,
        },
        Err(error) => {
            tracing::warn!(error = %error, "a connection was lost that nobody took");
            Given::Gone
        }
    }
}
