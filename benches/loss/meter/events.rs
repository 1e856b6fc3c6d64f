//! Clients that listen to server-sent events.
//!
//! The stream is one request: answered when it ends as HTTP says that a body ends, lost when it is cut. Its end
//! announces the end of the connection, since its head is long gone and can't. At the end of the load a client that
//! has got one more event leaves by itself.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWriteExt as _};

use super::client::{Client, End};
use super::request::Request;
use super::tally::Loss;
use super::wire::{Broken, Framing, Reader, Wire};

pub(super) async fn keep(client: Rc<Client>) {
    while let Some(stream) = client.connect().await {
        let mut wire = Wire::new(stream);
        match listen(&client, &mut wire).await {
            Ok(()) => {
                client.lived();
                return;
            }
            Err(end) => client.ended(end).await,
        }
    }
}

async fn listen(client: &Client, wire: &mut Wire) -> Result<(), End> {
    let request = Request::events(client.next_id());
    let from = Instant::now();
    let (bytes, _) = request.bytes();
    if let Err(error) = wire.stream.write_all(&bytes).await {
        let what = format!("closed before a request: {error}");
        client.failed(None, what, from);
        return Err(End::Unannounced);
    }
    client.sent();
    let mut events = Events {
        reader: Reader::new(&mut wire.stream, &mut wire.inbox, client.patience),
        id: request.id.clone(),
        text: Vec::new(),
        next: 0,
        begun: false,
    };
    let mut first = None;
    loop {
        let last = client.stopping();
        match events.event().await {
            Ok(true) => {
                first.get_or_insert_with(|| from.elapsed());
                client.ready();
                if !last {
                    continue;
                }
                client.answered(from, first.unwrap_or_default());
                return Ok(());
            }
            Ok(false) => {
                client.answered(from, first.unwrap_or_default());
                return Err(End::Announced);
            }
            Err(Broken::Garbled(why)) => {
                client.wrong(request.what(), &why, from);
                return Err(End::GivenUp);
            }
            Err(broken) => {
                let loss = match broken {
                    Broken::Silent => Loss::Silent,
                    _ if events.begun => Loss::Cut,
                    Broken::Reset(_) => Loss::Reset,
                    _ => Loss::Closed,
                };
                // Told at its end and not at its begin, which may have been long ago.
                let why = format!("{broken}, after {:.1} s", from.elapsed().as_secs_f64());
                client.lost(request.what(), loss, &why, Instant::now());
                return Err(Client::end_of(&broken, false));
            }
        }
    }
}

struct Events<'a, R> {
    reader: Reader<'a, R>,
    id: String,
    text: Vec<u8>,
    /// The number that the next event must have.
    next: u64,
    begun: bool,
}

impl<R: AsyncRead + Unpin> Events<'_, R> {
    /// Waits for an event, which must be the next one; false: the stream has ended, and as it should.
    async fn event(&mut self) -> Result<bool, Broken> {
        if !self.begun {
            let head = self.reader.head().await?;
            let id = head.field("x-id");
            let framing = head.framing();
            if head.status != 200 || id != Some(&self.id) || framing != Ok(Framing::Chunked) {
                let status = head.status;
                let why = format!("status {status}, x-id {id:?}, {framing:?}");
                return Err(Broken::Garbled(why));
            }
            self.begun = true;
        }
        loop {
            if let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.text.drain(..end + 2).collect();
                let expected = format!("data: {} {}\n\n", self.id, self.next);
                if event != expected.as_bytes() {
                    let event = String::from_utf8_lossy(&event);
                    return Err(Broken::Garbled(format!("{event:?} for {expected:?}")));
                }
                self.next += 1;
                return Ok(true);
            }
            match self.reader.chunk().await? {
                Some(chunk) => self.text.extend_from_slice(&chunk),
                None if self.text.is_empty() => return Ok(false),
                None => {
                    let text = String::from_utf8_lossy(&self.text);
                    return Err(Broken::Garbled(format!("the stream ends with {text:?}")));
                }
            }
        }
    }
}

/// How long the service waits between two events.
pub(crate) const PERIOD: Duration = Duration::from_millis(50);
