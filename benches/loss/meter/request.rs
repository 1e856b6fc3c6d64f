//! What the clients ask, and what the right answer is.

use std::fmt::Write as _;

/// A request with its answer. Its id is nobody else's, and both the answer's `x-id` and its body hold it, so that a
/// mixed-up or smuggled answer is seen.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) id: String,
    pub(super) body: Vec<u8>,
    /// In chunks of so many bytes; 0: with its length.
    chunks: usize,
    close: bool,
    /// The body of the right answer.
    pub(super) expect: Vec<u8>,
}

impl Request {
    /// The answer's body is the id.
    pub(super) fn id(id: String) -> Self {
        let expect = id.clone().into_bytes();
        Self::new("GET", "/loss/id".to_owned(), id, Vec::new(), expect)
    }

    /// ... after so many milliseconds.
    pub(super) fn sleep(id: String, ms: u64) -> Self {
        let expect = id.clone().into_bytes();
        Self::new(
            "GET",
            format!("/loss/sleep?ms={ms}"),
            id,
            Vec::new(),
            expect,
        )
    }

    /// The answer's body is the request's, about so many bytes.
    pub(super) fn echo(id: String, size: usize) -> Self {
        let body = lines(&id, size);
        let expect = body.clone();
        Self::new("POST", "/loss/echo".to_owned(), id, body, expect)
    }

    /// The answer has about so many bytes, in chunks.
    pub(super) fn big(id: String, size: usize) -> Self {
        let expect = lines(&id, size);
        let path = format!("/loss/big?bytes={}", expect.len());
        Self::new("GET", path, id, Vec::new(), expect)
    }

    /// The answer says how many bytes have arrived, and their checksum.
    pub(super) fn upload(id: String, size: usize, chunks: usize) -> Self {
        let body = lines(&id, size);
        let expect = format!("{id} {} {:016x}", body.len(), checksum(CHECKSUM, &body));
        let mut request = Self::new(
            "POST",
            "/loss/upload".to_owned(),
            id,
            body,
            expect.into_bytes(),
        );
        request.chunks = chunks;
        request
    }

    /// A stream of events.
    pub(super) fn events(id: String) -> Self {
        Self::new("GET", "/loss/sse".to_owned(), id, Vec::new(), Vec::new())
    }

    fn new(method: &'static str, path: String, id: String, body: Vec<u8>, expect: Vec<u8>) -> Self {
        Self {
            method,
            path,
            id,
            body,
            chunks: 0,
            close: false,
            expect,
        }
    }

    /// Asks the server to close the connection behind the answer.
    pub(super) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    pub(super) fn what(&self) -> String {
        format!("{} {} {}", self.method, self.path, self.id)
    }

    /// As HTTP/1.1. The head's length comes second.
    pub(super) fn bytes(&self) -> (Vec<u8>, usize) {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nhost: loss\r\nx-id: {}\r\n",
            self.method, self.path, self.id
        );
        if self.close {
            head.push_str("connection: close\r\n");
        }
        if self.chunks > 0 {
            head.push_str("transfer-encoding: chunked\r\n");
        } else if !self.body.is_empty() {
            let _ = write!(head, "content-length: {}\r\n", self.body.len());
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        let length = bytes.len();
        if self.chunks > 0 {
            for chunk in self.body.chunks(self.chunks) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
        } else {
            bytes.extend_from_slice(&self.body);
        }
        (bytes, length)
    }

    /// What is wrong with a complete answer.
    pub(super) fn judge(&self, status: u16, id: Option<&str>, body: &[u8]) -> Result<(), String> {
        if status != 200 {
            let start = String::from_utf8_lossy(&body[..body.len().min(80)]);
            return Err(format!("status {status}: {start:?}"));
        }
        if id != Some(&self.id) {
            return Err(format!("the answer to {:?}", id.unwrap_or_default()));
        }
        if body != self.expect {
            let same = body.iter().zip(&self.expect).take_while(|(a, b)| a == b);
            return Err(format!(
                "another body: {} bytes for {}, the same up to {}",
                body.len(),
                self.expect.len(),
                same.count()
            ));
        }
        Ok(())
    }
}

/// The id again and again, so that no part of a body fits another request.
pub(crate) fn lines(id: &str, size: usize) -> Vec<u8> {
    let line = format!("{id}\n");
    let times = (size / line.len()).max(1);
    line.repeat(times).into_bytes()
}

/// The checksum of nothing.
pub(crate) const CHECKSUM: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a; goes on from the checksum of what came before.
pub(crate) fn checksum(before: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(before, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
