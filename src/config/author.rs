//! What authors read their own settings with.

use std::fmt;
use std::time::Duration;

use serde::Deserializer;
use serde::de::{Error, Visitor};

use super::units::parse_duration;

/// Reads a duration in a service's own settings as those of payload are written: `"250ms"`, `"30s"`, `"1h30m"`.
///
/// ```
/// # use std::time::Duration;
/// #[derive(serde::Deserialize)]
/// struct Settings {
///     #[serde(deserialize_with = "payload::duration")]
///     interval: Duration,
/// }
/// # let settings: Settings = toml::from_str("interval = '1m30s'").unwrap();
/// # assert_eq!(settings.interval, Duration::from_secs(90));
/// ```
///
/// # Errors
/// It is no text, or does not say a duration.
pub fn duration<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    value.deserialize_str(Written)
}

struct Written;

impl Visitor<'_> for Written {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"250ms\", \"30s\" or \"1h30m\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        parse_duration(text).map_err(|why| {
            E::custom(format!(
                "{why}; write a duration as in \"250ms\", \"30s\" or \"1h30m\""
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Settings {
        #[serde(deserialize_with = "duration")]
        wait: Duration,
    }

    #[test]
    fn a_duration_is_written_as_everywhere_else() {
        let settings: Settings = toml::from_str("wait = '1m30s'").unwrap();
        assert_eq!(settings.wait, Duration::from_secs(90));
    }

    #[test]
    fn what_is_none_is_refused_with_the_form_that_it_must_have() {
        for (text, why) in [
            ("wait = 10", "expected a duration such as \"250ms\""),
            ("wait = '10'", "no unit after 10; write"),
            ("wait = '1 fortnight'", "as in \"250ms\""),
        ] {
            let error = toml::from_str::<Settings>(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
