//! Clients that keep a WebSocket and wait for the echo of each message.
//!
//! A close frame that says that the server goes away announces the close. A message that crossed it was not
//! processed, for all that the protocol says: it is counted apart, like a stream that a GOAWAY leaves out.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;

use super::client::{Client, End};
use super::frames::{ACCEPT, CLOSE, Frame, KEY, PING, PONG, TEXT};
use super::request::lines;
use super::tally::Loss;
use super::wire::{Broken, Reader, Wire};

/// Normal, going away, service restart: RFC 6455 (7.4.1) and the registry that it opens.
const ORDERLY: [u16; 3] = [1000, 1001, 1012];

pub(super) async fn keep(client: Rc<Client>) {
    let mut socket = Socket {
        random: client.random(),
        client,
    };
    while let Some(stream) = socket.client.connect().await {
        let mut wire = Wire::new(stream);
        let ended = match socket.upgrade(&mut wire).await {
            Ok(()) => socket.talk(&mut wire).await,
            Err(end) => Err(end),
        };
        match ended {
            Ok(()) => return,
            Err(end) => socket.client.ended(end).await,
        }
    }
}

struct Socket {
    client: Rc<Client>,
    random: fastrand::Rng,
}

/// What came while a message was waited for.
enum Came {
    Text(Vec<u8>),
    Close(u16),
    Broken(Broken),
    Over,
}

impl Socket {
    async fn upgrade(&mut self, wire: &mut Wire) -> Result<(), End> {
        let id = self.client.next_id();
        let head = format!(
            "GET /loss/ws HTTP/1.1\r\nhost: loss\r\nx-id: {id}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\r\n"
        );
        let what = format!("GET /loss/ws {id}");
        let from = Instant::now();
        if let Err(error) = wire.stream.write_all(head.as_bytes()).await {
            let what = format!("closed before a request: {error}");
            self.client.failed(None, what, from);
            return Err(End::Unannounced);
        }
        self.client.sent();
        let mut reader = Reader::new(&mut wire.stream, &mut wire.inbox, self.client.patience);
        match reader.head().await {
            Ok(head) if head.status == 101 => {
                if head.field("sec-websocket-accept") != Some(ACCEPT) {
                    self.client
                        .wrong(what, "another sec-websocket-accept", from);
                    return Err(End::GivenUp);
                }
                self.client.answered(from, from.elapsed());
                Ok(())
            }
            Ok(head) => {
                let why = format!("no upgrade: status {}", head.status);
                self.client.wrong(what, &why, from);
                Err(if head.closes {
                    End::Announced
                } else {
                    End::GivenUp
                })
            }
            Err(broken) => {
                let within = !reader.inbox().is_empty();
                Err(self.lose(what, &broken, within, from))
            }
        }
    }

    /// Ends well only when the load is over.
    async fn talk(&mut self, wire: &mut Wire) -> Result<(), End> {
        loop {
            let pause = Duration::from_millis(self.random.u64(0..=40));
            let from = Instant::now();
            match self.receive(wire, Some(pause)).await {
                Came::Over => (),
                Came::Close(code) => return Err(self.closed(wire, code).await),
                Came::Text(text) => {
                    let text = String::from_utf8_lossy(&text);
                    self.client.unasked(&text, from);
                    return Err(End::GivenUp);
                }
                Came::Broken(broken) => {
                    let what = format!("closed while idle: {broken}");
                    self.client.failed(None, what, from);
                    return Err(Client::end_of(&broken, false));
                }
            }
            let last = self.client.stopping();
            self.say(wire).await?;
            if last {
                self.client.lived();
                let _ = self.write(wire, Frame::close(1000)).await;
                return Ok(());
            }
        }
    }

    /// One message and its echo.
    async fn say(&mut self, wire: &mut Wire) -> Result<(), End> {
        let id = self.client.next_id();
        let message = lines(&id, self.random.usize(10..=1000));
        let what = format!("message {id}");
        let from = Instant::now();
        if let Err(error) = self.write(wire, Frame::new(TEXT, message.clone())).await {
            let what = format!("closed before a message: {error}");
            self.client.failed(None, what, from);
            return Err(End::Unannounced);
        }
        self.client.sent();
        match self.receive(wire, None).await {
            Came::Text(echo) if echo == message => self.client.answered(from, from.elapsed()),
            Came::Text(_) => self.client.wrong(what, "another message", from),
            Came::Close(code) if ORDERLY.contains(&code) => {
                self.client.retryable();
                return Err(self.closed(wire, code).await);
            }
            Came::Close(code) => {
                let why = format!("close {code}");
                self.client.lost(what, Loss::Closed, &why, from);
                return Err(self.closed(wire, code).await);
            }
            Came::Broken(broken) => {
                let within = !wire.inbox.is_empty();
                return Err(self.lose(what, &broken, within, from));
            }
            Came::Over => (),
        }
        Ok(())
    }

    /// The next message or close; answers pings. `pause`: for so long, or until the load is over.
    async fn receive(&mut self, wire: &mut Wire, pause: Option<Duration>) -> Came {
        let client = self.client.clone();
        let mut over = std::pin::pin!(client.wait(pause.unwrap_or(Duration::MAX)));
        loop {
            match Frame::parse(&wire.inbox) {
                Ok(Some((frame, length))) => {
                    let _ = wire.inbox.split_to(length);
                    match frame.opcode {
                        CLOSE => return Came::Close(frame.code()),
                        PING => {
                            let _ = self.write(wire, Frame::new(PONG, frame.payload)).await;
                        }
                        PONG => (),
                        _ => return Came::Text(frame.payload),
                    }
                    continue;
                }
                Ok(None) => (),
                Err(what) => return Came::Broken(Broken::Garbled(what)),
            }
            let mut reader = Reader::new(&mut wire.stream, &mut wire.inbox, client.patience);
            let filled = tokio::select! {
                biased;
                filled = reader.fill() => filled,
                () = &mut over, if pause.is_some() => return Came::Over,
            };
            if let Err(broken) = filled {
                return Came::Broken(broken);
            }
        }
    }

    /// Answers the server's close frame.
    async fn closed(&mut self, wire: &mut Wire, code: u16) -> End {
        let _ = self.write(wire, Frame::close(code)).await;
        if ORDERLY.contains(&code) {
            return End::Announced;
        }
        let what = format!("closed by a close frame with {code}");
        self.client.failed(None, what, Instant::now());
        End::Unannounced
    }

    fn lose(&self, what: String, broken: &Broken, within: bool, from: Instant) -> End {
        let loss = match broken {
            Broken::Silent => Loss::Silent,
            Broken::Garbled(_) => Loss::Garbled,
            _ if within => Loss::Cut,
            Broken::Closed => Loss::Closed,
            Broken::Reset(_) => Loss::Reset,
        };
        self.client.lost(what, loss, &broken.to_string(), from);
        Client::end_of(broken, false)
    }

    async fn write(&mut self, wire: &mut Wire, frame: Frame) -> std::io::Result<()> {
        let mask = self.random.u32(..).to_be_bytes();
        wire.stream.write_all(&frame.bytes(Some(mask))).await
    }
}
