//! What the subscribers of one topic have still to take.
//!
//! 1. Messages are numbered in the order in which they came; those that never came to this worker have their numbers
//!    too. A reader has the number of the message that it takes next.
//! 2. A message is here until all readers have taken it that were there when it came, or until it is the oldest when
//!    there is no room.
//! 3. A reader whose number is behind that of the next message here has missed all those between.

use std::collections::VecDeque;

use super::{Lagged, Message};

/// How much is kept for readers that do not take it.
const MOST_MESSAGES: usize = 1024;
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// More at once is no count, and with many of them the numbers would come to their end.
const MOST_SKIPPED: u64 = u32::MAX as u64;

#[derive(Debug, Default)]
pub(super) struct Ring {
    /// By number. `left` never falls from one to the next, since who has not taken one has not taken a later one.
    entries: VecDeque<Entry>,
    /// Of all messages here.
    bytes: usize,
    /// The number of the next message.
    end: u64,
    readers: usize,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    /// How many readers have still to take it: never 0.
    left: usize,
    message: Message,
}

impl Ring {
    /// One more reader; gives it its number.
    pub(super) fn join(&mut self) -> u64 {
        self.readers += 1;
        self.end
    }

    /// One less, with the number that it had come to.
    pub(super) fn leave(&mut self, next: u64) {
        self.readers -= 1;
        let first = self.position(next);
        for entry in self.entries.iter_mut().skip(first) {
            entry.left -= 1;
        }
        while self.entries.front().is_some_and(|entry| entry.left == 0) {
            self.drop_first();
        }
    }

    pub(super) fn has_readers(&self) -> bool {
        self.readers > 0
    }

    pub(super) fn push(&mut self, message: Message) {
        let number = self.end;
        self.end += 1;
        if self.readers == 0 {
            return;
        }
        let length = message.bytes.len();
        while self.entries.len() >= MOST_MESSAGES || self.bytes + length > MOST_BYTES {
            if self.drop_first().is_none() {
                break;
            }
        }
        self.bytes += length;
        self.entries.push_back(Entry {
            number,
            left: self.readers,
            message,
        });
    }

    /// So many messages did not come.
    pub(super) fn skip(&mut self, count: u64) {
        self.end += count.min(MOST_SKIPPED);
    }

    /// The next message for the reader with this number, or what it has missed before that.
    pub(super) fn take(&mut self, next: &mut u64) -> Option<Result<Message, Lagged>> {
        let position = self.position(*next);
        let found = self.entries.get(position).map_or(self.end, |e| e.number);
        if found > *next {
            let missed = found - *next;
            *next = found;
            return Some(Err(Lagged(missed)));
        }
        let entry = self.entries.get_mut(position)?;
        *next += 1;
        if entry.left > 1 {
            entry.left -= 1;
            return Some(Ok(entry.message.clone()));
        }
        // The last reader gets it as it is. It is the first: those before it had no more readers.
        self.drop_first().map(Ok)
    }

    fn position(&self, next: u64) -> usize {
        self.entries.partition_point(|entry| entry.number < next)
    }

    fn drop_first(&mut self) -> Option<Message> {
        let message = self.entries.pop_front()?.message;
        self.bytes -= message.bytes.len();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u64, length: usize) -> Message {
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(length.max(8), 0);
        Message {
            topic: "t".into(),
            bytes: bytes.into(),
            worker: 1,
        }
    }

    fn number(message: &Message) -> u64 {
        u64::from_le_bytes(message.bytes[..8].try_into().unwrap())
    }

    #[test]
    fn the_oldest_give_way_by_count_and_by_bytes_and_are_told() {
        let mut ring = Ring::default();
        let mut next = ring.join();
        for n in 0..MOST_MESSAGES as u64 + 3 {
            ring.push(message(n, 8));
        }
        assert_eq!(ring.take(&mut next), Some(Err(Lagged(3))));
        assert_eq!(number(&ring.take(&mut next).unwrap().unwrap()), 3);
        ring.push(message(5_000, MOST_BYTES));
        assert_eq!(ring.entries.len(), 1, "it is alone, and it is there");
        let lagged = Lagged(MOST_MESSAGES as u64 - 1);
        assert_eq!(ring.take(&mut next), Some(Err(lagged)));
        assert_eq!(number(&ring.take(&mut next).unwrap().unwrap()), 5_000);
        assert_eq!(ring.take(&mut next), None);
    }

    #[test]
    fn what_never_came_is_told_also_when_nothing_follows() {
        let mut ring = Ring::default();
        let mut next = ring.join();
        ring.push(message(0, 8));
        ring.skip(4);
        assert!(ring.take(&mut next).unwrap().is_ok());
        assert_eq!(ring.take(&mut next), Some(Err(Lagged(4))));
        assert_eq!(ring.take(&mut next), None);
        ring.push(message(5, 8));
        assert_eq!(number(&ring.take(&mut next).unwrap().unwrap()), 5);
    }

    #[test]
    fn a_count_that_is_none_stops_nothing() {
        let mut ring = Ring::default();
        let mut next = ring.join();
        ring.skip(u64::MAX);
        ring.skip(u64::MAX);
        ring.push(message(0, 8));
        let lagged = Lagged(2 * MOST_SKIPPED);
        assert_eq!(ring.take(&mut next), Some(Err(lagged)));
        assert!(ring.take(&mut next).unwrap().is_ok());
    }

    /// Against a model that forgets nothing: each reader hears of every number once, as a message or as missed, and
    /// nothing is kept that nobody waits for.
    #[test]
    fn every_reader_hears_of_every_number_once() {
        let seed = std::env::var("PAYLOAD_TEST_SEED")
            .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
        println!("PAYLOAD_TEST_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut ring = Ring::default();
        let mut readers: Vec<u64> = Vec::new();
        let mut end = 0;
        let mut came = std::collections::BTreeSet::new();
        for step in 0..100_000 {
            match random.u32(0..100) {
                0..40 => {
                    ring.push(message(end, random.usize(8..20_000)));
                    came.insert(end);
                    end += 1;
                }
                40..42 => {
                    let count = random.u64(0..20);
                    ring.skip(count);
                    end += count;
                }
                42..44 if readers.len() < 8 => readers.push(ring.join()),
                44..46 if !readers.is_empty() => {
                    let gone = readers.swap_remove(random.usize(..readers.len()));
                    ring.leave(gone);
                }
                // Some readers are slow.
                _ if !readers.is_empty() => {
                    let which = random
                        .usize(..readers.len())
                        .min(random.usize(..readers.len()));
                    let next = &mut readers[which];
                    let before = *next;
                    match ring.take(next) {
                        None => assert_eq!(before, end, "there is nothing new"),
                        Some(Err(Lagged(missed))) => assert_eq!(*next, before + missed),
                        Some(Ok(message)) => {
                            assert_eq!((number(&message), *next), (before, before + 1));
                            assert!(came.contains(&before));
                        }
                    }
                }
                _ => {}
            }
            if step % 50 != 0 {
                continue;
            }
            let slowest = readers.iter().min().copied().unwrap_or(end);
            assert!(ring.entries.iter().all(|entry| entry.number >= slowest));
            let waiting =
                |entry: &Entry| readers.iter().filter(|next| **next <= entry.number).count();
            assert!(
                ring.entries
                    .iter()
                    .all(|entry| entry.left == waiting(entry) && entry.left > 0)
            );
            let bytes: usize = ring
                .entries
                .iter()
                .map(|entry| entry.message.bytes.len())
                .sum();
            assert!(
                bytes == ring.bytes && bytes <= MOST_BYTES && ring.entries.len() <= MOST_MESSAGES
            );
        }
    }

    #[test]
    fn without_readers_nothing_is_kept() {
        let mut ring = Ring::default();
        ring.push(message(0, 8));
        let next = ring.join();
        ring.push(message(1, 8));
        ring.leave(next);
        assert!(ring.entries.is_empty() && ring.bytes == 0 && !ring.has_readers());
    }
}
