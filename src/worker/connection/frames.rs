//! Where the frames of a WebSocket end, as its server writes them (RFC 6455, section 5.2).

/// What a server that goes away says last: a close frame with 1001 (sections 5.5.1 and 7.4.1).
pub(super) const GOING_AWAY: &[u8] = &[0x88, 0x02, 0x03, 0xe9];

/// Opcode, length, the longest extended length, mask.
const LONGEST_HEAD: usize = 2 + 8 + 4;
const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x8;
const MASKED: u8 = 0x80;

/// Follows a stream of frames. It reads their heads only, and needs none of the bytes again.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; LONGEST_HEAD],
    /// How much of the head is there.
    read: usize,
    /// What is to come of the payload.
    payload: u64,
    closed: bool,
}

impl Frames {
    /// These bytes come next.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self.rest().min(bytes.len());
            let (now, later) = bytes.split_at(count);
            bytes = later;
            if self.payload > 0 {
                self.payload -= count as u64;
                continue;
            }
            self.head[self.read..self.read + count].copy_from_slice(now);
            self.read += count;
            if self.read == self.head_size() {
                self.payload = self.length();
                self.closed |= self.head[0] & OPCODE == CLOSE;
                self.read = 0;
            }
        }
    }

    /// Nothing of a frame is missing.
    pub(super) fn are_whole(&self) -> bool {
        self.read == 0 && self.payload == 0
    }

    /// Whether a close frame was among them: nothing may follow it.
    pub(super) fn are_closed(&self) -> bool {
        self.closed
    }

    /// How many bytes may pass before there is something new to know. Never zero.
    pub(super) fn rest(&self) -> usize {
        match self.payload {
            0 => self.head_size() - self.read,
            rest => usize::try_from(rest).unwrap_or(usize::MAX),
        }
    }

    /// As far as the bytes that are there say it.
    fn head_size(&self) -> usize {
        if self.read < 2 {
            return 2;
        }
        // A server does not mask. Should it do so all the same, its frames have ends as well.
        let mask = if self.head[1] & MASKED == 0 { 0 } else { 4 };
        2 + self.extended_size() + mask
    }

    /// Of the length that does not fit into seven bits.
    fn extended_size(&self) -> usize {
        match self.head[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        }
    }

    fn length(&self) -> u64 {
        match self.extended_size() {
            0 => u64::from(self.head[1] & !MASKED),
            size => self.head[2..2 + size]
                .iter()
                .fold(0, |length, byte| length << 8 | u64::from(*byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, length: usize, mask: bool) -> Vec<u8> {
        let masked = if mask { MASKED } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match length {
            0..126 => bytes.push(masked | u8::try_from(length).unwrap()),
            126..0x1_0000 => {
                bytes.push(masked | 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(masked | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.resize(bytes.len() + if mask { 4 } else { 0 }, 0x88);
        // Bytes that would be close frames.
        bytes.resize(bytes.len() + length, 0x88);
        bytes
    }

    #[test]
    fn a_frame_is_whole_after_its_last_byte_wherever_it_is_split() {
        for length in [0, 1, 2, 125, 126, 127, 200, 0xffff, 0x1_0000, 70_000] {
            for mask in [false, true] {
                let bytes = frame(2, length, mask);
                // All of the head, and a few in the payload.
                let splits = (0..20.min(bytes.len())).chain([bytes.len() - 1]);
                for split in splits {
                    let mut frames = Frames::default();
                    frames.pass(&bytes[..split]);
                    assert_eq!(frames.are_whole(), split == 0, "{length} at {split}");
                    assert!(frames.rest() <= bytes.len() - split);
                    frames.pass(&bytes[split..]);
                    assert!(frames.are_whole(), "{length} at {split}");
                    assert!(!frames.are_closed());
                }
            }
        }
    }

    #[test]
    fn frames_follow_each_other_byte_by_byte_and_in_one_piece() {
        let lengths = [0, 5, 126, 3, 70_000, 0, 127];
        let bytes: Vec<u8> = lengths.iter().flat_map(|n| frame(1, *n, false)).collect();
        let mut whole = Frames::default();
        whole.pass(&bytes);
        assert!(whole.are_whole());
        let mut frames = Frames::default();
        let mut ends = 0;
        for byte in &bytes {
            frames.pass(&[*byte]);
            ends += usize::from(frames.are_whole());
        }
        assert_eq!(ends, lengths.len());
        assert!(!frames.are_closed());
    }

    #[test]
    fn the_rest_ends_at_the_end_of_the_frame() {
        for length in [0, 7, 126, 0x1_0000] {
            let bytes = [frame(2, length, false), frame(2, 1, false)].concat();
            let mut frames = Frames::default();
            frames.pass(&bytes[..1]);
            let mut passed = 1;
            while !frames.are_whole() {
                let count = frames.rest();
                frames.pass(&bytes[passed..passed + count]);
                passed += count;
            }
            assert_eq!(passed, frame(2, length, false).len());
        }
    }

    #[test]
    fn a_close_frame_is_one_as_soon_as_its_head_is_there() {
        let mut frames = Frames::default();
        frames.pass(&frame(2, 300, false));
        frames.pass(&GOING_AWAY[..1]);
        assert!(!frames.are_closed());
        frames.pass(&GOING_AWAY[1..3]);
        assert!(frames.are_closed() && !frames.are_whole());
        frames.pass(&GOING_AWAY[3..]);
        assert!(frames.are_closed() && frames.are_whole());
    }

    #[test]
    fn a_length_that_no_memory_holds_is_waited_for() {
        let mut frames = Frames::default();
        frames.pass(&[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(frames.rest(), usize::MAX);
        frames.pass(&[0; 4096]);
        assert!(!frames.are_whole());
    }
}
