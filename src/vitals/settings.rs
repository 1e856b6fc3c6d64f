//! `[app]` of the vitals service.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// How often to look, and how far back to remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Between two samples: 100 milliseconds to 1 minute. Default "1s".
    #[serde(deserialize_with = "interval")]
    pub(crate) sample_interval: Duration,
    /// How long samples are kept: 1 minute to 1 hour. Default "15m".
    #[serde(deserialize_with = "history")]
    pub(crate) history: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sample_interval: Duration::from_secs(1),
            history: Duration::from_secs(15 * 60),
        }
    }
}

impl Settings {
    /// How many samples the history holds. At most 36,000, by the ranges of the two settings.
    pub(crate) fn capacity(&self) -> usize {
        let samples = self.history.as_millis() / self.sample_interval.as_millis().max(1);
        usize::try_from(samples).unwrap_or(usize::MAX).max(1)
    }
}

fn interval<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    within(
        value,
        Duration::from_millis(100),
        Duration::from_secs(60),
        "100ms and 1m",
    )
}

fn history<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    within(
        value,
        Duration::from_secs(60),
        Duration::from_secs(3600),
        "1m and 1h",
    )
}

fn within<'de, D: Deserializer<'de>>(
    value: D,
    least: Duration,
    most: Duration,
    range: &str,
) -> Result<Duration, D::Error> {
    let span = crate::duration(value)?;
    if !(least..=most).contains(&span) {
        return Err(de::Error::custom(format!(
            "{span:?} is out of range; it must be between {range}"
        )));
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, String> {
        crate::testing::settings(&format!("[app]\n{text}")).map_err(|error| error.to_string())
    }

    #[test]
    fn without_any_setting_it_is_every_second_for_a_quarter_of_an_hour() {
        let settings = settings("").unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.capacity(), 900);
    }

    #[test]
    fn both_can_be_set() {
        let settings = settings("sample_interval = '500ms'\nhistory = '1h'").unwrap();
        assert_eq!(settings.capacity(), 7200);
    }

    #[test]
    fn a_wrong_setting_is_refused_with_where_and_the_cure() {
        for (text, cure) in [
            (
                "interval = '1s'",
                "unknown key 'app.interval'; known here: sample_interval, history",
            ),
            ("sample_interval = 1", "expected a duration such as"),
            (
                "sample_interval = '1 fortnight'",
                "as in \"250ms\", \"30s\"",
            ),
            ("sample_interval = 's'", "not a duration"),
            ("sample_interval = '10'", "no unit after 10"),
            (
                "sample_interval = '99ms'",
                "99ms is out of range; it must be between 100ms and 1m",
            ),
            ("history = '2h'", "between 1m and 1h"),
            ("history = '18446744073709551615h'", "too long"),
        ] {
            let error = settings(text).unwrap_err();
            assert!(error.contains(cure), "{text}: {error}");
            assert!(error.contains(":2:"), "{text}: {error}");
        }
    }
}
