//! What one worker has still to send to another one that does not keep up.
//!
//! 1. Nothing is sent before what is here.
//! 2. Where there is no room, the oldest message gives way and is counted; so what is counted is older than every
//!    message that is here, and is told first.
//! 3. Of every message that came in, the receiver gets the message or a count. When its own worker ends, what is left is
//!    counted for the arbiter, which tells the receiver.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};

use bytes::Bytes;

use crate::messages::{Tally, packet};

/// How much is kept for a worker that does not take it.
const MOST_RECORDS: usize = 1024;
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// What is lost of more topics than this is told without their names.
const MOST_TOPICS: usize = 1024;
/// So many records go into one packet.
const BATCH: usize = 128;
/// The name that stands for these.
const OTHERS: &str = "";

#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Bytes>,
    bytes: usize,
    /// How many messages of which topic were dropped, and the receiver has not heard of it.
    lost: BTreeMap<Box<str>, u64>,
    /// What has come since it was last tried to send something.
    fresh: Fresh,
}

#[derive(Debug, Default)]
struct Fresh {
    records: usize,
    bytes: usize,
}

impl Outbox {
    pub(super) fn push(&mut self, record: Bytes) {
        let length = record.len();
        while self.queue.len() >= MOST_RECORDS || self.bytes + length > MOST_BYTES {
            match self.pop() {
                Some(oldest) => self.lose(packet::topic_of(&oldest)),
                None => break,
            }
        }
        self.bytes += length;
        self.queue.push_back(record);
        self.fresh.records += 1;
        self.fresh.bytes += length;
    }

    /// A packet's worth has come since it was last tried to send something: trying it again is worth a system call.
    pub(super) fn has_full_packet(&self) -> bool {
        self.fresh.records >= BATCH || self.fresh.bytes >= packet::MOST
    }

    /// Sends one packet, if there is anything to send.
    ///
    /// # Errors
    /// What `send` says; what was not sent is still here.
    pub(super) fn send(
        &mut self,
        worker: u64,
        send: impl Fn(&[IoSlice<'_>]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.fresh = Fresh::default();
        if !self.lost.is_empty() {
            let lost = self.lost.iter().map(|(topic, count)| (&**topic, *count));
            let (record, named) = packet::missed(worker, lost);
            send(&[IoSlice::new(&record)])?;
            for _ in 0..named {
                self.lost.pop_first();
            }
            return Ok(());
        }
        let mut batch = [IoSlice::new(&[]); BATCH];
        let (mut count, mut length) = (0, 0);
        for (part, record) in batch.iter_mut().zip(&self.queue) {
            length += record.len();
            if length > packet::MOST {
                break;
            }
            *part = IoSlice::new(record);
            count += 1;
        }
        if count > 0 {
            send(&batch[..count])?;
            for _ in 0..count {
                self.pop();
            }
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.lost.is_empty()
    }

    /// How many messages its receiver has neither got nor been told that it has missed.
    pub(super) fn messages(&self) -> u64 {
        self.queue.len() as u64 + self.lost.values().sum::<u64>()
    }

    /// The same, by their topics.
    pub(super) fn count(&self, tally: &mut Tally) {
        for (topic, count) in &self.lost {
            tally.add(topic, *count);
        }
        for record in &self.queue {
            tally.add(packet::topic_of(record), 1);
        }
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
    use crate::messages::packet::{Incoming, Outgoing, Records};
    use std::cell::RefCell;

    fn full() -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn message(topic: &str, number: u64, length: usize) -> Bytes {
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(length.max(8), 0);
        Outgoing::new(1, topic, &bytes).record()
    }

    fn whole(parts: &[IoSlice<'_>]) -> Vec<u8> {
        let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        let packet = parts.concat();
        assert!(!packet.is_empty() && packet.len() <= packet::MOST);
        packet
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
        // By topic, the number of the next message, and how many were missed in all.
        let heard = RefCell::new(([0_u64; 6], 0));
        let mut outbox = Outbox::default();
        let take = |parts: &[IoSlice<'_>]| {
            let (next, missed) = &mut *heard.borrow_mut();
            let number_of = |topic: &str| topics.iter().position(|name| name == topic).unwrap();
            for record in Records(&whole(parts)) {
                match record {
                    Incoming::Message { topic, bytes, .. } => {
                        let topic = number_of(topic);
                        let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                        assert_eq!(next[topic], number, "the next one of topic {topic}");
                        next[topic] += 1;
                    }
                    Incoming::Missed { topics: counts, .. } => {
                        for (topic, count) in counts {
                            next[number_of(topic)] += count;
                            *missed += count;
                        }
                    }
                    Incoming::Other => panic!("{record:?}"),
                }
            }
            Ok(())
        };
        for _ in 0..50 {
            for _ in 0..random.usize(..2_000) {
                let topic = random.usize(..topics.len());
                let most = if random.bool() { 12_000 } else { 100 };
                let length = random.usize(..most);
                outbox.push(message(&topics[topic], said[topic], length));
                said[topic] += 1;
                assert!(outbox.queue.len() <= MOST_RECORDS && outbox.bytes <= MOST_BYTES);
            }
            for _ in 0..random.usize(..60) {
                outbox.send(1, take).unwrap();
            }
            let before = outbox.queue.len();
            assert!(outbox.is_empty() || outbox.send(1, |_| full()).is_err());
            assert_eq!(
                outbox.queue.len(),
                before,
                "what was not sent is still here"
            );
        }
        while !outbox.is_empty() {
            outbox.send(1, take).unwrap();
        }
        let (next, missed) = *heard.borrow();
        assert!(missed > 1_000, "it was tight");
        assert_eq!((next, outbox.bytes), (said, 0));
    }

    #[test]
    fn of_too_many_topics_the_rest_is_told_without_names() {
        let mut outbox = Outbox::default();
        let topics = MOST_TOPICS as u64 + 500;
        for number in 0..topics {
            outbox.push(message(&format!("{number:0200}"), number, 8));
        }
        for number in 0..MOST_RECORDS as u64 {
            outbox.push(message("last", number, 8));
        }
        let told = RefCell::new(BTreeMap::new());
        while !outbox.is_empty() {
            let send = |parts: &[IoSlice<'_>]| {
                for record in Records(&whole(parts)) {
                    if let Incoming::Missed { topics, .. } = record {
                        let topics = topics.map(|(topic, count)| (topic.to_owned(), count));
                        told.borrow_mut().extend(topics);
                    }
                }
                Ok(())
            };
            outbox.send(1, send).unwrap();
        }
        let told = told.into_inner();
        assert_eq!(told.len(), MOST_TOPICS + 1);
        assert_eq!(told[OTHERS], topics - MOST_TOPICS as u64);
    }
}
