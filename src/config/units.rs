//! Durations and sizes as people write them.

use std::time::Duration;

/// Largest first: `(unit, milliseconds)`.
const TIMES: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// `(unit, bytes)`: the powers of 1024 first, largest first.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads `250ms`, `30s`, `1h30m` or `0`.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("not a duration".to_owned());
    }
    let mut total: u64 = 0;
    let mut smallest = u64::MAX;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, unit, after) = split_number(rest)?;
        if unit.is_empty() {
            return Err(format!("no unit after {number}"));
        }
        let &(_, millis) = TIMES
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| format!("unknown unit '{unit}'"))?;
        if millis >= smallest {
            return Err("units must go from large to small, each once".to_owned());
        }
        smallest = millis;
        total = whole(number)?
            .checked_mul(millis)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| "too long".to_owned())?;
        rest = after;
    }
    Ok(Duration::from_millis(total))
}

/// The duration in the largest unit that divides it: `75s`, `1m`, `250ms`.
pub(crate) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0".to_owned();
    }
    let (unit, size) = TIMES
        .into_iter()
        .find(|(_, size)| millis.is_multiple_of(u128::from(*size)))
        .unwrap_or(("ms", 1));
    format!("{}{unit}", millis / u128::from(size))
}

/// Reads `64MiB`, `10MB` or plain bytes. Units in any case; KB is 1000 and KiB 1024 bytes.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("not a size".to_owned());
    }
    let (number, unit, after) = split_number(text)?;
    if !after.is_empty() {
        return Err("not a size".to_owned());
    }
    let bytes = match unit {
        "" => 1,
        unit => {
            let known = SIZES
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit));
            known.ok_or_else(|| format!("unknown unit '{unit}'"))?.1
        }
    };
    whole(number)?
        .checked_mul(bytes)
        .ok_or_else(|| "too large".to_owned())
}

/// The size in the largest unit that divides it, powers of 1024 before powers of 1000.
pub(super) fn show_size(bytes: u64) -> String {
    let unit = SIZES
        .into_iter()
        .find(|(_, size)| bytes != 0 && bytes.is_multiple_of(*size));
    match unit {
        Some((unit, size)) if size > 1 => format!("{}{unit}", bytes / size),
        _ => bytes.to_string(),
    }
}

/// Reads a whole number that is not negative.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn whole(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("not a whole number".to_owned());
    }
    if text.starts_with('-') {
        return Err("negative".to_owned());
    }
    digits.parse().map_err(|_| "too large".to_owned())
}

/// Digits, the letters after them, and the rest.
fn split_number(text: &str) -> Result<(&str, &str, &str), String> {
    let (number, rest) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    if rest.starts_with(['.', ',']) {
        return Err("a fraction; use a smaller unit".to_owned());
    }
    let (unit, rest) = rest.split_at(
        rest.find(|c: char| !c.is_alphabetic())
            .unwrap_or(rest.len()),
    );
    if unit.is_empty() && !rest.is_empty() {
        return Err(format!(
            "unexpected '{}'",
            rest.chars().next().unwrap_or(' ')
        ));
    }
    Ok((number, unit, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis, shown) in [
            ("0", 0, "0"),
            ("0s", 0, "0"),
            ("250ms", 250, "250ms"),
            ("30s", 30_000, "30s"),
            ("75s", 75_000, "75s"),
            ("60s", 60_000, "1m"),
            ("1h30m", 5_400_000, "90m"),
            ("1d", 86_400_000, "1d"),
            ("1m1ms", 60_001, "60001ms"),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(show_duration(duration), shown, "{text}");
            assert_eq!(parse_duration(shown), Ok(duration), "{shown}");
        }
    }

    #[test]
    fn wrong_durations() {
        for (text, message) in [
            ("", "not a duration"),
            ("soon", "not a duration"),
            ("-5s", "not a duration"),
            ("30", "no unit after 30"),
            ("1h30", "no unit after 30"),
            ("1.5s", "a fraction; use a smaller unit"),
            ("5 s", "unexpected ' '"),
            ("5sec", "unknown unit 'sec'"),
            ("5M", "unknown unit 'M'"),
            ("5s5s", "units must go from large to small, each once"),
            ("5s1h", "units must go from large to small, each once"),
            ("99999999999999999999s", "too large"),
            ("9999999999999999999d", "too long"),
            ("5sé", "unknown unit 'sé'"),
            ("5s\u{0}", "unexpected '\u{0}'"),
        ] {
            assert_eq!(parse_duration(text).unwrap_err(), message, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes, shown) in [
            ("0", 0, "0"),
            ("8193", 8193, "8193"),
            ("100B", 100, "100"),
            ("64KiB", 65_536, "64KiB"),
            ("512kib", 524_288, "512KiB"),
            ("64MiB", 67_108_864, "64MiB"),
            ("10MB", 10_000_000, "10MB"),
            ("2GiB", 2_147_483_648, "2GiB"),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(show_size(bytes), shown, "{text}");
        }
    }

    #[test]
    fn wrong_sizes() {
        for (text, message) in [
            ("", "not a size"),
            ("big", "not a size"),
            ("-1", "not a size"),
            ("1.5GiB", "a fraction; use a smaller unit"),
            ("64M", "unknown unit 'M'"),
            ("64 MiB", "unexpected ' '"),
            ("1MiB2", "not a size"),
            ("99999999TiB", "too large"),
        ] {
            assert_eq!(parse_size(text).unwrap_err(), message, "{text}");
        }
    }
}
