//! WebSockets as a client sees them: one that knows the protocol, and one that sees every byte.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tungstenite::protocol::WebSocketConfig;
pub(crate) use tungstenite::protocol::frame::coding::CloseCode;
pub(crate) use tungstenite::{Error, Message, WebSocket};

use super::http::Client;

/// Of a message and of a frame.
const LARGEST: usize = 64 << 20;

/// The key of RFC 6455 (1.3), and the answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A WebSocket by somebody else's code.
#[track_caller]
pub(crate) fn connect(address: SocketAddr, path: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(address).expect("no connection is refused");
    let limit = Some(Duration::from_secs(60));
    stream.set_read_timeout(limit).expect("setsockopt");
    stream.set_write_timeout(limit).expect("setsockopt");
    stream.set_nodelay(true).expect("setsockopt");
    let config = WebSocketConfig::default()
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    let url = format!("ws://{address}{path}");
    let connected = tungstenite::client::client_with_config(url, stream, Some(config));
    connected.expect("an upgrade").0
}

/// The next message, as text.
#[track_caller]
pub(crate) fn text(socket: &mut WebSocket<TcpStream>) -> String {
    let message = socket.read().expect("a message");
    message.into_text().expect("text").as_str().to_owned()
}

/// The pid of the worker that has it.
#[track_caller]
pub(crate) fn worker_of(socket: &mut WebSocket<TcpStream>) -> u32 {
    socket.send("pid".into()).expect("an open WebSocket");
    text(socket).parse().expect("a pid")
}

/// Reads to the end, which must be a good one: whole frames, a close frame, and no byte behind it. Gives back its code
/// and the messages before it.
#[track_caller]
pub(crate) fn rest(socket: &mut WebSocket<TcpStream>) -> (u16, Vec<Message>) {
    let (mut code, mut messages) = (None, Vec::new());
    loop {
        match socket.read() {
            // Without a code: RFC 6455, 7.4.1.
            Ok(Message::Close(frame)) => code = Some(frame.map_or(1005, |frame| frame.code.into())),
            Ok(message) => messages.push(message),
            Err(Error::ConnectionClosed) => return (code.expect("a close frame"), messages),
            Err(error) => panic!("{error} after {} messages", messages.len()),
        }
    }
}

/// The request, for a client that sees the bytes.
pub(crate) fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// A WebSocket of which the test sees every byte.
#[track_caller]
pub(crate) fn upgrade(client: &mut Client, path: &str) {
    client
        .send_bytes(request(path))
        .expect("an open connection");
    expect_upgrade(client);
}

#[track_caller]
pub(crate) fn expect_upgrade(client: &mut Client) {
    let response = client.answer().expect("a response");
    assert_eq!(response.status, 101, "{}", response.head);
    assert_eq!(response.header("sec-websocket-accept"), Some(ACCEPT));
    assert!(!response.announces_close(), "{}", response.head);
}

/// A frame that is a whole message, as a client must send it: masked.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![0x80 | opcode];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..126) => bytes.push(0x80 | u8::try_from(length).expect("short")),
        Ok(length) => {
            bytes.push(0x80 | 126);
            bytes.extend(length.to_be_bytes());
        }
        Err(_) => {
            bytes.push(0x80 | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    let masked = payload.iter().zip(mask.iter().cycle());
    bytes.extend(masked.map(|(byte, mask)| byte ^ mask));
    bytes
}
