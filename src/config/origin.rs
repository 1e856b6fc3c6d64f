//! Where a value stands, and what is wrong with it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::exit::{ExitCode, Failure};

/// Where a value came from. The order is the one in which problems are told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    File(Place),
    /// An environment variable.
    Variable(String),
    /// A flag, with its dashes.
    Flag(&'static str),
    Default,
}

/// A position in a file. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) line: usize,
    pub(super) column: usize,
}

/// One complaint, complete with its place: usually one line, more when it shows the offending line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    origin: Origin,
    text: String,
    /// The command line is at fault, and nothing else.
    usage: bool,
}

/// A value as one layer gives it.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) key: &'static str,
    pub(super) origin: Origin,
    /// As it is written there, fit for one line of a message.
    pub(super) literal: String,
    pub(super) shape: Shape,
}

/// What a value is before anybody knows what it should be.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// Text without a type: flags, variables, defaults.
    Plain(String),
    /// A TOML string.
    Quoted(String),
    /// A TOML integer, in decimal.
    Number(String),
    /// A TOML array.
    List(Vec<Given>),
    /// Any other TOML type, by its name.
    Other(&'static str),
}

impl Place {
    /// The place of byte `offset` of `text`.
    pub(super) fn new(path: &Path, text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl Problem {
    /// `text` follows the place and a colon; nobody is to blame for a default, so it stands alone there.
    pub(super) fn new(origin: Origin, text: impl fmt::Display) -> Self {
        let text = match origin {
            Origin::Default => text.to_string(),
            _ => format!("{origin}: {text}"),
        };
        Self {
            usage: matches!(origin, Origin::Flag(_)),
            origin,
            text,
        }
    }

    /// The flag is right; what it names is not.
    pub(super) fn beyond_the_flag(mut self) -> Self {
        self.usage = false;
        self
    }
}

impl Given {
    /// Says what was given and where, what is wrong with it, and what would be right.
    pub(super) fn wrong(&self, what: impl fmt::Display, expected: impl fmt::Display) -> Problem {
        let Self { key, literal, .. } = self;
        let text = match &self.origin {
            Origin::File(place) => format!("{place}: {key} = {literal}"),
            Origin::Variable(name) => format!("{name}={literal}"),
            Origin::Flag(flag) => format!("{flag} {literal}"),
            Origin::Default => format!("default of {key}, {literal}"),
        };
        Problem {
            usage: matches!(self.origin, Origin::Flag(_)),
            origin: self.origin.clone(),
            text: format!("{text}: {what}; expected {expected}"),
        }
    }
}

/// All problems as one failure, one line each, in the order of the file, then variables, then flags.
pub(super) fn failure(mut problems: Vec<Problem>) -> Failure {
    problems.sort();
    problems.dedup();
    let usage = problems.iter().all(|problem| problem.usage);
    let code = if usage {
        ExitCode::Usage
    } else {
        ExitCode::Config
    };
    let mut lines: Vec<String> = problems.into_iter().map(|problem| problem.text).collect();
    // The program's name comes before the message: each place must still begin its line.
    if lines.len() > 1 {
        lines.insert(0, format!("{} mistakes in the configuration", lines.len()));
    }
    Failure::new(code, lines.join("\n"))
}

/// `text` on one line and not too long, for a message.
pub(super) fn one_line(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|c| !c.is_control());
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// The entry that somebody who wrote `given` most likely meant: each candidate is the name to compare
/// with and what to return. Of equally near ones the first wins.
pub(super) fn nearest<T>(
    given: &str,
    candidates: impl IntoIterator<Item = (impl AsRef<str>, T)>,
) -> Option<T> {
    const NEAR: f64 = 0.8;
    let mut best = None;
    let mut score = NEAR;
    for (name, meant) in candidates {
        let similarity = strsim::jaro_winkler(given, name.as_ref());
        if similarity > score {
            score = similarity;
            best = Some(meant);
        }
    }
    best
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(place) => write!(f, "{place}"),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
            Self::Default => f.write_str("default"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.path.display(), self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let text = "a = 1\nb = \"é\" # x\n";
        let at = |needle| {
            let place = Place::new(Path::new("f"), text, text.find(needle).unwrap());
            (place.line, place.column)
        };
        assert_eq!(at("a"), (1, 1));
        assert_eq!(at("b"), (2, 1));
        assert_eq!(at("#"), (2, 9));
        assert_eq!(Place::new(Path::new("f"), text, text.len()).line, 3);
        assert_eq!(Place::new(Path::new("f"), "", 7).column, 1);
    }

    #[test]
    fn only_wrong_flags_are_a_usage_error() {
        let flag = Problem::new(Origin::Flag("--workers"), "no");
        let variable = Problem::new(Origin::Variable("PAYLOAD_X".into()), "no");
        assert_eq!(failure(vec![flag.clone()]).code(), ExitCode::Usage);
        let both = failure(vec![flag, variable]);
        assert_eq!(both.code(), ExitCode::Config);
        assert_eq!(
            both.to_string(),
            "2 mistakes in the configuration\nPAYLOAD_X: no\n--workers: no"
        );
    }

    #[test]
    fn nothing_near_is_nothing() {
        let known = ["workers", "threads"].map(|name| (name, name));
        assert_eq!(nearest("wokers", known), Some("workers"));
        assert_eq!(nearest("zzz", known), None);
    }

    #[test]
    fn a_long_value_is_cut() {
        assert_eq!(one_line("a\n  b\u{7}"), "a b");
        assert_eq!(one_line(&"x".repeat(100)).chars().count(), 81);
    }
}
