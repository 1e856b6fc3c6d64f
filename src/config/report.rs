//! `payload config`: every effective value and where it came from.

use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

use super::file::Choice;
use super::forms::Shown;
use super::origin::Origin;

/// The effective configuration. `Display` is the table for people.
#[derive(Debug)]
pub(crate) struct Report {
    pub(super) service: String,
    pub(super) file: Choice,
    /// Whether the file was there.
    pub(super) found: bool,
    pub(super) entries: Vec<Entry>,
    /// The leaves of `[app]`.
    pub(super) app: Vec<Entry>,
}

/// One effective value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) shown: Shown,
    pub(super) origin: Origin,
    /// A higher layer has a wrong value for it.
    pub(super) doubtful: bool,
}

impl Report {
    /// The file that was read, if there was one.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.found.then_some(&self.file.path)
    }

    /// Whether somebody has set it: it does not come from the defaults.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        let set = |entry: &Entry| entry.key == key && entry.origin != Origin::Default;
        self.entries.iter().any(set)
    }

    /// Who has set it: a flag, a variable, a place in the file. `None`: it comes from the defaults.
    pub(crate) fn source(&self, key: &str) -> Option<String> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (entry.origin != Origin::Default).then(|| entry.origin.to_string())
    }

    /// The same for programs, on several lines.
    pub(crate) fn json(&self) -> String {
        let entries = |entries: &[Entry]| entries.iter().map(Entry::json).collect::<Vec<_>>();
        let report = json!({
            "service": self.service,
            "file": {
                "path": self.file.path.to_string_lossy(),
                "found": self.found,
                "origin": origin(&self.file.origin),
            },
            "settings": entries(&self.entries),
            "app": entries(&self.app),
        });
        format!("{report:#}")
    }
}

impl Entry {
    fn json(&self) -> Value {
        let Self { key, shown, .. } = self;
        json!({ "key": key, "value": shown.json, "text": shown.text, "origin": origin(&self.origin) })
    }
}

fn origin(origin: &Origin) -> Value {
    match origin {
        Origin::File(place) => json!({
            "kind": "file",
            "file": place.path.to_string_lossy(),
            "line": place.line,
            "column": place.column,
        }),
        Origin::Variable(name) => json!({ "kind": "environment", "variable": name }),
        Origin::Flag(flag) => json!({ "kind": "flag", "flag": flag }),
        Origin::Default => json!({ "kind": "default" }),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = if self.found { "" } else { " (not there)" };
        let file = format!("{}{missing}", self.file.path.display());
        let file = ("config", file.as_str(), &self.file.origin);
        let entries = self.entries.iter().chain(&self.app);
        let entries =
            entries.map(|entry| (entry.key.as_str(), entry.shown.text.as_str(), &entry.origin));
        let rows: Vec<_> = std::iter::once(file).chain(entries).collect();
        let key = rows
            .iter()
            .map(|row| row.0.chars().count())
            .max()
            .unwrap_or(0);
        let text = rows
            .iter()
            .map(|row| row.1.chars().count())
            .max()
            .unwrap_or(0);
        for (name, value, origin) in rows {
            writeln!(f, "{name:key$}  {value:text$}  {origin}")?;
        }
        Ok(())
    }
}
