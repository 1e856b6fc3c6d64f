//! What the benchmarks need from inside the crate. Not part of the interface, and may change any time.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;

use crate::app::service::Service;
use crate::body::Body;
use crate::config::Http;
use crate::exit::{BoxError, Failure};
use crate::ipc::scoreboard::{Meter, create};
use crate::sockets::{Listener, ListenerAddress, Origin};
use crate::worker::server::Server;

/// A worker's HTTP server, without arbiter and app.
pub struct Bench(Server);

impl Bench {
    /// Serves `listener`, which must be non-blocking, in the runtime this is called in.
    ///
    /// # Errors
    /// The scoreboard could not be made, or the listener not be watched.
    pub fn serve<S, B>(listener: TcpListener, service: S) -> Result<Self, BoxError>
    where
        S: tower_service::Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let address = ListenerAddress::Tcp(listener.local_addr()?);
        let listener = Listener {
            fd: listener.into(),
            name: "bench".into(),
            address,
            origin: Origin::Passed,
        };
        let http = Http {
            header_read_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            max_head_size: 64 * 1024,
            max_headers: 100,
            max_connections: 100_000,
            max_streams: 200,
        };
        let meter = Meter::new(create()?, 0);
        let server = Server::new(Arc::from([listener]), Service::new(service), http, meter, None);
        server.serve()?;
        Ok(Self(server))
    }

    /// As the worker does it.
    pub async fn drain(&self) {
        self.0.drain().await;
    }

    /// Resolves when accepting has failed for good.
    pub async fn fatal(&self) -> Failure {
        self.0.fatal().await
    }
}
