//! Counts, sizes and the number of workers.

use std::marker::PhantomData;

use super::{Describe, Host, Scalar, Shown, Written};
use crate::config::units;

/// A whole number within limits.
pub(in crate::config) struct Count<T> {
    min: u64,
    max: u64,
    kind: PhantomData<fn() -> T>,
}

/// Bytes, with or without a unit.
pub(in crate::config) struct Size<T> {
    min: u64,
    max: u64,
    kind: PhantomData<fn() -> T>,
}

/// How many workers: "auto" is one for each CPU that the process may use.
pub(in crate::config) struct Workers;

impl Workers {
    /// The slots of the scoreboard.
    const MOST: u16 = 128;
}

impl<T> Count<T> {
    pub(in crate::config) const fn between(min: u64, max: u64) -> Self {
        Self {
            min,
            max,
            kind: PhantomData,
        }
    }
}

impl<T> Size<T> {
    pub(in crate::config) const fn between(min: u64, max: u64) -> Self {
        Self {
            min,
            max,
            kind: PhantomData,
        }
    }
}

impl<T> Describe for Count<T> {
    fn expected(&self) -> String {
        format!("a whole number from {} to {}", self.min, self.max)
    }

    fn placeholder(&self) -> &'static str {
        "NUMBER"
    }
}

impl<T: TryFrom<u64> + TryInto<u64> + Copy + Default> Scalar for Count<T> {
    type Value = T;

    fn parse(&self, written: Written<'_>, _: &Host) -> Result<T, String> {
        fit(written.number()?, self.min, self.max)
    }

    fn show(&self, value: &T, _: &str) -> Shown {
        let number = widen(*value);
        Shown {
            text: number.to_string(),
            json: number.into(),
        }
    }
}

impl<T> Describe for Size<T> {
    fn expected(&self) -> String {
        format!(
            "a size such as \"64KiB\", \"10MB\" or a number of bytes, from {} to {}",
            units::show_size(self.min),
            units::show_size(self.max)
        )
    }

    fn placeholder(&self) -> &'static str {
        "SIZE"
    }
}

impl<T: TryFrom<u64> + TryInto<u64> + Copy + Default> Scalar for Size<T> {
    type Value = T;

    fn parse(&self, written: Written<'_>, _: &Host) -> Result<T, String> {
        let bytes = match written {
            Written::Number(_) => written.number()?,
            Written::Plain(text) | Written::Quoted(text) => units::parse_size(text)?,
        };
        fit(bytes, self.min, self.max)
    }

    fn show(&self, value: &T, _: &str) -> Shown {
        let bytes = widen(*value);
        Shown {
            text: units::show_size(bytes),
            json: bytes.into(),
        }
    }
}

impl Describe for Workers {
    fn expected(&self) -> String {
        format!("\"auto\" or a whole number from 1 to {}", Self::MOST)
    }

    fn placeholder(&self) -> &'static str {
        "NUMBER|auto"
    }
}

impl Scalar for Workers {
    type Value = u16;

    fn parse(&self, written: Written<'_>, host: &Host) -> Result<u16, String> {
        if written.is("auto") {
            return Ok(host.cpus.clamp(1, Self::MOST));
        }
        fit(written.number()?, 1, Self::MOST.into())
    }

    fn show(&self, value: &u16, literal: &str) -> Shown {
        let text = if Written::Plain(literal).is("auto") {
            format!("auto ({value})")
        } else {
            value.to_string()
        };
        Shown {
            text,
            json: (*value).into(),
        }
    }
}

fn fit<T: TryFrom<u64>>(number: u64, min: u64, max: u64) -> Result<T, String> {
    if number < min {
        return Err(if number == 0 { "zero" } else { "too small" }.to_owned());
    }
    let fitting = if number > max {
        None
    } else {
        T::try_from(number).ok()
    };
    fitting.ok_or_else(|| "too large".to_owned())
}

/// No type of a setting is wider than 64 bits.
fn widen<T: TryInto<u64>>(value: T) -> u64 {
    value.try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::Or;
    use super::super::testing::{number, plain, quoted};
    use super::*;

    #[test]
    fn counts() {
        const FORM: Count<u16> = Count::between(1, 128);
        assert_eq!(plain(&FORM, "128"), Ok(128));
        assert_eq!(number(&FORM, "1"), Ok(1));
        let expected = "; expected a whole number from 1 to 128";
        for (text, what) in [
            ("0", "zero"),
            ("129", "too large"),
            ("99999999999999999999999", "too large"),
            ("-1", "negative"),
            ("1.5", "not a whole number"),
            ("many", "not a whole number"),
            ("", "not a whole number"),
        ] {
            assert_eq!(
                plain(&FORM, text),
                Err(format!("{what}{expected}")),
                "{text}"
            );
        }
        assert_eq!(
            quoted(&FORM, "4"),
            Err(format!("a number in quotes{expected}"))
        );
    }

    #[test]
    fn a_limit_beyond_the_type_still_refuses() {
        const FORM: Count<u16> = Count::between(0, u64::MAX);
        assert!(plain(&FORM, "65536").unwrap_err().starts_with("too large"));
    }

    #[test]
    fn workers() {
        for text in ["auto", "AUTO"] {
            assert_eq!(plain(&Workers, text), Ok(6));
            assert_eq!(quoted(&Workers, text), Ok(6));
        }
        assert_eq!(plain(&Workers, "4"), Ok(4));
        assert_eq!(number(&Workers, "128"), Ok(128));
        let expected = "; expected \"auto\" or a whole number from 1 to 128";
        for (text, what) in [
            ("0", "zero"),
            ("129", "too large"),
            ("automatic", "not a whole number"),
        ] {
            assert_eq!(plain(&Workers, text), Err(format!("{what}{expected}")));
        }
        assert_eq!(
            quoted(&Workers, "4"),
            Err(format!("a number in quotes{expected}"))
        );
        assert_eq!(
            Workers.parse(Written::Plain("auto"), &Host { cpus: 500 }),
            Ok(128)
        );
    }

    #[test]
    fn auto_is_at_least_one() {
        assert!(Host::this().cpus >= 1);
    }

    #[test]
    fn sizes() {
        const FORM: Size<usize> = Size::between(8192, 1 << 20);
        assert_eq!(plain(&FORM, "64KiB"), Ok(65_536));
        assert_eq!(quoted(&FORM, "10KB"), Ok(10_000));
        assert_eq!(number(&FORM, "8192"), Ok(8192));
        let expected =
            "; expected a size such as \"64KiB\", \"10MB\" or a number of bytes, from 8KiB to 1MiB";
        for (text, what) in [
            ("8191", "too small"),
            ("2MiB", "too large"),
            ("big", "not a size"),
            ("0", "zero"),
        ] {
            assert_eq!(
                plain(&FORM, text),
                Err(format!("{what}{expected}")),
                "{text}"
            );
        }
    }

    #[test]
    fn a_limit_may_be_off() {
        const FORM: Or<Count<u64>> = Or::off(Count::between(1, 10));
        assert_eq!(plain(&FORM, "off"), Ok(None));
        assert_eq!(quoted(&FORM, "unlimited"), Ok(None));
        assert_eq!(number(&FORM, "7"), Ok(Some(7)));
        assert_eq!(
            number(&FORM, "0").unwrap_err(),
            "zero; expected a whole number from 1 to 10, or \"off\" or \"unlimited\""
        );
    }
}
