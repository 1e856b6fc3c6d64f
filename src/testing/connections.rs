//! Connections to an app in a test: pipes in memory, to the server that a worker has.

use std::sync::{Arc, OnceLock};

use tokio::io::{DuplexStream, duplex};
use tokio::time::{Instant, timeout_at};

use crate::app::service::Service;
use crate::config::{self, Flags, Http, Snapshot};
use crate::exit::BoxError;
use crate::ipc::scoreboard::{self, Meter};
use crate::peer::Peer;
use crate::worker::Server;

/// What lies between two ends that nobody reads, in each direction.
const BUFFER: usize = 64 * 1024;

/// There is no server before there is a connection.
#[derive(Default)]
pub(super) struct Connections(OnceLock<Server>);

impl Connections {
    /// The client's end of a new one.
    ///
    /// # Errors
    /// No memory for what the server counts.
    pub(super) fn open(&self, service: &Service, peer: Peer) -> Result<DuplexStream, BoxError> {
        let server = match self.0.get() {
            Some(server) => server,
            None => {
                let server = server(service.clone())?;
                self.0.get_or_init(|| server)
            }
        };
        let (client, socket) = duplex(BUFFER);
        server.attach(socket, peer);
        Ok(client)
    }

    pub(super) fn exist(&self) -> bool {
        self.0.get().is_some_and(|server| server.connections() > 0)
    }

    /// Idle ones are closed, each other one behind its response: no other process could take a pipe over.
    pub(super) fn drain(&self) {
        if let Some(server) = self.0.get() {
            server.close();
        }
    }

    /// Waits for their end; at the deadline they are cut off as a worker does it.
    pub(super) async fn end(mut self, deadline: Option<Instant>) {
        let Some(server) = self.0.take() else { return };
        let over = server.drain();
        let cut = match deadline {
            None => {
                over.await;
                return;
            }
            Some(deadline) => timeout_at(deadline, over).await.is_err(),
        };
        if cut {
            server.cancel(Server::PATIENCE).await;
        }
    }
}

/// With the app it serves.
impl Drop for Connections {
    fn drop(&mut self) {
        if let Some(server) = self.0.get() {
            server.cut_off();
        }
    }
}

fn server(service: Service) -> Result<Server, BoxError> {
    let meter = Meter::new(scoreboard::create()?, 0);
    Ok(Server::new(Arc::new([]), service, limits()?, meter, None))
}

/// Those of a service that configures nothing.
fn limits() -> Result<Http, BoxError> {
    let nothing = Snapshot::default();
    let loaded = config::load_again("test", &Flags::default(), std::iter::empty(), &nothing)?;
    Ok(loaded.config.http)
}
