//! `payload config`: every effective value and where it came from.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::forms::Shown;
use super::origin::Origin;

/// The effective configuration. `Display` is the table for people.
#[derive(Debug)]
pub(crate) struct Report {
    pub(super) service: String,
    /// The file that was read.
    pub(super) file: Option<PathBuf>,
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
    pub(crate) fn file(&self) -> Option<&std::path::Path> {
        self.file.as_deref()
    }

    /// The same for programs, on several lines.
    pub(crate) fn json(&self) -> String {
        let entries = |entries: &[Entry]| entries.iter().map(Entry::json).collect::<Vec<_>>();
        let report = json!({
            "service": self.service,
            "file": self.file.as_ref().map(|path| path.to_string_lossy()),
            "settings": entries(&self.entries),
            "app": entries(&self.app),
        });
        format!("{report:#}")
    }
}

impl Entry {
    fn json(&self) -> Value {
        let origin = match &self.origin {
            Origin::File(place) => json!({
                "kind": "file",
                "file": place.path.to_string_lossy(),
                "line": place.line,
                "column": place.column,
            }),
            Origin::Variable(name) => json!({ "kind": "environment", "variable": name }),
            Origin::Flag(flag) => json!({ "kind": "flag", "flag": flag }),
            Origin::Default => json!({ "kind": "default" }),
        };
        json!({ "key": self.key, "value": self.shown.json, "text": self.shown.text, "origin": origin })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = || self.entries.iter().chain(&self.app);
        let key = rows().map(|row| row.key.chars().count()).max().unwrap_or(0);
        let text = rows()
            .map(|row| row.shown.text.chars().count())
            .max()
            .unwrap_or(0);
        for row in rows() {
            writeln!(
                f,
                "{:key$}  {:text$}  {}",
                row.key, row.shown.text, row.origin
            )?;
        }
        Ok(())
    }
}
