//! An HTTP/1.1 client that hides nothing: bytes go out as they are written, and what comes back is taken apart
//! just enough to be asserted on.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::DEADLINE;

/// One connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

/// One response, whole.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Client {
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("connect to the service")
    }

    pub(crate) fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// One GET on this connection, which stays open.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.try_get(path)
            .expect("an exchange")
            .expect("a response and not the end of the connection")
    }

    /// `None`: the service closed the connection instead of answering.
    pub(crate) fn try_get(&mut self, path: &str) -> io::Result<Option<Response>> {
        self.send(request(path))?;
        self.response()
    }

    /// The next response; `None`: the connection has ended before its first byte.
    pub(crate) fn response(&mut self) -> io::Result<Option<Response>> {
        let Some(status) = self.line()? else {
            return Ok(None);
        };
        let status = status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| invalid(&format!("a status line: {status:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?.ok_or(ErrorKind::UnexpectedEof)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| invalid(&format!("a header: {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Response {
            status,
            headers,
            body: String::new(),
        };
        let body = if response.header("transfer-encoding") == Some("chunked") {
            self.chunks()?
        } else {
            let length = response
                .header("content-length")
                .and_then(|length| length.parse().ok());
            self.bytes(length.ok_or_else(|| invalid("a length"))?)?
        };
        response.body = String::from_utf8(body).map_err(|_| invalid("text"))?;
        Ok(Some(response))
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

    /// Whether the service has closed the connection by now. Does not wait.
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

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = self.line()?.ok_or(ErrorKind::UnexpectedEof)?;
            let size = usize::from_str_radix(&size, 16).map_err(|_| invalid("a chunk's size"))?;
            body.extend(self.bytes(size)?);
            self.line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if !line.ends_with('\n') {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(line.trim_end().to_owned()))
    }
}

impl Response {
    /// The first header of this name, given in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
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

/// One GET on a connection of its own, to its end.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    try_get(address, path).expect("a response")
}

pub(crate) fn try_get(address: SocketAddr, path: &str) -> io::Result<Response> {
    let mut client = Client::try_connect(address)?;
    client.send(last_request(path))?;
    let response = client.response()?.ok_or(ErrorKind::UnexpectedEof)?;
    // The server closes first, so that this side's port is free again at once.
    client.stream.read_to_end(&mut Vec::new())?;
    Ok(response)
}

/// A request that leaves the connection open.
pub(crate) fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")
}

/// A request that asks for the end of the connection.
pub(crate) fn last_request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not {what}"))
}
