//! Durations.

use std::time::Duration;

use super::{Describe, Host, Scalar, Shown, Written};
use crate::config::units;

/// A duration of at most a year, which every clock can add to now.
pub(in crate::config) struct Span {
    min: Duration,
}

impl Span {
    const MAX: Duration = Duration::from_hours(365 * 24);

    /// Zero is fine: at once.
    pub(in crate::config) const fn any() -> Self {
        Self::at_least(Duration::ZERO)
    }

    pub(in crate::config) const fn at_least(min: Duration) -> Self {
        Self { min }
    }
}

impl Describe for Span {
    fn expected(&self) -> String {
        let form = "a duration such as \"250ms\", \"30s\", \"5m\" or \"1h30m\"";
        if self.min.is_zero() {
            format!("{form}, or \"0\"")
        } else {
            format!("{form}, at least {}", units::show_duration(self.min))
        }
    }

    fn placeholder(&self) -> &'static str {
        "DURATION"
    }
}

impl Scalar for Span {
    type Value = Duration;

    fn parse(&self, written: Written<'_>, _: &Host) -> Result<Duration, String> {
        let text = match written {
            Written::Plain(text) | Written::Quoted(text) => text,
            // Zero is the one number that needs no unit.
            Written::Number("0") => "0",
            Written::Number(number) => return Err(format!("no unit after {number}")),
        };
        let duration = units::parse_duration(text)?;
        if duration < self.min {
            return Err(if duration.is_zero() {
                "zero"
            } else {
                "too short"
            }
            .to_owned());
        }
        if duration > Self::MAX {
            return Err(format!("longer than {}", units::show_duration(Self::MAX)));
        }
        Ok(duration)
    }

    fn show(&self, value: &Duration, _: &str) -> Shown {
        let json = if value.subsec_nanos() == 0 {
            value.as_secs().into()
        } else {
            value.as_secs_f64().into()
        };
        Shown {
            text: units::show_duration(*value),
            json,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Or;
    use super::super::testing::{number, plain, quoted};
    use super::*;

    #[test]
    fn spans() {
        const FORM: Span = Span::any();
        assert_eq!(plain(&FORM, "30s"), Ok(Duration::from_secs(30)));
        assert_eq!(quoted(&FORM, "1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(number(&FORM, "0"), Ok(Duration::ZERO));
        let expected =
            "; expected a duration such as \"250ms\", \"30s\", \"5m\" or \"1h30m\", or \"0\"";
        assert_eq!(
            number(&FORM, "30"),
            Err(format!("no unit after 30{expected}"))
        );
        assert_eq!(
            plain(&FORM, "soon"),
            Err(format!("not a duration{expected}"))
        );
        assert_eq!(
            plain(&FORM, "366d"),
            Err(format!("longer than 365d{expected}"))
        );
        assert_eq!(
            plain(&FORM, "unlimited"),
            Err(format!("not a duration{expected}"))
        );
    }

    #[test]
    fn a_span_may_have_a_minimum_and_no_limit() {
        const FORM: Or<Span> = Or::unlimited(Span::at_least(Duration::from_secs(1)));
        assert_eq!(plain(&FORM, "unlimited"), Ok(None));
        assert_eq!(plain(&FORM, "1s"), Ok(Some(Duration::from_secs(1))));
        let expected = "; expected a duration such as \"250ms\", \"30s\", \"5m\" or \"1h30m\", \
                        at least 1s, or \"unlimited\"";
        for (text, what) in [
            ("999ms", "too short"),
            ("0", "zero"),
            ("off", "not a duration"),
        ] {
            assert_eq!(
                plain(&FORM, text),
                Err(format!("{what}{expected}")),
                "{text}"
            );
        }
    }

    #[test]
    fn programs_get_seconds() {
        let json = |text| {
            Span::any()
                .show(&plain(&Span::any(), text).unwrap(), text)
                .json
        };
        assert_eq!(json("5m"), 300);
        assert_eq!(json("250ms"), 0.25);
    }
}
