//! Which protocol a client speaks, from its first bytes.

/// What a client that speaks HTTP/2 by prior knowledge sends first. RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// `None` while the bytes could still become the preface.
pub(super) fn judge(bytes: &[u8]) -> Option<Protocol> {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] != PREFACE[..common] {
        Some(Protocol::Http1)
    } else if common == PREFACE.len() {
        Some(Protocol::Http2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_preface_is_http2() {
        assert_eq!(judge(b""), None);
        assert_eq!(judge(b"P"), None);
        assert_eq!(judge(b"PR"), None);
        assert_eq!(judge(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"), None);
        assert_eq!(
            judge(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"),
            Some(Protocol::Http2)
        );
        assert_eq!(judge(b"G"), Some(Protocol::Http1));
        assert_eq!(judge(b"PUT / HTTP/1.1\r\n"), Some(Protocol::Http1));
        assert_eq!(judge(b"PRI * HTTP/1.1\r\n\r\n"), Some(Protocol::Http1));
    }
}
