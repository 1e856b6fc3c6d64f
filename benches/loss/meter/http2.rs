//! Clients that speak HTTP/2 with prior knowledge: several streams at a time on one connection.
//!
//! A GOAWAY announces the close: no stream begins after it, those that it leaves out may be sent again and are
//! counted apart, and the others must get their answers.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::timeout;

use super::client::{Client, End};
use super::request::Request;
use super::sniffer::{GoAway, Seen, Sniffer};
use super::tally::Loss;

const NO_ERROR: u32 = 0;

pub(super) async fn keep(client: Rc<Client>, streams: usize) {
    while let Some(stream) = client.connect().await {
        let from = Instant::now();
        let (io, seen) = Sniffer::new(stream);
        let handshake = timeout(client.patience, h2::client::handshake(io)).await;
        let Ok(Ok((sender, connection))) = handshake else {
            client.failed(None, "closed in the preface".to_owned(), from);
            client.ended(End::Unannounced).await;
            continue;
        };
        let connection = spawn_local(connection);
        let trouble = Rc::new(Cell::new(None));
        let mut lanes = JoinSet::new();
        for _ in 0..streams {
            let lane = Lane {
                client: client.clone(),
                sender: sender.clone(),
                seen: seen.clone(),
                random: client.random(),
                trouble: trouble.clone(),
            };
            lanes.spawn_local(lane.run());
        }
        lanes.join_all().await;
        drop(sender);
        let last = seen.borrow().clone();
        match (last.goaway, trouble.get()) {
            (None, None) if last.end.is_none() && !connection.is_finished() => {
                client.lived();
                // It says GOAWAY itself and closes.
                let _ = timeout(client.patience, connection).await;
                return;
            }
            (Some(GoAway { code: NO_ERROR, .. }), None) => client.ended(End::Announced).await,
            (Some(GoAway { code, .. }), None) if code != NO_ERROR => {
                let reason = Reason::from(code);
                client.failed(None, format!("closed by GOAWAY: {reason}"), from);
                client.ended(End::Unannounced).await;
            }
            (_, end) => {
                let why = last.end.unwrap_or_else(|| "no answer".to_owned());
                client.failed(None, format!("closed: {why}"), from);
                client.ended(end.unwrap_or(End::Unannounced)).await;
            }
        }
        connection.abort();
    }
}

/// One stream after the other.
struct Lane {
    client: Rc<Client>,
    sender: SendRequest<Bytes>,
    seen: watch::Receiver<Seen>,
    random: fastrand::Rng,
    /// Set: the connection ended within something that was due, or is not to be trusted.
    trouble: Rc<Cell<Option<End>>>,
}

impl Lane {
    async fn run(mut self) {
        loop {
            let pause = Duration::from_millis(self.random.u64(0..=20));
            tokio::select! {
                biased;
                _ = self.seen.wait_for(Seen::over) => return,
                () = self.client.wait(pause) => (),
            }
            let last = self.client.stopping();
            let request = self.request();
            // No limit of its own: the server answers the settings at once or is silent to others too.
            let ready = timeout(self.client.patience, self.sender.clone().ready()).await;
            match ready {
                Ok(Ok(sender)) => self.sender = sender,
                // The frames that have passed say why.
                Ok(Err(_)) => return,
                Err(_) => return self.trouble.set(Some(End::GivenUp)),
            }
            let open = self.exchange(&request).await;
            if !open || last {
                return;
            }
        }
    }

    fn request(&mut self) -> Request {
        let id = self.client.next_id();
        match self.random.u8(0..20) {
            0 => Request::big(id, 300_000),
            1 => Request::echo(id, 50_000),
            2 => Request::sleep(id, 200),
            3..10 => Request::echo(id, self.random.usize(10..=2000)),
            _ => Request::id(id),
        }
    }

    /// False: the connection is over.
    async fn exchange(&mut self, request: &Request) -> bool {
        let from = Instant::now();
        let head = http::Request::builder()
            .method(request.method)
            .uri(format!("http://loss{}", request.path))
            .header("x-id", &request.id)
            .body(());
        let Ok(head) = head else {
            return false;
        };
        let empty = request.body.is_empty();
        let Ok((response, mut body)) = self.sender.send_request(head, empty) else {
            return false;
        };
        let stream = response.stream_id().as_u32();
        if !empty {
            // It is queued as a whole and flows as the window allows. What is wrong shows in the response.
            let _ = body.send_data(Bytes::from(request.body.clone()), true);
        }
        let outcome = match timeout(self.client.patience, collect(response)).await {
            Ok(Ok((status, id, body))) => {
                self.client.sent();
                match request.judge(status, id.as_deref(), &body) {
                    Ok(()) => self.client.answered(from, from.elapsed()),
                    Err(why) => self.client.wrong(request.what(), &why, from),
                }
                return true;
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(Loss::Silent),
        };
        let seen = self.seen.borrow().clone();
        if stream > seen.sent {
            return false;
        }
        self.client.sent();
        let (loss, why) = match outcome {
            Ok(loss) => (loss, "silence".to_owned()),
            Err(error) => {
                let left_out = seen.goaway.is_some_and(|away| stream > away.last_stream);
                if left_out || (error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM))
                {
                    self.client.retryable();
                    return true;
                }
                let loss = match (error.is_reset(), seen.begun.contains(&stream)) {
                    (true, _) => Loss::StreamReset,
                    (false, true) => Loss::Cut,
                    (false, false) => Loss::Closed,
                };
                (
                    loss,
                    format!("{error}; {}", seen.end.as_deref().unwrap_or("open")),
                )
            }
        };
        self.client.lost(request.what(), loss, &why, from);
        match loss {
            Loss::StreamReset => true,
            Loss::Silent => {
                self.trouble.set(Some(End::GivenUp));
                false
            }
            _ => {
                self.trouble.set(Some(End::Unannounced));
                false
            }
        }
    }
}

type Collected = (u16, Option<String>, Vec<u8>);

async fn collect(response: ResponseFuture) -> Result<Collected, h2::Error> {
    let response = response.await?;
    let (head, mut stream) = response.into_parts();
    let id = head.headers.get("x-id");
    let id = id.and_then(|id| Some(id.to_str().ok()?.to_owned()));
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok((head.status.as_u16(), id, body))
}
