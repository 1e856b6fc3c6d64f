//! Who the client is, when proxies stand between: what they say counts only as far as they are trusted.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, header::FORWARDED};
use serde::Deserialize;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whom to believe, as it stands in `[app]`.
#[derive(Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Trust {
    /// Proxies and their networks: `"192.0.2.7"`, `"10.0.0.0/8"`, `"::1"`. Who comes over a Unix socket is trusted
    /// anyway, since its permissions say who can.
    trusted: Vec<Network>,
    /// The header that these proxies set. Only one: the other would be passed on as a client has written it.
    header: Header,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Header {
    /// `X-Forwarded-For` and `X-Forwarded-Proto`.
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

impl Default for Trust {
    /// Proxies on this machine.
    fn default() -> Self {
        let loopback = ["127.0.0.1", "::1"];
        Self {
            trusted: loopback.into_iter().flat_map(Network::parse).collect(),
            header: Header::XForwardedFor,
        }
    }
}

/// The far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// `None`: a Unix socket, or a proxy that hides it.
    pub(crate) address: Option<IpAddr>,
    /// It came to the first trusted proxy by HTTPS.
    pub(crate) https: bool,
}

impl Trust {
    /// Whether a proxy at this end of the connection may say things about a client. `None` is a Unix socket.
    pub(crate) fn believes(&self, peer: Option<IpAddr>) -> bool {
        peer.is_none_or(|peer| self.trusted.iter().any(|network| network.contains(peer)))
    }

    /// Every proxy adds at the right who has asked it. So we go from right to left, and the first one whom we do not
    /// trust is the client: what is left of it he may have invented.
    pub(crate) fn client(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Client {
        let mut client = Client {
            address: peer.map(|peer| peer.to_canonical()),
            https: false,
        };
        if !self.believes(client.address) {
            return client;
        }
        for hop in self.hops(headers).into_iter().rev() {
            client = hop;
            if hop.address.is_none() || !self.believes(hop.address) {
                break;
            }
        }
        client
    }

    fn hops(&self, headers: &HeaderMap) -> Vec<Client> {
        match self.header {
            Header::XForwardedFor => {
                // It has no place for each hop: who sets it replaces it.
                let https = values(headers, &X_FORWARDED_PROTO)
                    .last()
                    .is_some_and(|proto| proto.eq_ignore_ascii_case("https"));
                let hops = values(headers, &X_FORWARDED_FOR).flat_map(|value| value.split(','));
                hops.map(|hop| Client {
                    address: node(hop),
                    https,
                })
                .collect()
            }
            Header::Forwarded => {
                let hops = values(headers, &FORWARDED).flat_map(|value| split(value, ','));
                hops.map(forwarded).collect()
            }
        }
    }
}

/// A value that is no text says nothing, but still stands for a hop.
fn values<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let values = headers.get_all(name).into_iter();
    values.map(|value| value.to_str().unwrap_or_default().trim())
}

/// One element of `Forwarded`: `for="[2001:db8::1]:4711";proto=https`.
fn forwarded(element: &str) -> Client {
    let mut client = Client {
        address: None,
        https: false,
    };
    for pair in split(element, ';') {
        match pair.trim().split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("for") => client.address = node(value),
            Some((name, value)) if name.eq_ignore_ascii_case("proto") => {
                client.https = value.trim_matches('"').eq_ignore_ascii_case("https");
            }
            _ => {}
        }
    }
    client
}

/// Splits outside of quotes.
fn split(text: &str, at: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |letter| {
        quoted ^= letter == '"';
        letter == at && !quoted
    })
}

/// An address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`. `None` for
/// `unknown`, names such as `_gateway`, and nonsense.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let address = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None if text.matches(':').count() == 1 => text.split(':').next()?,
        None => text,
    };
    Some(address.parse::<IpAddr>().ok()?.to_canonical())
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is neither an address nor a network such as 10.0.0.0/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| wrong())?,
            None => bits,
        };
        if prefix > bits {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }

    fn contains(&self, other: IpAddr) -> bool {
        let differ = match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            _ => return false,
        };
        differ >= u32::from(self.prefix)
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}
