//! What goes over a mailbox, one packet each.
//!
//! ```text
//! kind  topic's length  header's length  0  worker, 8 bytes    topic  bytes          a message
//! kind  0               header's length  0  worker, 8 bytes    (count, 8 bytes  length  topic)…    messages that were not sent
//! ```
//!
//! Numbers are little-endian. During a reload an old and a new program speak it with each other: what is between the
//! header that this one knows and the header's length is passed over, and so is a packet of an unknown kind.

use std::io::IoSlice;

use bytes::Bytes;

use super::{MOST_BYTES, MOST_TOPIC};

/// It says so itself.
const HEADER: usize = 12;
const COUNT: usize = size_of::<u64>();
/// No packet is larger.
pub(crate) const MOST: usize = HEADER + MOST_TOPIC + MOST_BYTES;

const MESSAGE: u8 = 1;
const MISSED: u8 = 2;

/// A message on its way out, in parts.
pub(crate) struct Outgoing<'a> {
    header: [u8; HEADER],
    pub(crate) topic: &'a str,
    bytes: &'a [u8],
}

impl<'a> Outgoing<'a> {
    /// The topic and the bytes have a right size.
    pub(crate) fn new(worker: u64, topic: &'a str, bytes: &'a [u8]) -> Self {
        let length = u8::try_from(topic.len()).unwrap_or(u8::MAX);
        Self {
            header: header(MESSAGE, length, worker),
            topic,
            bytes,
        }
    }

    pub(crate) fn parts(&self) -> [IoSlice<'_>; 3] {
        [&self.header, self.topic.as_bytes(), self.bytes].map(IoSlice::new)
    }

    /// The packet in one piece, to be kept.
    pub(crate) fn packet(&self) -> Bytes {
        [&self.header, self.topic.as_bytes(), self.bytes]
            .concat()
            .into()
    }
}

/// The topic of a packet that [`Outgoing::packet`] has made.
pub(crate) fn topic_of(packet: &[u8]) -> &str {
    match Incoming::read(packet) {
        Some(Incoming::Message { topic, .. }) => topic,
        _ => "",
    }
}

/// A list of messages that were not sent, with how many of each topic; the empty topic stands for others that could
/// not be named. Gives back how many topics are in it.
pub(crate) fn missed<'a>(
    worker: u64,
    topics: impl Iterator<Item = (&'a str, u64)>,
) -> (Vec<u8>, usize) {
    let (mut packet, mut named) = (header(MISSED, 0, worker).to_vec(), 0);
    for (topic, count) in topics {
        let length = u8::try_from(topic.len()).unwrap_or(u8::MAX);
        if packet.len() + COUNT + 1 + topic.len() > MOST {
            break;
        }
        packet.extend(count.to_le_bytes());
        packet.push(length);
        packet.extend(topic.as_bytes());
        named += 1;
    }
    (packet, named)
}

/// What has come.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    Message {
        worker: u64,
        topic: &'a str,
        bytes: &'a [u8],
    },
    Missed {
        worker: u64,
        topics: Missed<'a>,
    },
}

impl<'a> Incoming<'a> {
    /// `None` for what is not known here.
    pub(crate) fn read(packet: &'a [u8]) -> Option<Self> {
        let (header, _) = packet.split_first_chunk::<HEADER>()?;
        let [kind, length, start, _, worker @ ..] = *header;
        let worker = u64::from_le_bytes(worker);
        let body = packet.get(usize::from(start).max(HEADER)..)?;
        match kind {
            MESSAGE => {
                let (topic, bytes) = body.split_at_checked(length.into())?;
                let topic = str::from_utf8(topic).ok()?;
                Some(Self::Message {
                    worker,
                    topic,
                    bytes,
                })
            }
            MISSED => Some(Self::Missed {
                worker,
                topics: Missed(body),
            }),
            _ => None,
        }
    }

    /// Who has sent it.
    pub(crate) fn worker(&self) -> u64 {
        let (Self::Message { worker, .. } | Self::Missed { worker, .. }) = self;
        *worker
    }
}

/// Topics, and how many messages of each were not sent.
#[derive(Clone, Debug)]
pub(crate) struct Missed<'a>(&'a [u8]);

impl<'a> Iterator for Missed<'a> {
    type Item = (&'a str, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let (count, rest) = self.0.split_first_chunk::<COUNT>()?;
        let (length, rest) = rest.split_first()?;
        let (topic, rest) = rest.split_at_checked((*length).into())?;
        self.0 = rest;
        Some((str::from_utf8(topic).ok()?, u64::from_le_bytes(*count)))
    }
}

fn header(kind: u8, length: u8, worker: u64) -> [u8; HEADER] {
    let [a, b, c, d, e, f, g, h] = worker.to_le_bytes();
    [kind, length, 12, 0, a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let topic = "t".repeat(MOST_TOPIC);
        for (topic, bytes) in [
            ("a", vec![]),
            ("ä", vec![1, 2]),
            (&topic, vec![7; MOST_BYTES]),
        ] {
            let outgoing = Outgoing::new(u64::MAX - 1, topic, &bytes);
            let packet = outgoing.packet();
            let parts: usize = outgoing.parts().iter().map(|part| part.len()).sum();
            assert_eq!(packet.len(), parts);
            assert!(packet.len() <= MOST);
            assert_eq!(topic_of(&packet), topic);
            let Some(Incoming::Message {
                worker,
                topic: its,
                bytes: content,
            }) = Incoming::read(&packet)
            else {
                panic!("{packet:?}");
            };
            assert_eq!((worker, its, content), (u64::MAX - 1, topic, &bytes[..]));
        }
    }

    #[test]
    fn a_newer_program_may_say_more() {
        let mut packet = Outgoing::new(3, "a", b"x").packet().to_vec();
        packet[2] += 4;
        packet.splice(12..12, [9; 4]);
        let message = Incoming::read(&packet);
        assert!(matches!(
            message,
            Some(Incoming::Message {
                worker: 3,
                topic: "a",
                bytes: b"x"
            })
        ));
        packet[0] = 77;
        assert!(Incoming::read(&packet).is_none());
    }

    #[test]
    fn what_is_missed_is_named_as_far_as_there_is_room() {
        let topics: Vec<String> = (0..1_000).map(|n| format!("{n:0255}")).collect();
        let all = topics.iter().map(|topic| (topic.as_str(), 5));
        let (packet, named) = missed(9, all);
        assert!(packet.len() <= MOST && named > 200);
        let Some(Incoming::Missed {
            worker: 9,
            topics: told,
        }) = Incoming::read(&packet)
        else {
            panic!("{packet:?}");
        };
        assert_eq!(told.clone().count(), named);
        assert!(
            told.zip(&topics)
                .all(|((topic, count), its)| topic == its && count == 5)
        );
    }

    #[test]
    fn no_packet_is_too_short_to_be_read() {
        let message = Outgoing::new(3, "topic", b"").packet();
        let (missed, _) = missed(3, [("topic", 1)].into_iter());
        for length in 0..message.len() {
            assert!(Incoming::read(&message[..length]).is_none());
        }
        for length in 0..missed.len() {
            if let Some(Incoming::Missed { topics, .. }) = Incoming::read(&missed[..length]) {
                assert_eq!(topics.count(), 0);
            }
        }
    }
}
