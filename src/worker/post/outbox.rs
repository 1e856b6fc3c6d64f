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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::packet::{Incoming, Outgoing};
    use std::cell::RefCell;

    /// What the receiver knows of one topic.
    #[derive(Default)]
    struct Heard {
        next: u64,
    }

    fn full() -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn message(topic: &str, number: u64, length: usize) -> Bytes {
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(length.max(8), 0);
        Outgoing::new(1, topic, &bytes).packet()
    }

    /// The receiver of a mailbox that is full most of the time hears of every number of every topic once and in order,
    /// as a message or as missed.
    #[test]
    fn every_message_arrives_or_is_counted_in_its_place() {
        let seed = std::env::var("PAYLOAD_TEST_SEED")
            .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
        println!("PAYLOAD_TEST_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let topics: Vec<String> = (0..6).map(|n| format!("topic {n}")).collect();
        let mut said = [0; 6];
        let heard: RefCell<[Heard; 6]> = RefCell::default();
        let missed = RefCell::new(0);
        let mut outbox = Outbox::default();
        let take = |packet: &[u8]| match Incoming::read(packet).unwrap() {
            Incoming::Message { topic, bytes, .. } => {
                let topic = topics.iter().position(|name| name == topic).unwrap();
                let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                let heard = &mut heard.borrow_mut()[topic];
                assert_eq!(heard.next, number, "the next one of topic {topic}");
                heard.next += 1;
            }
            Incoming::Missed { topics: counts, .. } => {
                for (topic, count) in counts {
                    let topic = topics.iter().position(|name| name == topic).unwrap();
                    heard.borrow_mut()[topic].next += count;
                    *missed.borrow_mut() += count;
                }
            }
        };
        for _ in 0..50 {
            for _ in 0..random.usize(..2_000) {
                let topic = random.usize(..topics.len());
                outbox.push(message(&topics[topic], said[topic], random.usize(..12_000)));
                said[topic] += 1;
                assert!(outbox.queue.len() <= MOST_PACKETS && outbox.bytes <= MOST_BYTES);
            }
            let room = RefCell::new(random.usize(..1_500));
            let send = |packet: &[u8]| {
                if *room.borrow() == 0 {
                    return full();
                }
                *room.borrow_mut() -= 1;
                take(packet);
                Ok(())
            };
            let sent = outbox.send(1, 2_000, send);
            assert_eq!(sent.is_ok(), outbox.is_empty());
        }
        assert!(*missed.borrow() > 1_000, "it was tight");
        outbox
            .send(1, usize::MAX, |packet| {
                take(packet);
                Ok(())
            })
            .unwrap();
        assert!(outbox.is_empty() && outbox.bytes == 0);
        assert!(heard.borrow().iter().map(|heard| heard.next).eq(said));
    }

    #[test]
    fn of_too_many_topics_the_rest_is_told_without_names() {
        let mut outbox = Outbox::default();
        let topics = MOST_TOPICS as u64 + 500;
        for number in 0..topics {
            outbox.push(message(&format!("{number:0200}"), number, 8));
        }
        for number in 0..MOST_PACKETS as u64 {
            outbox.push(message("last", number, 8));
        }
        let told = RefCell::new(BTreeMap::new());
        let send = |packet: &[u8]| {
            if let Some(Incoming::Missed { topics, .. }) = Incoming::read(packet) {
                let topics = topics.map(|(topic, count)| (topic.to_owned(), count));
                told.borrow_mut().extend(topics);
            }
            Ok(())
        };
        outbox.send(1, usize::MAX, send).unwrap();
        let told = told.into_inner();
        assert_eq!(told.len(), MOST_TOPICS + 1);
        assert_eq!(told[OTHERS], topics - MOST_TOPICS as u64);
    }
}
