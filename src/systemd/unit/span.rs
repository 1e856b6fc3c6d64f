//! Time spans as systemd writes and reads them, systemd.time(7).

use std::time::Duration;

/// A limit in a unit's file: a bare number is seconds, and 0 is "infinity" here. `Some(None)` is no limit.
pub(super) fn limit(text: &str) -> Option<Option<Duration>> {
    let span = match text.trim().parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => parse(text)?,
    };
    Some(span.filter(|span| !span.is_zero()))
}

/// "1min 30s"; `Some(None)` is "infinity".
pub(super) fn parse(text: &str) -> Option<Option<Duration>> {
    let text = text.trim();
    if text == "infinity" {
        return Some(None);
    }
    if text.is_empty() {
        return None;
    }
    let (mut sum, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let (number, behind) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, behind) = split(behind.trim_start(), char::is_alphabetic);
        let seconds = number.parse::<f64>().ok()? * seconds_of(unit)?;
        sum = sum.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        rest = behind.trim_start();
    }
    Some(Some(sum))
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    text.split_at(end)
}

fn seconds_of(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" | "usec" | "µs" | "μs" => 1e-6,
        "ms" | "msec" => 1e-3,
        "s" | "sec" | "second" | "seconds" => 1.0,
        "m" | "min" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86_400.0,
        "w" | "week" | "weeks" => 604_800.0,
        "M" | "month" | "months" => 2_629_800.0,
        "y" | "year" | "years" => 31_557_600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_systemctl_prints() {
        for (text, span) in [
            ("infinity", Some(None)),
            ("1min 30s", Some(Some(90 * SECOND))),
            ("1h 500ms", Some(Some(3600 * SECOND + SECOND / 2))),
            ("1.500000s", Some(Some(SECOND * 3 / 2))),
            ("2w 1d", Some(Some(15 * 86_400 * SECOND))),
            ("250us", Some(Some(Duration::from_micros(250)))),
            ("0", None),
            ("5 parsecs", None),
            ("s", None),
            ("-1s", None),
            ("", None),
        ] {
            assert_eq!(parse(text), span, "{text}");
        }
    }

    #[test]
    fn what_people_write() {
        for (text, span) in [
            ("20", Some(Some(20 * SECOND))),
            ("20s", Some(Some(20 * SECOND))),
            ("2min20s", Some(Some(140 * SECOND))),
            ("5 minutes 20 sec", Some(Some(320 * SECOND))),
            ("0", Some(None)),
            ("0s", Some(None)),
            ("infinity", Some(None)),
            ("soon", None),
        ] {
            assert_eq!(limit(text), span, "{text}");
        }
    }
}
