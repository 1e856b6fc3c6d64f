//! One connection, from the accept to the close.
//!
//! ```text
//! socket ─ Io (sniff, batch) ── hyper ─ Calls ─ the author's service
//!            └──────── State ─────┴───────┘
//!                        │
//!                     driver: polls hyper, then the batch, then the order, then the clock
//! ```
//!
//! After an upgrade there is no hyper, and the socket is the author's until he drops it or the server takes it away:
//!
//! ```text
//! socket ─ Io ─ Tunnel ─ Upgraded ─ the author's task
//! ```

mod clock;
mod end;
mod events;
mod exchange;
mod frames;
mod http1;
mod http2;
mod incoming;
mod io;
mod sniff;
mod state;
#[cfg(test)]
mod tests;
mod tunnel;
mod upgrade;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;

use self::clock::Clock;
use self::end::{finish, linger, write_out};
use self::http1::Left;
use self::io::Io;
use self::state::State;
use self::upgrade::Upgrade;
use super::handoff::{Given, Socket, give};
use super::room::Place;
use super::server::Shared;
use super::signal::{Order, Watch};
use crate::ipc::parcel::Parcel;
use crate::peer::Peer;

/// Serves one connection to its end, or until another worker has taken it, and gives its place back then. It
/// counts as open from the call on. Dropping the future closes the socket and cancels its handlers.
pub(super) fn serve<S: Socket>(
    socket: S,
    peer: Peer,
    server: Arc<Shared>,
    place: Option<Place>,
) -> impl Future<Output = ()> + Send + use<S> {
    server.meter.connection_opened();
    run(
        Open {
            server,
            _place: place,
        },
        socket,
        peer,
        None,
    )
}

/// The same for a connection that comes from another worker.
pub(super) fn resume<S: Socket>(
    socket: S,
    peer: Peer,
    parcel: Parcel,
    server: Arc<Shared>,
) -> impl Future<Output = ()> + Send + use<S> {
    let place = Some(server.room.take_or_owe());
    server.meter.connection_received();
    let before = Before {
        requests: parcel.requests,
        unread: parcel.unread,
        http1: parcel.http1,
    };
    run(
        Open {
            server,
            _place: place,
        },
        socket,
        peer,
        Some(before),
    )
}

/// What another worker knows of a connection.
struct Before {
    requests: u64,
    unread: Bytes,
    http1: bool,
}

async fn run<S: Socket>(open: Open, socket: S, peer: Peer, before: Option<Before>) {
    let server = &open.server;
    let earlier = before.as_ref().map_or(0, |before| before.requests);
    let state = Arc::new(State::new(server.clone(), peer, earlier));
    let sleep = pin!(tokio::time::sleep_until(server.started));
    let mut clock = Clock::new(sleep);
    let changed = pin!(server.signal().changed());
    let mut watch = Watch::new(server.signal(), changed);

    let mut io = match before {
        None => Io::new(socket, state.clone()),
        Some(before) => Io::resume(socket, state.clone(), before.unread, before.http1),
    };
    loop {
        match http1::serve(io, &state, &mut clock, &mut watch).await {
            Left::Ended(io) => return finish(io, server, &mut clock, &mut watch).await,
            Left::Upgraded(io, read, upgrade) => {
                let author = leave_http(io, read, upgrade, &state, &mut clock, &mut watch);
                return Box::pin(author).await;
            }
            Left::Http2(io) => {
                let over = Box::pin(http2::serve(io, &state, &mut clock, &mut watch)).await;
                if let Some(io) = over {
                    linger(io, server, &mut clock, &mut watch).await;
                }
                return;
            }
            Left::Leaving(leaving, read) => match Box::pin(hand_on(leaving, read, &state)).await {
                Some(back) => io = back,
                None => return,
            },
            Left::Nothing => return,
        }
    }
}

/// Gives the connection to another worker. It comes back when nobody wants it.
async fn hand_on<S: Socket>(io: Io<S>, read: Bytes, state: &Arc<State>) -> Option<Io<S>> {
    let server = &state.server;
    let epoch = server.handoff.epoch();
    let leaves = server.signal().order() >= Order::HandOff;
    let (socket, unread, http1) = io.into_parts(read);
    let parcel = Parcel {
        id: 0,
        listener: state.peer.listener().to_owned(),
        peer: state.peer.address(),
        http1,
        requests: state.all_requests(),
        unread,
    };
    match give(server, socket, parcel).await {
        Given::Gone => None,
        Given::Back {
            socket,
            unread,
            for_good,
        } => {
            if for_good {
                state.is_refused();
            } else if leaves {
                state.is_unwanted(epoch);
            }
            Some(Io::resume(socket, state.clone(), unread, http1))
        }
    }
}

/// Writes the response after which the connection is the author's, and waits until it is not any more.
async fn leave_http<S: Socket>(
    mut io: Io<S>,
    read: Bytes,
    upgrade: Box<Upgrade>,
    state: &State,
    clock: &mut Clock<'_>,
    watch: &mut Watch<'_, '_>,
) {
    let server = &state.server;
    if !write_out(&mut io, server, clock, watch).await {
        return;
    }
    tracing::debug!(peer = %state.peer, "a connection has left HTTP");
    let tunnel = upgrade.accept(io.into_tunnel(read));
    let io = poll_fn(|cx| {
        if watch.poll_order(cx) != Order::Cancel {
            return tunnel.poll_dropped(cx);
        }
        match tunnel.poll_end(cx) {
            // What the author does not complete cannot be closed properly.
            Poll::Pending if clock.passed(server.farewell(), cx) => Poll::Ready(None),
            polled => polled,
        }
    });
    let Some(mut io) = io.await else { return };
    if server.signal().order() != Order::Cancel {
        return finish(io, server, clock, watch).await;
    }
    // The client may be sending right now, and must be able to read the close frame all the same.
    if write_out(&mut io, server, clock, watch).await {
        linger(io, server, clock, watch).await;
    }
}

/// Counts the connection, and keeps its place, for as long as its task lives.
struct Open {
    server: Arc<Shared>,
    _place: Option<Place>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.server.meter.connection_closed();
    }
}
