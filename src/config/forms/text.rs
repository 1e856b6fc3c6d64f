//! Addresses, paths and words.

use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use super::{Describe, Form, Host, Scalar, Shown, Written};
use crate::config::LogFormat;
use crate::config::origin::{Given, Problem, Shape, nearest};
use crate::sockets::Address;

/// Addresses to listen on, at least one, none twice. Text holds them separated by commas.
pub(in crate::config) struct Addresses;

/// An absolute path for a Unix socket, or "none".
pub(in crate::config) struct ControlPath;

/// `log.format`
pub(in crate::config) struct Format;

/// `log.level`
pub(in crate::config) struct Level;

impl Addresses {
    fn parse_into(
        given: &Given,
        text: &str,
        found: &mut Vec<Address>,
        problems: &mut Vec<Problem>,
    ) {
        match text.parse::<Address>() {
            Ok(address) if found.contains(&address) && !address.may_repeat() => {
                problems
                    .push(given.wrong(format!("{address} is there twice"), "each address once"));
            }
            Ok(address) => found.push(address),
            Err(what) => problems.push(given.wrong(what, Self.expected())),
        }
    }

    fn items(given: &Given, nested: bool, found: &mut Vec<Address>, problems: &mut Vec<Problem>) {
        match &given.shape {
            Shape::Plain(text) => {
                for part in text.split(',') {
                    Self::parse_into(given, part.trim(), found, problems);
                }
            }
            Shape::Quoted(text) => Self::parse_into(given, text, found, problems),
            Shape::List(items) if !nested => {
                for item in items {
                    Self::items(item, true, found, problems);
                }
            }
            Shape::List(_) => problems.push(given.wrong("an array in an array", Self.expected())),
            Shape::Number(_) => problems.push(given.wrong("a number", Self.expected())),
            Shape::Other(kind) => problems.push(given.wrong(kind, Self.expected())),
        }
    }
}

impl Describe for Addresses {
    fn expected(&self) -> String {
        "an address such as \"127.0.0.1:8080\", \"[::1]:8080\", \":8080\", \"unix:/run/x.sock\" \
         or \"unix:@name\""
            .to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "ADDRESS"
    }

    fn repeats(&self) -> bool {
        true
    }
}

impl Form for Addresses {
    type Value = Vec<Address>;

    fn read(&self, given: &Given, _: &Host) -> Result<Vec<Address>, Vec<Problem>> {
        let (mut found, mut problems) = (Vec::new(), Vec::new());
        Self::items(given, false, &mut found, &mut problems);
        if found.is_empty() && problems.is_empty() {
            problems.push(given.wrong("no address", self.expected()));
        }
        if problems.is_empty() {
            Ok(found)
        } else {
            Err(problems)
        }
    }

    fn show(&self, value: &Vec<Address>, _: &Given) -> Shown {
        let texts: Vec<String> = value.iter().map(ToString::to_string).collect();
        Shown {
            text: texts.join(", "),
            json: texts.into(),
        }
    }
}

impl Describe for ControlPath {
    fn expected(&self) -> String {
        "an absolute path of at most 107 bytes, or \"none\"".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "PATH"
    }
}

impl Scalar for ControlPath {
    type Value = Option<PathBuf>;

    fn parse(&self, written: Written<'_>, _: &Host) -> Result<Option<PathBuf>, String> {
        if written.is("none") {
            return Ok(None);
        }
        let text = written.word()?;
        crate::sockets::check_path(text)?;
        Ok(Some(PathBuf::from(text)))
    }

    fn show(&self, value: &Option<PathBuf>, _: &str) -> Shown {
        match value {
            Some(path) => Shown::text(path.to_string_lossy()),
            None => Shown {
                text: "none".to_owned(),
                json: serde_json::Value::Null,
            },
        }
    }
}

impl Format {
    const WORDS: [(&'static str, LogFormat); 4] = [
        ("auto", LogFormat::Auto),
        ("human", LogFormat::Human),
        ("json", LogFormat::Json),
        ("journald", LogFormat::Journald),
    ];
}

impl Describe for Format {
    fn expected(&self) -> String {
        "\"auto\", \"human\", \"json\" or \"journald\"".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "FORMAT"
    }
}

impl Scalar for Format {
    type Value = LogFormat;

    fn parse(&self, written: Written<'_>, _: &Host) -> Result<LogFormat, String> {
        let word = written.word()?;
        Self::WORDS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(word))
            .map(|(_, format)| *format)
            .ok_or_else(|| "unknown format".to_owned())
    }

    fn show(&self, value: &LogFormat, _: &str) -> Shown {
        let word = Self::WORDS.iter().find(|(_, format)| format == value);
        Shown::text(word.map_or("auto", |(name, _)| name))
    }
}

impl Level {
    const WORDS: [&'static str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
}

impl Describe for Level {
    fn expected(&self) -> String {
        format!(
            "{} or directives such as \"info,hyper=warn\"",
            Self::WORDS.join(", ")
        )
    }

    fn placeholder(&self) -> &'static str {
        "LEVEL"
    }
}

impl Scalar for Level {
    type Value = String;

    fn parse(&self, written: Written<'_>, _: &Host) -> Result<String, String> {
        let text = written.word()?.trim();
        if text.is_empty() {
            return Err("empty".to_owned());
        }
        // The filter takes a bare word for a module at full detail, so a mistyped level would say all.
        for word in text.split(',').map(str::trim) {
            let bare = word.chars().all(|c| c.is_alphanumeric() || c == '_');
            if bare
                && !Self::WORDS
                    .iter()
                    .any(|level| level.eq_ignore_ascii_case(word))
            {
                return Err(
                    match nearest(word, Self::WORDS.map(|level| (level, level))) {
                        Some(level) => {
                            format!("no level is called '{word}'; did you mean '{level}'?")
                        }
                        None => format!("no level is called '{word}'"),
                    },
                );
            }
        }
        EnvFilter::try_new(text).map_err(|_| "no directives of the log filter".to_owned())?;
        Ok(text.to_owned())
    }

    fn show(&self, value: &String, _: &str) -> Shown {
        Shown::text(value)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{number, plain, quoted};
    use super::*;

    const ADDRESS: &str = "; expected an address such as \"127.0.0.1:8080\", \"[::1]:8080\", \":8080\", \
                           \"unix:/run/x.sock\" or \"unix:@name\"";

    #[test]
    fn several_addresses() {
        let found = plain(&Addresses, "127.0.0.1:80, unix:@x").unwrap();
        assert_eq!(
            found,
            ["127.0.0.1:80".parse().unwrap(), "unix:@x".parse().unwrap()]
        );
        assert_eq!(
            plain(&Addresses, "127.0.0.1:0,127.0.0.1:0").unwrap().len(),
            2
        );
    }

    #[test]
    fn an_address_twice_is_refused() {
        assert_eq!(
            plain(&Addresses, ":80,0.0.0.0:80").unwrap_err(),
            "0.0.0.0:80 is there twice; expected each address once"
        );
    }

    #[test]
    fn every_wrong_address_is_told() {
        let message = plain(&Addresses, "80,localhost").unwrap_err();
        assert_eq!(message.lines().count(), 3, "{message}");
        assert!(message.ends_with(ADDRESS), "{message}");
        assert_eq!(number(&Addresses, "80"), Err(format!("a number{ADDRESS}")));
        assert!(plain(&Addresses, ":80,").is_err());
    }

    #[test]
    fn control_paths() {
        assert_eq!(plain(&ControlPath, "none"), Ok(None));
        assert_eq!(
            plain(&ControlPath, "/run/x"),
            Ok(Some(PathBuf::from("/run/x")))
        );
        let expected = "; expected an absolute path of at most 107 bytes, or \"none\"";
        let long = format!("/{}", "x".repeat(107));
        for (text, what) in [
            ("", "no path"),
            ("x.sock", "not an absolute path"),
            (&long, "a path of 108 bytes, where 107 is the most"),
        ] {
            assert_eq!(plain(&ControlPath, text), Err(format!("{what}{expected}")));
        }
    }

    #[test]
    fn formats() {
        assert_eq!(quoted(&Format, "JSON"), Ok(LogFormat::Json));
        assert_eq!(
            plain(&Format, "xml").unwrap_err(),
            "unknown format; expected \"auto\", \"human\", \"json\" or \"journald\""
        );
    }

    #[test]
    fn levels() {
        for text in [
            "info",
            "WARN",
            "off",
            "info,hyper=warn",
            "my_app::db=debug",
            "warn,[span{id=1}]=trace",
        ] {
            assert_eq!(plain(&Level, text).as_deref(), Ok(text));
        }
        let expected = "; expected off, error, warn, info, debug, trace or directives such as \"info,hyper=warn\"";
        for (text, what) in [
            ("inof", "no level is called 'inof'; did you mean 'info'?"),
            ("hyper", "no level is called 'hyper'"),
            ("info,", "no level is called ''"),
            ("", "empty"),
            ("hyper=loud", "no directives of the log filter"),
        ] {
            assert_eq!(
                plain(&Level, text),
                Err(format!("{what}{expected}")),
                "{text}"
            );
        }
    }
}
