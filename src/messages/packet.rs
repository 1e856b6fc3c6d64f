//! What goes over a mailbox: packets of one or more records.
//!
//! ```text
//! kind  topic's length  header's length  0  length, 4 bytes  worker, 8 bytes   topic  bytes
//! kind  0               header's length  0  length, 4 bytes  worker, 8 bytes   (count, 8 bytes  length  topic)…
//! ```
//!
//! The first is a message, the second says of which topics messages were not sent, and how many. Numbers are
//! little-endian; a record's length is that of what follows its header. During a reload an old and a new program speak
//! this with each other: what a header has more than is known here is passed over, and so is a record of an unknown
//! kind. What is there already stays as it is.

use std::io::IoSlice;

use bytes::Bytes;

use super::Messages;

const MOST_BYTES: usize = Messages::MOST_BYTES;
const MOST_TOPIC: usize = Messages::MOST_TOPIC;
/// It says so itself.
const HEADER: usize = 16;
const COUNT: usize = size_of::<u64>();
/// No packet is larger, and no record.
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
        let name = u8::try_from(topic.len()).unwrap_or(u8::MAX);
        Self {
            header: header(MESSAGE, name, topic.len() + bytes.len(), worker),
            topic,
            bytes,
        }
    }

    pub(crate) fn parts(&self) -> [IoSlice<'_>; 3] {
        [&self.header, self.topic.as_bytes(), self.bytes].map(IoSlice::new)
    }

    /// The record in one piece, to be kept.
    pub(crate) fn record(&self) -> Bytes {
        [&self.header, self.topic.as_bytes(), self.bytes]
            .concat()
            .into()
    }
}

/// The topic of a record that [`Outgoing::record`] has made.
pub(crate) fn topic_of(record: &[u8]) -> &str {
    match Records(record).next() {
        Some(Incoming::Message { topic, .. }) => topic,
        _ => "",
    }
}

/// A record of messages that were not sent, with how many of each topic; the empty topic stands for others that could
/// not be named. Gives back how many topics are in it.
pub(crate) fn missed<'a>(
    worker: u64,
    topics: impl Iterator<Item = (&'a str, u64)>,
) -> (Vec<u8>, usize) {
    let (mut list, mut named) = (Vec::new(), 0);
    for (topic, count) in topics {
        if HEADER + list.len() + COUNT + 1 + topic.len() > MOST {
            break;
        }
        list.extend(count.to_le_bytes());
        list.push(u8::try_from(topic.len()).unwrap_or(u8::MAX));
        list.extend(topic.as_bytes());
        named += 1;
    }
    let header = header(MISSED, 0, list.len(), worker);
    list.splice(..0, header);
    (list, named)
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
    /// Not known here.
    Other,
}

impl Incoming<'_> {
    /// Who has sent it.
    pub(crate) fn worker(&self) -> u64 {
        match self {
            Self::Message { worker, .. } | Self::Missed { worker, .. } => *worker,
            Self::Other => 0,
        }
    }
}

/// The records of a packet, up to one that is cut off.
#[derive(Clone, Debug)]
pub(crate) struct Records<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Incoming<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.0.split_first_chunk::<HEADER>()?;
        let [kind, name, start, _, l0, l1, l2, l3, worker @ ..] = *header;
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok()?;
        let start = usize::from(start).max(HEADER);
        let (body, rest) = self.0.get(start..)?.split_at_checked(length)?;
        self.0 = rest;
        let worker = u64::from_le_bytes(worker);
        Some(match kind {
            MESSAGE => message(worker, name, body).unwrap_or(Incoming::Other),
            MISSED => Incoming::Missed {
                worker,
                topics: Missed(body),
            },
            _ => Incoming::Other,
        })
    }
}

fn message(worker: u64, name: u8, body: &[u8]) -> Option<Incoming<'_>> {
    let (topic, bytes) = body.split_at_checked(name.into())?;
    let topic = str::from_utf8(topic).ok()?;
    Some(Incoming::Message {
        worker,
        topic,
        bytes,
    })
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

fn header(kind: u8, name: u8, length: usize, worker: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..3].copy_from_slice(&[kind, name, 16]);
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..].copy_from_slice(&worker.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(packet: &[u8]) -> Incoming<'_> {
        let mut records = Records(packet);
        let first = records.next().expect("a record");
        assert!(records.next().is_none() && records.0.is_empty());
        first
    }

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let long = "t".repeat(MOST_TOPIC);
        for (topic, bytes) in [
            ("a", vec![]),
            ("ä", vec![1, 2]),
            (&long, vec![7; MOST_BYTES]),
        ] {
            let outgoing = Outgoing::new(u64::MAX - 1, topic, &bytes);
            let record = outgoing.record();
            let parts: usize = outgoing.parts().iter().map(|part| part.len()).sum();
            assert_eq!(record.len(), parts);
            assert!(record.len() <= MOST);
            assert_eq!(topic_of(&record), topic);
            let Incoming::Message {
                worker,
                topic: its,
                bytes: content,
            } = only(&record)
            else {
                panic!("{record:?}");
            };
            assert_eq!((worker, its, content), (u64::MAX - 1, topic, &bytes[..]));
        }
    }

    /// As a program writes it that is out there: none of this may change.
    const SAID: [&[u8]; 2] = [
        b"\x01\x04\x10\x00\x0c\x00\x00\x00\x02\x01\x00\x00\x00\x00\x00\x00newsit rains",
        b"\x02\x00\x10\x00\x16\x00\x00\x00\x02\x01\x00\x00\x00\x00\x00\x00\
          \x03\x00\x00\x00\x00\x00\x00\x00\x04news\x01\x00\x00\x00\x00\x00\x00\x00\x00",
    ];

    #[test]
    fn the_bytes_are_those_that_other_programs_know() {
        let message = Outgoing::new(258, "news", b"it rains").record();
        assert_eq!(message, SAID[0]);
        let (missed, _) = missed(258, [("news", 3), ("", 1)].into_iter());
        assert_eq!(missed, SAID[1]);
        let Incoming::Message {
            worker: 258,
            topic: "news",
            bytes: b"it rains",
        } = only(SAID[0])
        else {
            panic!("{:?}", only(SAID[0]));
        };
        let Incoming::Missed {
            worker: 258,
            topics,
        } = only(SAID[1])
        else {
            panic!("{:?}", only(SAID[1]));
        };
        assert!(topics.eq([("news", 3), ("", 1)]));
    }

    #[test]
    fn a_newer_program_may_say_more() {
        let mut packet = Outgoing::new(3, "a", b"x").record().to_vec();
        packet[2] += 4;
        packet.splice(HEADER..HEADER, [9; 4]);
        let known = packet.clone();
        packet[0] = 77;
        packet.extend(known);
        let records: Vec<_> = Records(&packet).collect();
        assert!(matches!(
            records[..],
            [
                Incoming::Other,
                Incoming::Message {
                    worker: 3,
                    topic: "a",
                    bytes: b"x"
                }
            ]
        ));
    }

    #[test]
    fn what_is_missed_is_named_as_far_as_there_is_room() {
        let topics: Vec<String> = (0..1_000).map(|n| format!("{n:0255}")).collect();
        let all = topics.iter().map(|topic| (topic.as_str(), 5));
        let (packet, named) = missed(9, all);
        assert!(packet.len() <= MOST && named > 200);
        let Incoming::Missed {
            worker: 9,
            topics: told,
        } = only(&packet)
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
        let message = Outgoing::new(3, "topic", b"").record();
        let (missed, _) = missed(3, [("topic", 1)].into_iter());
        for packet in [&message[..], &missed] {
            for length in 0..packet.len() {
                assert!(Records(&packet[..length]).next().is_none());
            }
        }
        // Of nonsense that looks like a record.
        let nonsense = [1, 200, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 7];
        assert!(matches!(only(&nonsense), Incoming::Other));
    }
}
