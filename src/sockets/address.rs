//! Addresses as the operator writes them.
//!
//! | text | meaning |
//! | --- | --- |
//! | `127.0.0.1:8080`, `[::1]:8080` | this address |
//! | `:8080` | every IPv4 address of the machine, the same as `0.0.0.0:8080` |
//! | `[::]:8080` | every IPv6 address; IPv4 is not part of what this says |
//! | `unix:/run/x.sock` | a socket file, by absolute path |
//! | `unix:@name` | a name in the abstract namespace, unix(7) |
//!
//! Names are not looked up, `localhost` neither: it has two addresses, and a service should not choose.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::Address;

/// `sun_path` has 108 bytes; a path ends with a zero, an abstract name begins with one. unix(7).
const LONGEST: usize = 107;

impl Address {
    /// Port 0 is a new port each time.
    pub(crate) fn may_repeat(&self) -> bool {
        matches!(self, Self::Tcp(address) if address.port() == 0)
    }
}

impl FromStr for Address {
    /// What is wrong, and the cure where there is one.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(unix) = text.strip_prefix("unix:") {
            return parse_unix(unix);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        if let Some(port) = text.strip_prefix(':').filter(|rest| !rest.contains(':')) {
            let ip = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            return Ok(Self::Tcp(SocketAddr::new(ip, parse_port(port)?)));
        }
        Err(why_not_tcp(text))
    }
}

/// Checks a path for a Unix socket.
///
/// # Errors
/// Empty, relative, too long, or with a zero byte.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("no path".to_owned());
    }
    if !path.starts_with('/') {
        return Err("not an absolute path".to_owned());
    }
    check_bytes(path, "path")
}

fn parse_unix(text: &str) -> Result<Address, String> {
    let Some(name) = text.strip_prefix('@') else {
        check_path(text)?;
        return Ok(Address::UnixPath(PathBuf::from(text)));
    };
    if name.is_empty() {
        return Err("no name after @".to_owned());
    }
    check_bytes(name, "name")?;
    Ok(Address::UnixAbstract(name.as_bytes().to_vec()))
}

fn check_bytes(text: &str, what: &str) -> Result<(), String> {
    if text.contains('\0') {
        return Err(format!("a {what} with a zero byte"));
    }
    if text.len() > LONGEST {
        return Err(format!(
            "a {what} of {} bytes, where {LONGEST} is the most",
            text.len()
        ));
    }
    Ok(())
}

fn parse_port(text: &str) -> Result<u16, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("no port number after the last ':' but '{text}'"));
    }
    text.parse()
        .map_err(|_| format!("port {text} is larger than 65535"))
}

fn why_not_tcp(text: &str) -> String {
    if text.is_empty() {
        return "no address".to_owned();
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return format!(
            "a URL; leave out '{scheme}://' and any path, write '{}'",
            rest.trim_end_matches('/')
        );
    }
    if text.starts_with('/') || text.starts_with('@') {
        return format!("no kind of socket; write 'unix:{text}'");
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return format!(
            "only a number; write ':{text}' for every IPv4 address or '127.0.0.1:{text}'"
        );
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return format!("an IPv6 address needs brackets and a port, such as '[{text}]:8080'");
    }
    if text.parse::<Ipv4Addr>().is_ok() || text.starts_with('[') && text.ends_with(']') {
        return "no port".to_owned();
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return "no port".to_owned();
    };
    if let Err(what) = parse_port(port) {
        return what;
    }
    match host {
        "*" => format!("'*' is no address; write ':{port}'"),
        "localhost" => {
            format!("names are not looked up; write '127.0.0.1:{port}' or '[::1]:{port}'")
        }
        host if host.contains(':') && !host.starts_with('[') => {
            format!("an IPv6 address needs brackets; write '[{host}]:{port}'")
        }
        host => format!("'{host}' is no IP address, and names are not looked up"),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::UnixPath(path) => write!(f, "unix:{}", path.display()),
            Self::UnixAbstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_again() {
        for (text, shown) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            (":8080", "0.0.0.0:8080"),
            ("[::]:80", "[::]:80"),
            ("[::1]:65535", "[::1]:65535"),
            ("[fe80::1%3]:80", "[fe80::1%3]:80"),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
            ("unix:/run/payload/http.sock", "unix:/run/payload/http.sock"),
            ("unix:/run/with space,comma", "unix:/run/with space,comma"),
            ("unix:@payload", "unix:@payload"),
            ("unix:@a/b@c", "unix:@a/b@c"),
            ("unix:@dé", "unix:@dé"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse(), Ok(address));
        }
    }

    #[test]
    fn kinds() {
        assert_eq!("unix:/x".parse(), Ok(Address::UnixPath("/x".into())));
        assert_eq!("unix:@x".parse(), Ok(Address::UnixAbstract(b"x".to_vec())));
        assert_eq!(":1".parse(), Ok(Address::Tcp(([0, 0, 0, 0], 1).into())));
    }

    #[test]
    fn the_longest_names() {
        for prefix in ["unix:/", "unix:@/"] {
            let name = |length: usize| format!("{prefix}{}", "x".repeat(length - 1));
            assert!(name(107).parse::<Address>().is_ok());
            assert!(
                name(108)
                    .parse::<Address>()
                    .unwrap_err()
                    .contains("108 bytes")
            );
        }
    }

    #[test]
    fn wrong_addresses_name_the_cure() {
        for (text, message) in [
            ("", "no address"),
            (
                "8080",
                "only a number; write ':8080' for every IPv4 address or '127.0.0.1:8080'",
            ),
            ("127.0.0.1", "no port"),
            ("[::1]", "no port"),
            (
                "::1",
                "an IPv6 address needs brackets and a port, such as '[::1]:8080'",
            ),
            ("example", "no port"),
            (":", "no port number after the last ':' but ''"),
            (":http", "no port number after the last ':' but 'http'"),
            (":65536", "port 65536 is larger than 65535"),
            (":+80", "no port number after the last ':' but '+80'"),
            ("127.0.0.1:65536", "port 65536 is larger than 65535"),
            ("127.0.0.1:-1", "no port number after the last ':' but '-1'"),
            (
                "localhost:80",
                "names are not looked up; write '127.0.0.1:80' or '[::1]:80'",
            ),
            (
                "example.org:80",
                "'example.org' is no IP address, and names are not looked up",
            ),
            (
                "256.0.0.1:80",
                "'256.0.0.1' is no IP address, and names are not looked up",
            ),
            ("*:80", "'*' is no address; write ':80'"),
            (
                "fe80::x:80",
                "an IPv6 address needs brackets; write '[fe80::x]:80'",
            ),
            (
                "http://127.0.0.1:80/",
                "a URL; leave out 'http://' and any path, write '127.0.0.1:80'",
            ),
            ("/run/x.sock", "no kind of socket; write 'unix:/run/x.sock'"),
            ("@x", "no kind of socket; write 'unix:@x'"),
            ("unix:", "no path"),
            ("unix:x.sock", "not an absolute path"),
            ("unix:@", "no name after @"),
            ("unix:/a\0b", "a path with a zero byte"),
            ("unix:@a\0b", "a name with a zero byte"),
        ] {
            assert_eq!(text.parse::<Address>(), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn only_port_zero_may_repeat() {
        assert!("127.0.0.1:0".parse::<Address>().unwrap().may_repeat());
        assert!(!"127.0.0.1:1".parse::<Address>().unwrap().may_repeat());
        assert!(!"unix:@x".parse::<Address>().unwrap().may_repeat());
    }
}
