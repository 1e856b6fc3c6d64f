//! WebSocket frames (RFC 6455, 5.2), as far as the meter and the service that it measures need them: whole messages
//! of less than 64 KiB.

/// The key of the RFC's own example (1.3), and the answer to it. The meter's clients all send it: it guards caches
/// against a mix-up that cannot happen here, and so neither side needs a SHA-1.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) const TEXT: u8 = 1;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const LONG: u8 = 126;

#[derive(Debug, PartialEq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            opcode,
            payload: payload.into(),
        }
    }

    pub(crate) fn close(code: u16) -> Self {
        Self::new(CLOSE, code.to_be_bytes())
    }

    /// The code of a close frame; 1005 stands for none (7.4.1).
    pub(crate) fn code(&self) -> u16 {
        match self.payload[..] {
            [high, low, ..] => u16::from_be_bytes([high, low]),
            _ => 1005,
        }
    }

    /// `mask`: what a client must give, and a server must not.
    pub(crate) fn bytes(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let masked = if mask.is_some() { MASKED } else { 0 };
        let mut bytes = vec![FIN | self.opcode];
        match u8::try_from(self.payload.len()) {
            Ok(length) if length < LONG => bytes.push(masked | length),
            _ => {
                let length = u16::try_from(self.payload.len()).unwrap_or(u16::MAX);
                bytes.push(masked | LONG);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
        }
        bytes.extend_from_slice(&mask.unwrap_or_default()[..if mask.is_some() { 4 } else { 0 }]);
        let start = bytes.len();
        bytes.extend_from_slice(&self.payload);
        apply(&mut bytes[start..], mask);
        bytes
    }

    /// The first frame and its length; none: it is not whole yet.
    ///
    /// # Errors
    /// It is a part of a message, or too long.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        if first & 0xf0 != FIN {
            return Err(format!("a frame that begins with {first:#04x}"));
        }
        let (length, rest) = match (second & !MASKED, rest) {
            (LONG, [high, low, rest @ ..]) => {
                (usize::from(u16::from_be_bytes([*high, *low])), rest)
            }
            (LONG, _) => return Ok(None),
            (127, _) => return Err("a frame of more than 64 KiB".to_owned()),
            (length, rest) => (usize::from(length), rest),
        };
        let (mask, rest) = match (second & MASKED, rest) {
            (0, rest) => (None, rest),
            (_, [a, b, c, d, rest @ ..]) => (Some([*a, *b, *c, *d]), rest),
            _ => return Ok(None),
        };
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let mut payload = payload.to_vec();
        apply(&mut payload, mask);
        let used = bytes.len() - rest.len() + length;
        Ok(Some((Self::new(first & 0x0f, payload), used)))
    }
}

fn apply(payload: &mut [u8], mask: Option<[u8; 4]>) {
    if let Some(mask) = mask {
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
    }
}
