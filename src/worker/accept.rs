//! Accepting on one shared listening socket.

mod errors;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use socket2::{SockAddr, SockRef};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::either::Either;

use self::errors::{Remedy, Shortage};
use super::handoff::Stream;
use super::room::Place;
use super::server::Shared;
use super::signal::{Order, Watch};
use super::{balance, connection};
use crate::exit::{ExitCode, Failure};
use crate::peer::Peer;
use crate::sockets::{Listener, ListenerAddress};
use crate::sys;
use crate::sys::epoll::Queued;

/// How often a worker looks for a connection although it was told of none: the kernel may have dealt one to a
/// worker that died. Looking does not change the worker's place in the queue: a new place every time would put
/// the workers into the order of their heartbeats, and connections that come more slowly would all go to one.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long a worker that is ahead of the others stands back. Connections that come faster are a burst.
const PAUSE: Duration = Duration::from_millis(1);
/// In a burst, what one wake takes at most before the others have their turn.
const BURST: usize = 16;

/// Starts to accept from `listener`, in a task of its own.
///
/// # Errors
/// Its fd could not be duplicated, or the runtime could not watch it.
pub(super) fn start(listener: &Listener, server: &Arc<Shared>) -> Result<(), Failure> {
    let acceptor = acceptor(listener, server)?;
    server.gate.add();
    server.tasks.spawn_acceptor(acceptor.run());
    Ok(())
}

fn acceptor(listener: &Listener, server: &Arc<Shared>) -> Result<Acceptor, Failure> {
    let place = format!(
        "the listening socket '{}' ({})",
        listener.name, listener.address
    );
    // A duplicate of its own: a registration with an epoll goes by the fd's number.
    let (queued, plain) = listener
        .fd
        .try_clone()
        .and_then(Queued::new)
        .map_err(|error| {
            Failure::new(ExitCode::Os, format!("cannot watch {place}")).because(error)
        })?;
    if let Some(error) = plain {
        tracing::info!(
            listener = listener.name,
            error = %error,
            "connections are not dealt out in turn: each one wakes every worker"
        );
    }
    let tcp = matches!(listener.address, ListenerAddress::Tcp(_));
    Ok(Acceptor {
        // An accepted socket inherits it from the listener: one call now instead of one per connection.
        sets_nodelay: tcp && SockRef::from(&listener.fd).set_tcp_nodelay(true).is_err(),
        tcp,
        queued,
        name: Arc::from(listener.name.as_str()),
        place,
        server: server.clone(),
        shortage: Shortage::new(),
        woken: None,
    })
}

/// One listener in one worker.
///
/// It takes one connection each time it is woken, in a burst a few, and goes to the end of the queue of
/// workers then. While it cannot take any it is not in the queue, so that none is dealt to it.
struct Acceptor {
    queued: Queued,
    name: Arc<str>,
    /// For messages.
    place: String,
    tcp: bool,
    sets_nodelay: bool,
    server: Arc<Shared>,
    shortage: Shortage,
    /// When it was woken last.
    woken: Option<Instant>,
}

enum Wake {
    Connection,
    Heartbeat,
    Hold,
    Drain,
}

/// What came of one accept.
enum Accepted {
    Taken,
    /// Another worker was faster.
    Nothing,
    /// That connection is lost, there may be more.
    Lost,
    /// This process or the machine lacks something that may come back.
    Exhausted,
}

impl Acceptor {
    async fn run(mut self) {
        if let Err(failure) = self.accept_until_drain().await {
            self.server.fail(failure);
        }
    }

    async fn accept_until_drain(&mut self) -> Result<(), Failure> {
        let server = self.server.clone();
        let changed = pin!(server.signal().changed());
        let mut watch = Watch::new(server.signal(), changed);
        let mut heartbeat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match self.wait(&mut watch, &mut heartbeat).await? {
                Wake::Connection | Wake::Heartbeat => self.take().await?,
                Wake::Hold => {
                    if !self.hold(&mut watch).await? {
                        return Ok(());
                    }
                }
                Wake::Drain => {
                    self.leave()?;
                    // One may have been dealt to this worker already, and nobody else was told of it.
                    if self.queued.is_exclusive()
                        && let Some(place) = server.room.take()
                    {
                        self.accept(place)?;
                    }
                    return Ok(());
                }
            }
        }
    }

    async fn wait(
        &self,
        watch: &mut Watch<'_, '_>,
        heartbeat: &mut Interval,
    ) -> Result<Wake, Failure> {
        let exclusive = self.queued.is_exclusive();
        poll_fn(|cx| {
            if watch.poll_order(cx) >= Order::HandOff {
                return Poll::Ready(Ok(Wake::Drain));
            }
            if self.server.gate.is_closed() {
                return Poll::Ready(Ok(Wake::Hold));
            }
            if exclusive && heartbeat.poll_tick(cx).is_ready() {
                return Poll::Ready(Ok(Wake::Heartbeat));
            }
            Poll::Ready(match ready!(self.queued.watcher().poll_read_ready(cx)) {
                Ok(mut ready) => {
                    if exclusive {
                        // Going to the end of the queue reports again whatever is there.
                        ready.clear_ready();
                    }
                    Ok(Wake::Connection)
                }
                Err(error) => Err(self.failure("wait for", error)),
            })
        })
        .await
    }

    /// Takes the connection it was woken for. In a burst more are likely there, and taking them at once
    /// spares each a wake and a change of the queue.
    async fn take(&mut self) -> Result<(), Failure> {
        let burst = self.is_burst();
        let most = if burst { BURST } else { 1 };
        let mut taken = 0;
        while taken < most {
            // When connections come slowly, a pause could only delay them.
            if burst && balance::is_ahead(&self.server.meter) {
                if taken == 0 {
                    return self.pause().await;
                }
                // What it has just taken may be served soon, and then it is not ahead any more.
                break;
            }
            let Some(place) = self.server.room.take() else {
                return self.wait_for_room().await;
            };
            match self.accept(place)? {
                Accepted::Taken | Accepted::Lost => taken += 1,
                Accepted::Nothing => break,
                Accepted::Exhausted => return self.back_off().await,
            }
        }
        if self.server.room.is_full() {
            return self.wait_for_room().await;
        }
        if taken > 0 {
            // The queue's end deals what is next to somebody else, and tells of what is there.
            self.requeue().await?;
        }
        Ok(())
    }

    fn accept(&mut self, place: Place) -> Result<Accepted, Failure> {
        let error = match sys::accept::accept(self.queued.watcher().as_fd()) {
            Ok((socket, address)) => match self.open(socket) {
                Ok(stream) => {
                    if self.shortage.end() {
                        tracing::info!(listener = &*self.name, "accepting again");
                    }
                    self.serve(stream, &address, place);
                    return Ok(Accepted::Taken);
                }
                // The runtime could not watch it.
                Err(error) => {
                    self.complain(&error);
                    return Ok(Accepted::Exhausted);
                }
            },
            Err(error) => error,
        };
        Ok(match errors::remedy(&error) {
            Remedy::Wait => {
                if !self.queued.is_exclusive() {
                    self.forget_readiness();
                }
                Accepted::Nothing
            }
            Remedy::Retry => Accepted::Lost,
            Remedy::Pause => {
                self.complain(&error);
                Accepted::Exhausted
            }
            Remedy::End => return Err(self.failure("accept on", error)),
        })
    }

    fn open(&self, socket: OwnedFd) -> io::Result<Stream> {
        if self.tcp {
            let stream = TcpStream::from_std(socket.into())?;
            if self.sets_nodelay {
                // A peer that is gone already shows with the first read.
                let _ = stream.set_nodelay(true);
            }
            Ok(Either::Left(stream))
        } else {
            UnixStream::from_std(socket.into()).map(Either::Right)
        }
    }

    fn serve(&self, stream: Stream, address: &SockAddr, place: Place) {
        let peer = Peer::new(address.as_socket(), self.name.clone());
        let connection = connection::serve(stream, peer, self.server.clone(), Some(place));
        // Boxed, since a task that is spawned is moved a dozen times.
        self.server.tasks.spawn(Box::pin(connection));
    }

    /// Accepts nothing until the gate is open; `false`: the drain has begun. Then what waits is for whoever has the
    /// listener next: that all hold was said, and may be relied on.
    async fn hold(&mut self, watch: &mut Watch<'_, '_>) -> Result<bool, Failure> {
        self.leave()?;
        let gate = &self.server.gate;
        if gate.hold() {
            let goes_on = poll_fn(|cx| {
                if watch.poll_order(cx) >= Order::HandOff {
                    return Poll::Ready(false);
                }
                if gate.pass() {
                    return Poll::Ready(true);
                }
                Poll::Pending
            });
            if !goes_on.await {
                return Ok(false);
            }
        }
        self.join().await?;
        Ok(true)
    }

    /// Until a connection has ended, or the drain has begun.
    async fn wait_for_room(&mut self) -> Result<(), Failure> {
        self.leave()?;
        tokio::select! {
            () = self.server.room.wait() => {}
            () = self.server.signal().reached(Order::HandOff) => return Ok(()),
        }
        self.join().await
    }

    /// Whether the last wake was a moment ago.
    fn is_burst(&mut self) -> bool {
        let now = Instant::now();
        let last = self.woken.replace(now);
        self.queued.is_exclusive() && last.is_some_and(|last| now - last < PAUSE)
    }

    /// A worker that is ahead lets the others go first.
    async fn pause(&mut self) -> Result<(), Failure> {
        self.leave()?;
        tokio::time::sleep(PAUSE).await;
        self.join().await
    }

    async fn back_off(&mut self) -> Result<(), Failure> {
        self.leave()?;
        if self.rest().await {
            self.join().await?;
        }
        Ok(())
    }

    /// Waits for better times; `false`: the drain has begun.
    async fn rest(&mut self) -> bool {
        tokio::select! {
            () = tokio::time::sleep(self.shortage.next_pause()) => true,
            () = self.server.signal().reached(Order::HandOff) => false,
        }
    }

    /// Goes to the end of the queue.
    async fn requeue(&mut self) -> Result<(), Failure> {
        self.leave()?;
        self.join().await
    }

    fn leave(&mut self) -> Result<(), Failure> {
        let left = self.queued.leave();
        left.map_err(|error| self.failure("leave the queue of", error))
    }

    /// Until there is memory for the registration, or the drain has begun. Meanwhile no connection is dealt
    /// to this worker, and those that it has are served.
    async fn join(&mut self) -> Result<(), Failure> {
        while let Err(error) = self.queued.join() {
            if errors::remedy_of_queue(&error) == Remedy::End {
                return Err(self.failure("queue for", error));
            }
            self.complain(&error);
            if !self.rest().await {
                break;
            }
        }
        Ok(())
    }

    fn forget_readiness(&self) {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        if let Poll::Ready(Ok(mut ready)) = self.queued.watcher().poll_read_ready(&mut cx) {
            ready.clear_ready();
        }
    }

    fn complain(&mut self, error: &io::Error) {
        if self.shortage.is_news(Instant::now()) {
            tracing::warn!(
                listener = &*self.name,
                error = %error,
                connections = self.server.room.taken(),
                cure = errors::cure(error),
                "cannot accept: trying again soon"
            );
        }
    }

    fn failure(&self, act: &str, error: io::Error) -> Failure {
        Failure::new(ExitCode::Os, format!("cannot {act} {}", self.place)).because(error)
    }
}
