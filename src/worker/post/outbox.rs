//! What one worker has still to send to another one that does not keep up.
//!
//! 1. Nothing is sent before what is here.
//! 2. Where there is no room, the oldest message gives way and is counted; so what is counted is older than every
//!    message that is here, and is told first.
//! 3. Of every message that came in, the receiver gets the message or a count, unless one of the two workers ends.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use bytes::Bytes;

use crate::messages::packet;

/// How much is kept for a worker that does not take it.
const MOST_PACKETS: usize = 1024;
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// What is lost of more topics than this is told without their names.
const MOST_TOPICS: usize = 1024;
/// The name that stands for these.
const OTHERS: &str = "";

#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Bytes>,
    bytes: usize,
    /// How many messages of which topic were dropped, and the receiver has not heard of it.
    lost: BTreeMap<Box<str>, u64>,
}

impl Outbox {
    pub(super) fn push(&mut self, packet: Bytes) {
        let length = packet.len();
        while self.queue.len() >= MOST_PACKETS || self.bytes + length > MOST_BYTES {
            match self.pop() {
                Some(oldest) => self.lose(packet::topic_of(&oldest)),
                None => break,
            }
        }
        self.bytes += length;
        self.queue.push_back(packet);
    }

    /// Sends up to `most` packets, until there are none or `send` fails with anything that may pass.
    ///
    /// # Errors
    /// What `send` says; what was not sent is still here.
    pub(super) fn send(
        &mut self,
        worker: u64,
        most: usize,
        send: impl Fn(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        for _ in 0..most {
            if !self.lost.is_empty() {
                let lost = self.lost.iter().map(|(topic, count)| (&**topic, *count));
                let (packet, named) = packet::missed(worker, lost);
                send(&packet)?;
                let told = self.lost.len() - named;
                while self.lost.len() > told {
                    self.lost.pop_first();
                }
            } else if let Some(packet) = self.queue.front() {
                send(packet)?;
                self.pop();
            } else {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.lost.is_empty()
    }

    /// Older than all that is here.
    fn lose(&mut self, topic: &str) {
        let name = if self.lost.len() < MOST_TOPICS || self.lost.contains_key(topic) {
            topic
        } else {
            OTHERS
        };
        match self.lost.get_mut(name) {
            Some(count) => *count += 1,
            None => drop(self.lost.insert(name.into(), 1)),
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let packet = self.queue.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }
}
