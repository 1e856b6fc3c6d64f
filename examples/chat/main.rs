//! A chat over WebSockets: whoever is connected to any worker hears everybody, and a reload loses nobody a line.
//!
//! ```text
//! cargo run --example chat -- --workers 4
//! systemfd --no-pid -s http::8080 -- cargo run --example chat -- --workers 4
//!
//! cargo run --example chat -- reload     # meanwhile: talk at http://127.0.0.1:8080/, in two windows
//! ```
//!
//! Three things make it so:
//!
//! - What is said is published to all workers, the old and the new ones while a reload runs.
//! - A worker that drains says goodbye (close code 1001), and listens until the client has said it too. So what was on
//!   its way is published as well.
//! - The client connects again, to a worker of the new generation. That has heard everything since it was started,
//!   before the old one drained, and begins with what was said last. Lines have names: the client drops those that it
//!   has already.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Query, State};
use axum::response::{Html, Response};
use axum::routing::get;
use payload::{App, Context, Messages, Payload, PayloadContext, Subscription, Token};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::time::timeout;

const TOPIC: &str = "chat";
/// So many lines a newcomer sees of what was said before.
const RECENT: usize = 200;
/// The longest line that somebody can say, in bytes. A message between workers has room for 64 KiB.
const LONGEST: usize = 8 * 1024;
/// For the other half of a goodbye, and for all that a guest has still to take when the worker drains.
const PATIENCE: Duration = Duration::from_secs(5);

async fn load(context: Context) -> payload::Result<App> {
    let room = Arc::new(Room {
        mark: fastrand::u64(..),
        said: AtomicU64::new(0),
        recent: Mutex::default(),
        lines: broadcast::Sender::new(RECENT),
        messages: context.messages(),
        drain: context.drain_token(),
    });
    // From here on nothing is missed, although the payload starts later.
    let news = room.messages.subscribe(TOPIC);
    let ears = Arc::clone(&room);
    Ok(App::builder()
        .payload(Payload::new("listen", |context| {
            listen(context, ears, news)
        }))
        .build(
            Router::new()
                .route("/", get(async || Html(include_str!("page.html"))))
                .route("/chat", get(enter))
                .with_state(room),
        ))
}

/// What the clients of one worker share.
struct Room {
    /// Drawn in this worker. Its number would not do: after a restart of the service there is another worker 1, and a
    /// page that is still open would take what that one says for what it has.
    mark: u64,
    /// How many lines this worker has numbered.
    said: AtomicU64,
    /// What was said last, in any worker.
    recent: Mutex<VecDeque<Utf8Bytes>>,
    /// The same as it comes.
    lines: broadcast::Sender<Utf8Bytes>,
    messages: Messages,
    drain: Token,
}

/// As it goes to the other workers and to the clients.
#[derive(Serialize)]
struct Line<'a> {
    /// No other line has it.
    id: String,
    name: &'a str,
    text: &'a str,
}

impl Room {
    fn say(&self, name: &str, text: &str) -> payload::Result<()> {
        let number = self.said.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:016x}-{number}", self.mark);
        let line = serde_json::to_vec(&Line { id, name, text })?;
        // To everybody in every worker, the one who says it among them.
        Ok(self.messages.publish(TOPIC, line)?)
    }

    fn heard(&self, line: Utf8Bytes) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(line.clone());
        // Perhaps nobody is here.
        let _ = self.lines.send(line);
    }

    /// What was said, and what will be: each line is in one of them, since both change under one lock.
    fn join(&self) -> (Vec<Utf8Bytes>, broadcast::Receiver<Utf8Bytes>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.iter().cloned().collect(), self.lines.subscribe())
    }
}

/// Hears what is said in all workers, also while this one is prepared and serves nobody yet.
async fn listen(
    context: PayloadContext,
    room: Arc<Room>,
    mut news: Subscription,
) -> payload::Result<()> {
    loop {
        let heard = tokio::select! {
            () = context.stopped() => return Ok(()),
            heard = news.recv() => heard,
        };
        match heard {
            Ok(line) => room.heard(Utf8Bytes::try_from(line.bytes().clone())?),
            Err(lagged) => tracing::warn!(%lagged, "this worker has not heard everything"),
        }
    }
}

#[derive(Deserialize)]
struct Guest {
    name: String,
}

async fn enter(
    upgrade: WebSocketUpgrade,
    State(room): State<Arc<Room>>,
    Query(guest): Query<Guest>,
) -> Response {
    upgrade
        .max_message_size(LONGEST)
        .on_upgrade(async move |mut socket| {
            // Most connections end without a goodbye: that is no failure of the service.
            let ended = tokio::select! {
                ended = talk(&mut socket, &room, &guest.name) => ended,
                () = out_of_patience(&room) => Err("it does not take what it is sent".into()),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, guest = guest.name, "a guest is gone");
            }
        })
}

/// A guest that reads nothing keeps a line from being sent, for as long as it likes. That holds up nobody before the
/// worker drains, and must not hold up the worker.
async fn out_of_patience(room: &Room) {
    room.drain.fired().await;
    tokio::time::sleep(PATIENCE).await;
}

async fn talk(socket: &mut WebSocket, room: &Room, name: &str) -> payload::Result<()> {
    let (recent, mut news) = room.join();
    for line in recent {
        socket.send(Message::Text(line)).await?;
    }
    let code = loop {
        tokio::select! {
            said = socket.recv() => match said.transpose()? {
                Some(Message::Text(text)) => room.say(name, &text)?,
                // axum answers pings itself.
                Some(_) => {}
                None => return Ok(()),
            },
            line = news.recv() => match line {
                Ok(line) => socket.send(Message::Text(line)).await?,
                // A client that reads too slowly holds up nobody; it begins anew.
                Err(_) => break close_code::AGAIN,
            },
            () = room.drain.fired() => {
                while let Ok(line) = news.try_recv() {
                    socket.send(Message::Text(line)).await?;
                }
                break close_code::AWAY;
            }
        }
    };
    goodbye(socket, room, name, code).await
}

/// Ends a conversation, and hears what the client had said before it knew. One that does not answer is not waited for:
/// the worker could not leave.
async fn goodbye(
    socket: &mut WebSocket,
    room: &Room,
    name: &str,
    code: u16,
) -> payload::Result<()> {
    let reason = "please connect again".into();
    let close = Message::Close(Some(CloseFrame { code, reason }));
    let answered = timeout(PATIENCE, async {
        socket.send(close).await?;
        while let Some(said) = socket.recv().await.transpose()? {
            if let Message::Text(text) = said {
                room.say(name, &text)?;
            }
        }
        Ok(())
    });
    answered.await?
}

fn main() -> ExitCode {
    payload::main(load)
}
