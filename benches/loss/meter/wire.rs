//! HTTP/1.1 answers, as they come off a connection.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use super::address::Stream;

/// A connection, and what was read from it but not used yet.
pub(super) struct Wire {
    pub(super) stream: Stream,
    pub(super) inbox: BytesMut,
}

/// Why no (further) answer comes.
#[derive(Debug)]
pub(super) enum Broken {
    /// End of file.
    Closed,
    Reset(io::Error),
    /// Not a byte for longer than the patience.
    Silent,
    /// What came is not HTTP.
    Garbled(String),
}

/// What an idle connection may not do.
#[derive(Debug)]
pub(super) enum Stir {
    Broken(Broken),
    /// Bytes that nobody asked for.
    Bytes(String),
}

/// Status line and fields.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    fields: Vec<(String, String)>,
    /// The connection ends with this answer.
    pub(super) closes: bool,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
}

/// How the end of a body is told (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// Reads answers from `from`.
pub(super) struct Reader<'a, R> {
    from: R,
    inbox: &'a mut BytesMut,
    patience: Duration,
}

/// An answer that did not come whole; `within`: a part of it had come.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) broken: Broken,
    pub(super) within: bool,
}

/// Longer lines than this one are no HTTP that our server would speak.
const MAX_HEAD: usize = 64 * 1024;
const MAX_BODY: usize = 64 << 20;

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            inbox: BytesMut::new(),
        }
    }

    /// Resolves when the server does something although nothing was asked. Cancel-safe.
    pub(super) async fn stirs(&mut self) -> Stir {
        if self.inbox.is_empty() {
            match self.stream.read_buf(&mut self.inbox).await {
                Ok(0) => return Stir::Broken(Broken::Closed),
                Err(error) => return Stir::Broken(Broken::Reset(error)),
                Ok(_) => (),
            }
        }
        let start = &self.inbox[..self.inbox.len().min(80)];
        Stir::Bytes(format!("{:?}", String::from_utf8_lossy(start)))
    }
}

impl<'a, R: AsyncRead + Unpin> Reader<'a, R> {
    pub(super) fn new(from: R, inbox: &'a mut BytesMut, patience: Duration) -> Self {
        Self {
            from,
            inbox,
            patience,
        }
    }

    /// The next whole answer; interim ones (1xx but 101) are skipped.
    pub(super) async fn answer(&mut self) -> Result<Answer, Missing> {
        let before = |broken, reader: &Self| Missing {
            broken,
            within: !reader.inbox.is_empty(),
        };
        let head = match self.head().await {
            Ok(head) => head,
            Err(broken) => return Err(before(broken, self)),
        };
        match self.body(&head).await {
            Ok(body) => Ok(Answer { head, body }),
            Err(broken) => Err(Missing {
                broken,
                within: true,
            }),
        }
    }

    /// Leaves what came of a head that did not come whole in the inbox.
    pub(super) async fn head(&mut self) -> Result<Head, Broken> {
        loop {
            let head = loop {
                if let Some(end) = find(self.inbox, b"\r\n\r\n") {
                    break self.inbox.split_to(end + 4);
                }
                if self.inbox.len() > MAX_HEAD {
                    return Err(Broken::Garbled("a head without an end".to_owned()));
                }
                self.fill().await?;
            };
            let head = Head::parse(&head).map_err(Broken::Garbled)?;
            if head.status >= 200 || head.status == 101 {
                return Ok(head);
            }
        }
    }

    async fn body(&mut self, head: &Head) -> Result<Vec<u8>, Broken> {
        let mut body = Vec::new();
        match head.framing().map_err(Broken::Garbled)? {
            Framing::Length(length) => {
                while self.inbox.len() < length {
                    self.fill().await?;
                }
                body.extend_from_slice(&self.inbox.split_to(length));
            }
            Framing::Chunked => {
                while let Some(chunk) = self.chunk().await? {
                    body.extend_from_slice(&chunk);
                    if body.len() > MAX_BODY {
                        return Err(Broken::Garbled("a body without an end".to_owned()));
                    }
                }
            }
            Framing::UntilClose => loop {
                match self.fill().await {
                    Ok(()) => body.extend_from_slice(&self.inbox.split()),
                    Err(Broken::Closed) => break,
                    Err(broken) => return Err(broken),
                }
            },
        }
        Ok(body)
    }

    /// The next chunk of a chunked body; none: that was its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<BytesMut>, Broken> {
        let line = loop {
            if let Some(end) = find(self.inbox, b"\r\n") {
                break self.inbox.split_to(end + 2);
            }
            self.fill().await?;
        };
        let length = str::from_utf8(&line)
            .ok()
            .and_then(|line| usize::from_str_radix(line.split(';').next()?.trim(), 16).ok())
            .filter(|length| *length <= MAX_BODY)
            .ok_or_else(|| Broken::Garbled(format!("{line:?} is no chunk size")))?;
        while self.inbox.len() < length + 2 {
            self.fill().await?;
        }
        let chunk = self.inbox.split_to(length);
        let end = self.inbox.split_to(2);
        if end != b"\r\n"[..] {
            return Err(Broken::Garbled(format!("a chunk ends with {end:?}")));
        }
        Ok((length > 0).then_some(chunk))
    }

    /// Reads more. Cancel-safe.
    pub(super) async fn fill(&mut self) -> Result<(), Broken> {
        match timeout(self.patience, self.from.read_buf(self.inbox)).await {
            Ok(Ok(0)) => Err(Broken::Closed),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Broken::Reset(error)),
            Err(_) => Err(Broken::Silent),
        }
    }

    pub(super) fn inbox(&mut self) -> &mut BytesMut {
        self.inbox
    }
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(bytes).map_err(|_| "a head that is no text".to_owned())?;
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let mut words = status_line.splitn(3, ' ');
        let version = words
            .next()
            .filter(|version| version.starts_with("HTTP/1."));
        let status = words.next().and_then(|word| word.parse().ok());
        let (Some(version), Some(status)) = (version, status) else {
            return Err(format!("{status_line:?} is no status line"));
        };
        let fields: Option<Vec<_>> = lines
            .take_while(|line| !line.is_empty())
            .map(|line| line.split_once(':'))
            .map(|field| field.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())))
            .collect();
        let fields = fields.ok_or_else(|| format!("a field without a colon in {text:?}"))?;
        let mut head = Self {
            status,
            fields,
            closes: false,
        };
        head.closes = head.says("connection", "close")
            || (version == "HTTP/1.0" && !head.says("connection", "keep-alive"));
        head.closes |= matches!(head.framing(), Ok(Framing::UntilClose));
        Ok(head)
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields.find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }

    /// Of the answer to a request that is not HEAD.
    pub(super) fn framing(&self) -> Result<Framing, String> {
        if self.says("transfer-encoding", "chunked") {
            return Ok(Framing::Chunked);
        }
        if matches!(self.status, 101 | 204 | 304) {
            return Ok(Framing::Length(0));
        }
        match self.field("content-length") {
            None => Ok(Framing::UntilClose),
            Some(text) => match text.parse() {
                Ok(length) if length <= MAX_BODY => Ok(Framing::Length(length)),
                _ => Err(format!("content-length: {text}")),
            },
        }
    }

    fn says(&self, name: &str, word: &str) -> bool {
        self.fields
            .iter()
            .filter(|(key, _)| key == name)
            .flat_map(|(_, value)| value.split(','))
            .any(|one| one.trim().eq_ignore_ascii_case(word))
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("end of file"),
            Self::Reset(error) => error.fmt(f),
            Self::Silent => f.write_str("silence"),
            Self::Garbled(what) => write!(f, "not HTTP: {what}"),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
