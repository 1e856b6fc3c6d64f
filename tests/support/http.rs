//! HTTP/1.1 as a client speaks it, byte by byte: what it sent and what came back is the test's own.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// A connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Status line and fields, as they came.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// One request on a connection of its own, to the end of the connection.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    try_get(address, path).expect("a response")
}

pub(crate) fn try_get(address: SocketAddr, path: &str) -> io::Result<Response> {
    let mut client = Client::connect(address)?;
    client.send_bytes(last_request(path))?;
    let response = client.answer()?;
    // The server closes first, so that this side's port is free again at once.
    client.stream.read_to_end(&mut Vec::new())?;
    Ok(response)
}

/// A request that leaves the connection open.
pub(crate) fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// A request that asks for the end of the connection.
pub(crate) fn last_request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect(address)?)
    }

    pub(crate) fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(512, stream),
        })
    }

    /// Asks and waits for the answer.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send(path)?;
        self.answer()
    }

    /// Asks, and does not wait.
    pub(crate) fn send(&mut self, path: &str) -> io::Result<()> {
        self.send_bytes(request(path))
    }

    pub(crate) fn send_bytes(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// The next response.
    pub(crate) fn answer(&mut self) -> io::Result<Response> {
        let end = || io::Error::new(ErrorKind::UnexpectedEof, "the end instead of a response");
        self.answer_or_end()?.ok_or_else(end)
    }

    /// The next response; `None`: the connection has ended before its first byte.
    pub(crate) fn answer_or_end(&mut self) -> io::Result<Option<Response>> {
        let Some(head) = self.head()? else {
            return Ok(None);
        };
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        let length = field(&head, "content-length").and_then(|text| text.parse().ok());
        let chunked = field(&head, "transfer-encoding").is_some();
        let body = match (length, chunked) {
            (Some(length), _) => {
                let mut body = vec![0; length];
                self.stream.read_exact(&mut body)?;
                body
            }
            (None, true) => self.chunks()?,
            (None, false) => Vec::new(),
        };
        Ok(Some(Response {
            status: status.ok_or_else(|| io::Error::other(format!("no status: {head}")))?,
            body: String::from_utf8_lossy(&body).into_owned(),
            head,
        }))
    }

    /// The way to the server, for another thread.
    pub(crate) fn writer(&self) -> io::Result<TcpStream> {
        self.stream.get_ref().try_clone()
    }

    /// So many bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Every byte until the end of the connection.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Whether the server has closed the connection; waits for it or for a byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.stream.fill_buf().map_or(true, <[u8]>::is_empty)
    }

    /// Whether the server has closed the connection by now; does not wait.
    pub(crate) fn has_ended(&mut self) -> bool {
        let stream = self.stream.get_ref();
        stream.set_nonblocking(true).expect("fcntl");
        let ended = match stream.peek(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        stream.set_nonblocking(false).expect("fcntl");
        ended
    }

    /// Whether a byte of an answer is here; does not wait.
    pub(crate) fn has_answer(&mut self) -> bool {
        let stream = self.stream.get_ref();
        stream.set_nonblocking(true).expect("fcntl");
        let has = stream.peek(&mut [0]).is_ok_and(|count| count > 0);
        stream.set_nonblocking(false).expect("fcntl");
        has
    }

    /// Waits for the end of the connection; what comes before it is a failure.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.stream
            .read_to_end(&mut rest)
            .expect("the service closes the connection in time");
        assert_eq!(String::from_utf8_lossy(&rest), "", "nothing but the end");
    }

    pub(crate) fn shutdown(&self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }

    /// Status line and fields of a response of which the body has no end; [`chunk`](Self::chunk) reads on.
    pub(crate) fn begin(&mut self) -> io::Result<String> {
        let end = || io::Error::new(ErrorKind::UnexpectedEof, "the end instead of a response");
        self.head()?.ok_or_else(end)
    }

    /// The next chunk of a body; empty: its end.
    pub(crate) fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let mut chunk = self.bytes(length + 2)?;
        chunk.truncate(length);
        Ok(chunk)
    }

    fn head(&mut self) -> io::Result<Option<String>> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                let end = format!("the connection ended after {head:?}");
                let error = io::Error::new(ErrorKind::UnexpectedEof, end);
                return if head.is_empty() {
                    Ok(None)
                } else {
                    Err(error)
                };
            }
        }
        Ok(Some(head))
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(body);
            }
            body.extend(chunk);
        }
    }
}

impl Response {
    /// The first field of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// The server says that this was the last response on its connection.
    pub(crate) fn announces_close(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The body without its newline.
    pub(crate) fn text(&self) -> &str {
        self.body.trim_end()
    }

    /// The body as a number: most answers are a pid.
    #[track_caller]
    pub(crate) fn number(&self) -> u32 {
        self.text().parse().expect("a number")
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
