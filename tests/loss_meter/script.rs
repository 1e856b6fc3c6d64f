//! A server that does what it is told to do wrong, and is a good one otherwise.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::meter::app;
use crate::meter::request::{CHECKSUM, checksum, lines};

/// A connection of the server's, and what it has read from it.
pub(crate) struct Peer(BufReader<TcpStream>);

pub(crate) struct Asked {
    pub(crate) id: String,
    pub(crate) path: String,
    body: Vec<u8>,
}

type Deed = Box<dyn FnOnce(&mut Peer) -> io::Result<()> + Send>;

/// Serves the first connections by the deeds, one each, and those behind them as they should be, until the test ends.
pub(crate) fn server(deeds: Vec<Deed>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut deeds = VecDeque::from(deeds);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let deed = deeds.pop_front();
            thread::spawn(move || match deed {
                Some(deed) => deed(&mut Peer(BufReader::new(stream))),
                None => relay(stream),
            });
        }
    });
    address
}

/// Does something wrong on the first connection.
pub(crate) fn first(deed: impl FnOnce(&mut Peer) -> io::Result<()> + Send + 'static) -> SocketAddr {
    server(vec![Box::new(deed)])
}

/// The service itself, in this process.
pub(crate) fn good() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        serve(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app::router(None)).await.unwrap();
        });
        address
    })
}

/// Runs a server until the test ends.
pub(crate) fn serve(server: impl Future<Output = ()> + Send + 'static) {
    thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(server);
    });
}

/// Passes everything on to the good service.
fn relay(client: TcpStream) -> io::Result<()> {
    let service = TcpStream::connect(good())?;
    let there = (client.try_clone()?, service.try_clone()?);
    thread::spawn(move || pass(there.0, there.1));
    pass(service, client)
}

fn pass(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    io::copy(&mut from, &mut to)?;
    to.shutdown(Shutdown::Write)
}

impl Peer {
    /// Answers everything, until the client closes.
    pub(crate) fn serve(&mut self) -> io::Result<()> {
        loop {
            let asked = self.asked()?;
            self.answer(&asked)?;
        }
    }

    /// The next whole request.
    pub(crate) fn asked(&mut self) -> io::Result<Asked> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let field = |name: &str| {
            let mut lines = head.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let length = field("content-length").map_or(0, |text| text.parse().unwrap());
        let mut asked = Asked {
            id: field("x-id").unwrap_or_default().to_owned(),
            path: head.split(' ').nth(1).unwrap_or_default().to_owned(),
            body: vec![0; length],
        };
        self.0.read_exact(&mut asked.body)?;
        if field("transfer-encoding").is_some() {
            asked.body = self.chunks()?;
        }
        Ok(asked)
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let start = body.len();
            body.resize(start + length + 2, 0);
            self.0.read_exact(&mut body[start..])?;
            body.truncate(start + length);
            if length == 0 {
                return Ok(body);
            }
        }
    }

    pub(crate) fn answer(&mut self, asked: &Asked) -> io::Result<()> {
        self.send(&asked.right(""))
    }

    pub(crate) fn send(&mut self, text: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(text)
    }

    /// At least one byte.
    pub(crate) fn some(&mut self) -> io::Result<()> {
        let some = self.0.fill_buf()?.len();
        if some == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Closes by RST: discards, and so says that bytes were not read.
    pub(crate) fn reset(&mut self) -> io::Result<()> {
        SockRef::from(self.0.get_ref()).set_linger(Some(Duration::ZERO))
    }

    /// Returns when the client has closed.
    pub(crate) fn until_closed(&mut self) -> io::Result<()> {
        io::copy(&mut self.0, &mut io::sink()).map(|_| ())
    }

    pub(crate) fn stream(&mut self) -> &mut BufReader<TcpStream> {
        &mut self.0
    }
}

impl Asked {
    /// `fields`: more of the head, each with its line's end.
    pub(crate) fn right(&self, fields: &str) -> Vec<u8> {
        let (path, amount) = self.path.split_once('=').unwrap_or((&self.path, "0"));
        let body = match path {
            "/loss/id" => self.id.clone().into_bytes(),
            "/loss/echo" => self.body.clone(),
            "/loss/big?bytes" => lines(&self.id, amount.parse().unwrap()),
            "/loss/upload" => {
                let sum = checksum(CHECKSUM, &self.body);
                format!("{} {} {sum:016x}", self.id, self.body.len()).into_bytes()
            }
            other => panic!("{other} is not what this client asks"),
        };
        self.with(fields, &body)
    }

    pub(crate) fn with(&self, fields: &str, body: &[u8]) -> Vec<u8> {
        let (id, length) = (&self.id, body.len());
        let head =
            format!("HTTP/1.1 200 OK\r\nx-id: {id}\r\n{fields}content-length: {length}\r\n\r\n");
        [head.as_bytes(), body].concat()
    }
}
