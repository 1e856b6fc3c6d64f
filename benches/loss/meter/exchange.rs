//! Requests over one HTTP/1.1 connection: sent in pieces, one behind the other, while the answers are read.
//!
//! What holds:
//! 1. A request counts as sent when its first byte was written, and then gets exactly one end: answered, wrong or
//!    lost. Nothing is sent twice.
//! 2. After an answer that announces the close nothing more is written; what was written already is waited for
//!    until the connection ends.
//! 3. An answer to a request that was not yet written to its end is wrong.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, split};
use tokio::time::sleep;

use super::client::{Client, End};
use super::request::Request;
use super::tally::Loss;
use super::wire::{Answer, Broken, Missing, Reader, Wire};

/// Requests to send in one go, and where to pause between two bytes.
#[derive(Default)]
pub(super) struct Script {
    bytes: Vec<u8>,
    asks: Vec<Ask>,
    /// In front of this byte, for so long; in order.
    pauses: Vec<(usize, Duration)>,
}

struct Ask {
    request: Request,
    start: usize,
    end: usize,
    /// When the write of its first byte, and of its last byte, began.
    first: Cell<Option<Instant>>,
    last: Cell<Option<Instant>>,
}

impl Script {
    pub(super) fn of(request: Request) -> Self {
        let mut script = Self::default();
        script.add(request);
        script
    }

    /// Behind the others. The bytes of its head, and all of its bytes, as places in the script.
    pub(super) fn add(&mut self, request: Request) -> Places {
        let (bytes, head) = request.bytes();
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&bytes);
        let end = self.bytes.len();
        self.asks.push(Ask {
            request,
            start,
            end,
            first: Cell::new(None),
            last: Cell::new(None),
        });
        Places {
            start,
            body: start + head,
            end,
        }
    }

    /// Waits in front of this byte. In the order of the bytes.
    pub(super) fn pause(&mut self, place: usize, time: Duration) {
        self.pauses.push((place, time));
    }
}

pub(super) struct Places {
    pub(super) start: usize,
    pub(super) body: usize,
    pub(super) end: usize,
}

/// Sends the script and reads all of its answers, or finds the end of the connection. `since`: when the wait for
/// the first answer has begun, if not with its request.
///
/// # Errors
/// How the connection ended. Everything else is counted already.
pub(super) async fn exchange(
    client: &Client,
    wire: &mut Wire,
    script: &Script,
    since: Option<Instant>,
) -> Result<(), End> {
    let (read, write) = split(&mut wire.stream);
    let (stop, reset) = (Cell::new(false), Cell::new(None));
    let reader = Reader::new(read, &mut wire.inbox, client.patience);
    tokio::select! {
        biased;
        ended = receive(client, reader, script, (&stop, &reset), since) => ended,
        never = send(client, write, script, (&stop, &reset)) => match never {},
    }
}

/// Writes as far as it may. What the server answered before it closed may still be there to be read: the reader finds
/// out what an error means. Only a reset is told once, to whoever meets it first.
async fn send(
    client: &Client,
    mut to: impl AsyncWrite + Unpin,
    script: &Script,
    (stop, reset): (&Cell<bool>, &Cell<Option<io::Error>>),
) -> Infallible {
    let mut written = 0;
    let ends = script.pauses.iter().copied();
    let ends = ends.chain([(script.bytes.len(), Duration::ZERO)]);
    for (place, pause) in ends {
        while written < place && !stop.get() {
            let now = Instant::now();
            match to.write(&script.bytes[written..place]).await {
                Ok(count) if count > 0 => {
                    script.note(client, written, written + count, now);
                    written += count;
                }
                Ok(_) => return pending().await,
                Err(error) => {
                    reset.set((error.kind() == io::ErrorKind::ConnectionReset).then_some(error));
                    return pending().await;
                }
            }
        }
        sleep(pause).await;
    }
    pending().await
}

async fn receive<R: AsyncRead + Unpin>(
    client: &Client,
    mut reader: Reader<'_, R>,
    script: &Script,
    (stop, reset): (&Cell<bool>, &Cell<Option<io::Error>>),
    mut since: Option<Instant>,
) -> Result<(), End> {
    for (index, ask) in script.asks.iter().enumerate() {
        // The close is announced: what was not begun will never be.
        if stop.get() && ask.first.get().is_none() {
            break;
        }
        let missing = match reader.answer().await {
            Ok(answer) => {
                stop.set(stop.get() || answer.head.closes);
                if ask.settle(client, &answer, since.take()) {
                    continue;
                }
                Missing {
                    broken: Broken::Garbled("an answer before the request's end".to_owned()),
                    within: false,
                }
            }
            Err(mut missing) => {
                if let (Broken::Closed, Some(error)) = (&missing.broken, reset.take()) {
                    missing.broken = Broken::Reset(error);
                }
                ask.lose(client, &missing, stop.get());
                missing
            }
        };
        let behind = Missing {
            within: false,
            ..missing
        };
        for ask in &script.asks[index + 1..] {
            ask.lose(client, &behind, stop.get());
        }
        if script.asks[index].first.get().is_none() {
            let what = format!("closed before a request: {}", behind.broken);
            client.failed(None, what, Instant::now());
        }
        return Err(Client::end_of(&behind.broken, stop.get()));
    }
    if stop.get() {
        return Err(End::Announced);
    }
    Ok(())
}

impl Script {
    /// The bytes from `from` to `to` were written.
    fn note(&self, client: &Client, from: usize, to: usize, now: Instant) {
        for ask in &self.asks {
            if (from..to).contains(&ask.start) {
                ask.first.set(Some(now));
                client.sent();
            }
            if from < ask.end && ask.end <= to {
                ask.last.set(Some(now));
            }
        }
    }
}

impl Ask {
    /// Counts a complete answer. False: the connection is not to be used any more.
    fn settle(&self, client: &Client, answer: &Answer, since: Option<Instant>) -> bool {
        let Some(first) = self.first.get() else {
            // Nothing of it was sent, so the answer is nobody's; and it is no request that counts.
            client.sent();
            client.wrong(
                self.request.what(),
                "an answer before the request",
                Instant::now(),
            );
            return false;
        };
        let head = &answer.head;
        let judged = self
            .request
            .judge(head.status, head.field("x-id"), &answer.body);
        match (judged, self.last.get()) {
            (Ok(()), Some(last)) => {
                client.answered(since.unwrap_or(first), since.unwrap_or(last).elapsed());
                true
            }
            (Ok(()), None) => {
                client.wrong(self.request.what(), "answered before its end", first);
                false
            }
            (Err(why), last) => {
                client.wrong(self.request.what(), &why, first);
                last.is_some()
            }
        }
    }

    fn lose(&self, client: &Client, missing: &Missing, announced: bool) {
        let Some(first) = self.first.get() else {
            return;
        };
        let loss = match &missing.broken {
            Broken::Silent => Loss::Silent,
            _ if missing.within => Loss::Cut,
            _ if announced => Loss::Behind,
            Broken::Garbled(_) => Loss::Garbled,
            Broken::Closed => Loss::Closed,
            Broken::Reset(_) => Loss::Reset,
        };
        let why = missing.broken.to_string();
        client.lost(self.request.what(), loss, &why, first);
    }
}
