//! An HTTP/2 client with prior knowledge.

use std::future::Future;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::DEADLINE;

pub(crate) struct Client {
    sender: SendRequest<Empty<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

/// Runs a test's asynchronous part, which has several steps, with a deadline.
#[track_caller]
pub(crate) fn run<T>(part: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime
        .block_on(async { tokio::time::timeout(2 * DEADLINE, part).await })
        .expect("in time")
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("the preface");
        Self {
            sender,
            connection: tokio::spawn(connection),
        }
    }

    /// One request; the future does not borrow the client, so that several can run.
    pub(crate) fn get(&mut self, path: &str) -> impl Future<Output = Response> + Send + use<> {
        let response = self.try_get(path);
        async move { response.await.expect("a response") }
    }

    pub(crate) fn try_get(
        &mut self,
        path: &str,
    ) -> impl Future<Output = hyper::Result<Response>> + Send + use<> {
        let mut sender = self.sender.clone();
        let request = Request::get(format!("http://test{path}"))
            .body(Empty::new())
            .expect("a request");
        async move {
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            Ok(Response {
                status: response.status().as_u16(),
                body: response.into_body().collect().await?.to_bytes(),
            })
        }
    }

    /// Waits for the end of the connection, which must be a good one.
    pub(crate) async fn expect_end(self) {
        drop(self.sender);
        self.connection
            .await
            .expect("the connection's task")
            .expect("an end without an error");
    }

    /// The server said GOAWAY: no new stream can begin.
    pub(crate) async fn wait_for_goaway(&mut self) {
        loop {
            let request = Request::get("http://test/")
                .body(Empty::new())
                .expect("a request");
            let refused = match self.sender.ready().await {
                Ok(()) => self.sender.send_request(request).await.is_err(),
                Err(_) => true,
            };
            if refused {
                return;
            }
        }
    }
}
