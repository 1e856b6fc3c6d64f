//! Whom `examples/behind_proxy` takes for the client.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::rules::{Client, Trust};

fn trust(text: &str) -> Trust {
    toml::from_str(text).unwrap()
}

fn client(trust: &Trust, peer: &str, headers: &[(&str, &str)]) -> (String, bool) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = name.parse::<HeaderName>().unwrap();
        map.append(name, HeaderValue::from_str(value).unwrap());
    }
    let peer = (peer != "unix").then(|| peer.parse().unwrap());
    let Client { address, https } = trust.client(peer, &map);
    let address = address.map_or("nobody".to_owned(), |address: IpAddr| address.to_string());
    (address, https)
}

#[test]
fn x_forwarded_for_is_believed_as_far_as_proxies_are_trusted() {
    let trust = trust("trusted = ['10.0.0.0/8', '2001:db8::/32', '192.0.2.7']");
    for (peer, given, found) in [
        // Nobody is between.
        ("198.51.100.1", "203.0.113.9", "198.51.100.1"),
        ("10.1.2.3", "", "nobody"),
        // One proxy, and two.
        ("10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "203.0.113.9, 192.0.2.7", "203.0.113.9"),
        ("2001:db8::7", "203.0.113.9 ,10.0.0.1", "203.0.113.9"),
        ("unix", "203.0.113.9", "203.0.113.9"),
        // What the client has invented stands at the left.
        ("10.1.2.3", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "10.9.9.9, 203.0.113.9, 10.0.0.1", "203.0.113.9"),
        ("10.1.2.3", "nonsense, 203.0.113.9", "203.0.113.9"),
        // All of them are ours.
        ("10.1.2.3", "10.9.9.9", "10.9.9.9"),
        // In other forms.
        ("10.1.2.3", "203.0.113.9:4711", "203.0.113.9"),
        ("10.1.2.3", "2001:db9::1", "2001:db9::1"),
        ("10.1.2.3", "[2001:db9::1]:4711", "2001:db9::1"),
        ("::ffff:10.1.2.3", "::ffff:203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "203.0.113.9, unknown", "nobody"),
        // Just outside of a network.
        ("11.0.0.0", "203.0.113.9", "11.0.0.0"),
        ("192.0.2.6", "203.0.113.9", "192.0.2.6"),
    ] {
        let (address, https) = client(&trust, peer, &[("x-forwarded-for", given)]);
        assert_eq!(address, found, "{peer} says {given}");
        assert!(!https);
    }
    assert_eq!(client(&trust, "10.1.2.3", &[]).0, "10.1.2.3");
}

#[test]
fn several_fields_are_one_list() {
    let headers = [
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "203.0.113.9, 10.0.0.1"),
    ];
    let trust = trust("trusted = ['10.0.0.0/8']");
    assert_eq!(client(&trust, "10.1.2.3", &headers).0, "203.0.113.9");
}

#[test]
fn https_is_believed_of_a_proxy_alone() {
    let trust = trust("trusted = ['10.0.0.0/8']");
    let headers = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "HTTPS"),
    ];
    assert!(client(&trust, "10.1.2.3", &headers).1);
    assert!(!client(&trust, "198.51.100.1", &headers).1);
    let plain = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "http"),
    ];
    assert!(!client(&trust, "10.1.2.3", &plain).1);
}

#[test]
fn the_standard_header_where_it_is_the_one_that_the_proxy_sets() {
    let trust = trust("trusted = ['10.0.0.0/8']\nheader = 'forwarded'");
    for (given, found) in [
        ("for=203.0.113.9", ("203.0.113.9", false)),
        (
            "For=203.0.113.9; Proto=https;by=10.0.0.1",
            ("203.0.113.9", true),
        ),
        (
            "for=\"[2001:db9::1]:4711\";proto=https",
            ("2001:db9::1", true),
        ),
        (
            "for=1.1.1.1;proto=https, for=203.0.113.9, for=10.0.0.1",
            ("203.0.113.9", false),
        ),
        (
            "for=203.0.113.9;host=\"a,b;c\";proto=https",
            ("203.0.113.9", true),
        ),
        ("for=\"_hidden\", for=10.0.0.1", ("nobody", false)),
        ("for=unknown", ("nobody", false)),
        ("", ("nobody", false)),
    ] {
        let headers = [("forwarded", given), ("x-forwarded-for", "1.1.1.1")];
        let (address, https) = client(&trust, "10.1.2.3", &headers);
        assert_eq!((address.as_str(), https), found, "{given}");
    }
}

#[test]
fn what_is_no_network_is_refused() {
    for text in [
        "10.0.0.0/33",
        "10.0.0/8",
        "localhost",
        "::1/129",
        "",
        "1.1.1.1/",
    ] {
        let error = toml::from_str::<Trust>(&format!("trusted = ['{text}']"));
        let error = error.err().unwrap().to_string();
        assert!(
            error.contains("neither an address nor a network"),
            "{error}"
        );
    }
}
