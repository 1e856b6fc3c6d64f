//! What values may look like: each form reads a value, says what it expects, and shows it again.

mod number;
mod text;
mod time;

use crate::config::origin::{Given, Problem, Shape};
use crate::config::units;

pub(super) use number::{Count, Size, Workers};
pub(super) use text::{Addresses, ControlPath, Format, Level};
pub(super) use time::Span;

/// What a form says about itself, whatever its value type.
pub(crate) trait Describe: Sync {
    /// Completes "expected …".
    fn expected(&self) -> String;
    /// The value's name in the help, without brackets.
    fn placeholder(&self) -> &'static str;
    /// Whether the flag may be given several times, and the file may hold an array.
    fn repeats(&self) -> bool {
        false
    }
}

/// How a setting's value is read and shown.
pub(super) trait Form: Describe {
    type Value: Default;
    fn read(&self, given: &Given, host: &Host) -> Result<Self::Value, Vec<Problem>>;
    fn show(&self, value: &Self::Value, given: &Given) -> Shown;
}

/// A form whose value is one word or number.
pub(super) trait Scalar: Describe {
    type Value: Default;
    /// # Errors
    /// What is wrong with it.
    fn parse(&self, written: Written<'_>, host: &Host) -> Result<Self::Value, String>;
    /// `literal` is what was written.
    fn show(&self, value: &Self::Value, literal: &str) -> Shown;
}

/// A scalar as written, with what the file's syntax says about its type.
#[derive(Clone, Copy, Debug)]
pub(super) enum Written<'a> {
    /// A flag, a variable or a default: word and number alike.
    Plain(&'a str),
    Quoted(&'a str),
    Number(&'a str),
}

/// An effective value for people and for programs: durations in seconds, sizes in bytes, "off" as null.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) text: String,
    pub(super) json: serde_json::Value,
}

/// What a value may depend on besides its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    /// CPUs that this process may use.
    pub(super) cpus: u16,
}

/// A form, or one of some words for "no limit".
pub(super) struct Or<F> {
    form: F,
    words: &'static [&'static str],
}

impl Host {
    /// This machine as the process sees it: affinity and the cgroup's quota count.
    pub(super) fn this() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cpus: u16::try_from(cpus).unwrap_or(u16::MAX),
        }
    }
}

impl<F> Or<F> {
    /// Accepts "unlimited".
    pub(super) const fn unlimited(form: F) -> Self {
        Self {
            form,
            words: &["unlimited"],
        }
    }

    /// Accepts "off" and "unlimited".
    pub(super) const fn off(form: F) -> Self {
        Self {
            form,
            words: &["off", "unlimited"],
        }
    }
}

impl<'a> Written<'a> {
    /// The text, where a word may stand.
    ///
    /// # Errors
    /// It is a TOML number.
    pub(super) fn word(self) -> Result<&'a str, String> {
        match self {
            Self::Plain(text) | Self::Quoted(text) => Ok(text),
            Self::Number(_) => Err("a number".to_owned()),
        }
    }

    /// The whole number, where only a number may stand.
    ///
    /// # Errors
    /// It is in quotes, or no whole number, or negative, or too large.
    pub(super) fn number(self) -> Result<u64, String> {
        match self {
            Self::Plain(text) | Self::Number(text) => units::whole(text),
            Self::Quoted(text) if units::whole(text).is_ok() => {
                Err("a number in quotes".to_owned())
            }
            Self::Quoted(_) => Err("not a whole number".to_owned()),
        }
    }

    /// Whether it is this word. Words do not depend on case.
    pub(super) fn is(self, word: &str) -> bool {
        self.word()
            .is_ok_and(|text| text.eq_ignore_ascii_case(word))
    }
}

impl Shown {
    pub(super) fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            json: text.clone().into(),
            text,
        }
    }
}

impl<F: Scalar> Form for F {
    type Value = F::Value;

    fn read(&self, given: &Given, host: &Host) -> Result<Self::Value, Vec<Problem>> {
        let parsed = match &given.shape {
            Shape::Plain(text) => self.parse(Written::Plain(text), host),
            Shape::Quoted(text) => self.parse(Written::Quoted(text), host),
            Shape::Number(text) => self.parse(Written::Number(text), host),
            Shape::List(_) => Err("an array".to_owned()),
            Shape::Other(kind) => Err((*kind).to_owned()),
        };
        parsed.map_err(|what| vec![given.wrong(what, self.expected())])
    }

    fn show(&self, value: &Self::Value, given: &Given) -> Shown {
        Scalar::show(self, value, given.literal.trim_matches(['"', '\'']))
    }
}

impl<F: Scalar> Describe for Or<F> {
    fn expected(&self) -> String {
        format!(
            "{}, or \"{}\"",
            self.form.expected(),
            self.words.join("\" or \"")
        )
    }

    fn placeholder(&self) -> &'static str {
        self.form.placeholder()
    }
}

impl<F: Scalar> Scalar for Or<F> {
    type Value = Option<F::Value>;

    fn parse(&self, written: Written<'_>, host: &Host) -> Result<Self::Value, String> {
        if self.words.iter().any(|word| written.is(word)) {
            return Ok(None);
        }
        self.form.parse(written, host).map(Some)
    }

    fn show(&self, value: &Self::Value, literal: &str) -> Shown {
        match value {
            Some(value) => self.form.show(value, literal),
            None => Shown {
                text: self.words.first().copied().unwrap_or_default().to_owned(),
                json: serde_json::Value::Null,
            },
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::config::origin::Origin;

    /// Reads `text` as a flag's value; an error is the message without the place.
    pub(crate) fn plain<F: Form>(form: &F, text: &str) -> Result<F::Value, String> {
        read(form, text, Shape::Plain(text.to_owned()))
    }

    /// Reads `text` as a TOML string.
    pub(crate) fn quoted<F: Form>(form: &F, text: &str) -> Result<F::Value, String> {
        read(form, text, Shape::Quoted(text.to_owned()))
    }

    /// Reads `text` as a TOML integer.
    pub(crate) fn number<F: Form>(form: &F, text: &str) -> Result<F::Value, String> {
        read(form, text, Shape::Number(text.to_owned()))
    }

    fn read<F: Form>(form: &F, text: &str, shape: Shape) -> Result<F::Value, String> {
        let given = Given {
            key: "key",
            origin: Origin::Flag("--x"),
            literal: text.to_owned(),
            shape,
        };
        form.read(&given, &Host { cpus: 6 }).map_err(|problems| {
            let message = crate::config::origin::failure(problems).to_string();
            message.replace(&format!("--x {text}: "), "")
        })
    }
}
