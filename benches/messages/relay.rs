//! The relay, as one would write it with care: frames in both directions, what is there is written at once.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::support::{Error, runtime};

/// What waits for one client; then all wait.
const QUEUE: usize = 1024;
/// So many frames go out in one write.
const BATCH: usize = 64;

pub(crate) fn run() -> Result<(), Error> {
    runtime()?.block_on(async {
        let listener = UnixListener::bind(std::env::var("RELAY")?)?;
        let clients: Arc<Mutex<Vec<Sender<Bytes>>>> = Arc::default();
        loop {
            let (stream, _) = listener.accept().await?;
            let (send, receive) = channel(QUEUE);
            let own = send.clone();
            clients
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(send);
            let (mut reader, writer) = open(stream);
            tokio::spawn(write(writer, receive));
            let clients = clients.clone();
            tokio::spawn(async move {
                while let Some(frame) = reader.next().await {
                    let all = clients
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .clone();
                    for other in all.iter().filter(|other| !other.same_channel(&own)) {
                        let _ = other.send(frame.clone()).await;
                    }
                }
            });
        }
    })
}

/// The two directions of a connection.
pub(crate) fn open(stream: UnixStream) -> (Reader, OwnedWriteHalf) {
    let (reader, writer) = stream.into_split();
    let buffer = BytesMut::with_capacity(64 * 1024);
    (Reader { reader, buffer }, writer)
}

pub(crate) struct Reader {
    reader: OwnedReadHalf,
    buffer: BytesMut,
}

impl Reader {
    /// The next frame, without its length.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<4>() {
                let length = usize::try_from(u32::from_le_bytes(*head)).ok()?;
                if self.buffer.len() >= 4 + length {
                    let mut frame = self.buffer.split_to(4 + length);
                    return Some(frame.split_off(4).freeze());
                }
            }
            self.buffer.reserve(64 * 1024);
            if self.reader.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// Writes frames as they come.
pub(crate) async fn write(mut writer: OwnedWriteHalf, mut frames: Receiver<Bytes>) {
    let (mut batch, mut out) = (Vec::with_capacity(BATCH), BytesMut::new());
    while frames.recv_many(&mut batch, BATCH).await > 0 {
        for frame in batch.drain(..) {
            let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&frame);
        }
        if writer.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
    }
}
