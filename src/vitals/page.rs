//! The page: one HTML document, embedded, with its own style and script and nothing from outside.

/// All of it, put together from parts with one job each. The parts of the script share one scope.
pub(super) const HTML: &str = concat!(
    include_str!("page/head.html"),
    include_str!("page/page.css"),
    include_str!("page/body.html"),
    include_str!("page/words.js"),
    include_str!("page/machine.js"),
    include_str!("page/service.js"),
    include_str!("page/events.js"),
    include_str!("page/connection.js"),
    include_str!("page/foot.html"),
);

/// Of everything that a browser could load or run, only the page's own style and script, by their hashes
/// (Content Security Policy Level 3), and connections to where it came from.
pub(super) const POLICY: &str = "default-src 'none'; \
    script-src 'sha256-V9zYszsMOa9eoUH88llTDaAARqAH4FTLhGx6zk/DC9E='; \
    style-src 'sha256-YRYW78EEb3bNlv6xtW+iFBDQC0Bj7xzPy65vDPlz8H4='; \
    img-src data:; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A strong validator: it changes with every byte of the page.
pub(super) fn etag() -> String {
    format!("\"{FINGERPRINT:016x}\"")
}

const FINGERPRINT: u64 = fingerprint(HTML.as_bytes());

/// FNV-1a. Nobody attacks this one: both versions of the page are ours.
const fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vitals::fixture::sha256_base64;

    fn inside<'a>(html: &'a str, tag: &str) -> &'a str {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        assert_eq!(html.matches(&open).count(), 1, "one {open}");
        let start = html.find(&open).unwrap() + open.len();
        let end = html[start..].find(&close).unwrap() + start;
        &html[start..end]
    }

    #[test]
    fn the_policy_names_the_hashes_of_the_script_and_the_style() {
        for tag in ["script", "style"] {
            let hash = format!("'sha256-{}'", sha256_base64(inside(HTML, tag).as_bytes()));
            assert!(
                POLICY.contains(&hash),
                "the {tag} changed; POLICY needs {tag}-src {hash}"
            );
        }
    }

    #[test]
    fn the_page_asks_nobody_else_and_has_nothing_that_the_policy_forbids() {
        let outside = [
            "http:",
            "https:",
            "//cdn",
            "@import",
            "src=",
            "<link rel=\"stylesheet",
            "url(",
        ];
        for line in HTML
            .lines()
            .filter(|line| !line.contains("http://www.w3.org/2000/svg"))
        {
            for word in outside {
                assert!(!line.contains(word), "{word} in {line}");
            }
            assert!(
                !line.contains(" style=\"") && !line.contains(" onclick="),
                "{line}"
            );
        }
    }

    #[test]
    fn another_page_has_another_fingerprint() {
        assert_ne!(fingerprint(b"a"), fingerprint(b"b"));
        assert_eq!(
            fingerprint(b"foobar"),
            0x8594_4171_f739_67e8,
            "FNV-1a's own test vector"
        );
    }
}
