//! The configuration file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::app::{self, AppSettings};
use super::environment::{self, Environment};
use super::forms::Shown;
use super::layers::Flags;
use super::origin::{Given, Origin, Place, Problem, Shape, nearest, one_line};
use super::report::Entry;
use super::settings::{SETTINGS, Setting};

/// Which file to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    path: PathBuf,
    /// Who asked for it. `Default`: nobody, it may be missing.
    origin: Origin,
}

/// What reading gave.
#[derive(Debug)]
pub(super) enum Read {
    Text(Source),
    /// The default file is not there.
    Missing,
    Failed(Problem),
}

/// A file and its text.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// What stands in a file.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) path: Option<PathBuf>,
    pub(super) values: BTreeMap<&'static str, Given>,
    pub(super) app: AppSettings,
    pub(super) app_entries: Vec<Entry>,
    pub(super) problems: Vec<Problem>,
}

type Key<'a> = Spanned<toml::de::DeString<'a>>;
type Node<'a> = Spanned<DeValue<'a>>;

impl Choice {
    /// `--config`, else `PAYLOAD_CONFIG`, else `/etc/<service>/<service>.toml`.
    pub(super) fn new(service: &str, flags: &Flags, environment: &Environment) -> Self {
        if let Some(path) = &flags.file {
            return Self {
                path: path.clone(),
                origin: Origin::Flag("--config"),
            };
        }
        if let Some(path) = environment.get(environment::FILE) {
            let origin = Origin::Variable(environment::FILE.to_owned());
            return Self {
                path: PathBuf::from(path),
                origin,
            };
        }
        let path = Path::new("/etc")
            .join(service)
            .join(format!("{service}.toml"));
        Self {
            path,
            origin: Origin::Default,
        }
    }

    pub(super) fn read(self) -> Read {
        let bytes = std::fs::read(&self.path);
        self.judge(bytes)
    }

    fn judge(self, read: io::Result<Vec<u8>>) -> Read {
        let path = self.path;
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error)
                if self.origin == Origin::Default && error.kind() == io::ErrorKind::NotFound =>
            {
                return Read::Missing;
            }
            Err(error) => {
                let text = format!("cannot read {}: {error}", path.display());
                let cure = match error.kind() {
                    io::ErrorKind::NotFound => "create it or name another",
                    io::ErrorKind::PermissionDenied => "let the service's user read it",
                    _ => "name a file",
                };
                return Read::Failed(Problem::new(self.origin, format!("{text}; {cure}")));
            }
        };
        match String::from_utf8(bytes) {
            Ok(text) => Read::Text(Source { path, text }),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes());
                let place = Place::new(&path, &text, valid);
                Read::Failed(Problem::new(
                    Origin::File(place),
                    "not UTF-8 from here on; save the file as UTF-8",
                ))
            }
        }
    }
}

impl Source {
    pub(super) fn origin(&self, offset: usize) -> Origin {
        Origin::File(Place::new(&self.path, &self.text, offset))
    }

    /// The part of the text that a value covers, for a message.
    pub(super) fn literal(&self, node: &Node<'_>) -> String {
        match node.get_ref() {
            DeValue::Table(_) => "{…}".to_owned(),
            _ => one_line(self.text.get(node.span()).unwrap_or_default()),
        }
    }
}

/// Sorts a file's content by settings. With a syntax error in it, nothing else is looked at.
pub(super) fn parse(read: Read) -> Parsed {
    let source = match read {
        Read::Text(source) => source,
        Read::Missing => return Parsed::default(),
        Read::Failed(problem) => {
            return Parsed {
                problems: vec![problem],
                ..Parsed::default()
            };
        }
    };
    let mut parsed = Parsed {
        path: Some(source.path.clone()),
        ..Parsed::default()
    };
    let (root, errors) = DeTable::parse_recoverable(&source.text);
    if errors.is_empty() {
        for (key, node) in root.get_ref() {
            top_level(&source, key, node, &mut parsed);
        }
    } else {
        parsed.problems = syntax(&source, &errors);
    }
    parsed.app.source = Some((source.path, source.text));
    parsed
}

fn top_level(source: &Source, key: &Key<'_>, node: &Node<'_>, parsed: &mut Parsed) {
    let name = key.get_ref().as_ref();
    let is_table = name == "app" || tables().any(|table| table == name);
    match node.get_ref() {
        DeValue::Table(_) if name == "app" => app_table(source, node, parsed),
        DeValue::Table(table) if is_table => {
            for (key, node) in table {
                value(source, name, key, node, parsed);
            }
        }
        _ if is_table => {
            let given = given(source, "", node);
            let problem = format!("{name} = {}: expected a table, [{name}]", given.literal);
            parsed.problems.push(Problem::new(given.origin, problem));
        }
        _ => value(source, "", key, node, parsed),
    }
}

fn value(source: &Source, table: &str, key: &Key<'_>, node: &Node<'_>, parsed: &mut Parsed) {
    let name = key.get_ref().as_ref();
    match SETTINGS
        .iter()
        .find(|setting| setting.table() == table && setting.name() == name)
    {
        Some(setting) if setting.sources.file => {
            parsed
                .values
                .insert(setting.key, given(source, setting.key, node));
        }
        Some(setting) => {
            let cure = format!(
                "'{name}' cannot stand in a file, where clients do not look; use {} or {}",
                setting.flag,
                setting.variable()
            );
            parsed
                .problems
                .push(Problem::new(source.origin(key.span().start), cure));
        }
        None => parsed.problems.push(unknown(source, table, key, node)),
    }
}

fn given(source: &Source, key: &'static str, node: &Node<'_>) -> Given {
    let shape = match node.get_ref() {
        DeValue::String(text) => Shape::Quoted(text.to_string()),
        DeValue::Integer(number) => Shape::Number(
            i128::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.as_str().to_owned(), |number| number.to_string()),
        ),
        DeValue::Array(items) => {
            Shape::List(items.iter().map(|item| given(source, key, item)).collect())
        }
        DeValue::Float(_) => Shape::Other("a number with a fraction"),
        DeValue::Boolean(_) => Shape::Other("a boolean"),
        DeValue::Datetime(_) => Shape::Other("a date or time"),
        DeValue::Table(_) => Shape::Other("a table"),
    };
    Given {
        key,
        origin: source.origin(node.span().start),
        literal: source.literal(node),
        shape,
    }
}

fn unknown(source: &Source, table: &str, key: &Key<'_>, node: &Node<'_>) -> Problem {
    let name = key.get_ref().as_ref();
    let full = if table.is_empty() {
        quote(name)
    } else {
        format!("{table}.{}", quote(name))
    };
    let settable = || SETTINGS.iter().filter(|setting| setting.sources.file);
    let keys = |here: bool| {
        settable()
            .filter(move |setting| (setting.table() == table) == here)
            .map(|setting| (setting.name(), format!("'{}'", setting.key)))
    };
    let tables = || {
        tables()
            .chain(["app"])
            .map(|table| (table, format!("[{table}]")))
    };
    let (what, near) = if matches!(node.get_ref(), DeValue::Table(_)) && table.is_empty() {
        (
            format!("unknown table [{full}]"),
            nearest(name, tables().chain(keys(true)).chain(keys(false))),
        )
    } else {
        let others = tables().filter(|_| table.is_empty());
        (
            format!("unknown key '{full}'"),
            nearest(name, keys(true).chain(keys(false)).chain(others)),
        )
    };
    let cure = near.map_or_else(
        || {
            let known = settable()
                .filter(|setting| setting.table() == table)
                .map(Setting::name);
            format!("known here: {}", known.collect::<Vec<_>>().join(", "))
        },
        |near| format!("did you mean {near}?"),
    );
    Problem::new(source.origin(key.span().start), format!("{what}; {cure}"))
}

fn app_table(source: &Source, node: &Node<'_>, parsed: &mut Parsed) {
    match toml::Table::deserialize(toml::de::ValueDeserializer::from(node.clone())) {
        Ok(table) => parsed.app.table = table,
        Err(error) => parsed.problems.push(app::problem(source, node, &error)),
    }
    leaves(source, "app", node, &mut parsed.app_entries);
}

/// Every value of `[app]` that is not a table.
fn leaves(source: &Source, prefix: &str, node: &Node<'_>, entries: &mut Vec<Entry>) {
    if let DeValue::Table(table) = node.get_ref() {
        for (key, node) in table {
            leaves(
                source,
                &format!("{prefix}.{}", quote(key.get_ref())),
                node,
                entries,
            );
        }
        return;
    }
    entries.push(Entry {
        key: prefix.to_owned(),
        shown: Shown {
            text: source.literal(node),
            json: json(node.get_ref()),
        },
        origin: source.origin(node.span().start),
        doubtful: false,
    });
}

fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| number.to_string().into(), Value::from),
        DeValue::Float(number) => number
            .as_str()
            .parse::<f64>()
            .map_or_else(|_| number.to_string().into(), Value::from),
        DeValue::Boolean(truth) => (*truth).into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => table
            .iter()
            .map(|(key, node)| (key.get_ref().to_string(), json(node.get_ref())))
            .collect(),
    }
}

/// One complaint for each line: the parser goes on after an error, and further errors on the same line
/// mostly follow from the first.
fn syntax(source: &Source, errors: &[toml::de::Error]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut lines = Vec::new();
    for error in errors {
        let offset = error.span().map_or(source.text.len(), |span| span.start);
        let place = Place::new(&source.path, &source.text, offset);
        if lines.contains(&place.line) {
            continue;
        }
        lines.push(place.line);
        let line = source.text.lines().nth(place.line - 1).unwrap_or_default();
        let number = place.line.to_string();
        // A tab stays one, so that the caret stands under its character whatever a tab's width.
        let indent: String = line
            .chars()
            .chain(std::iter::repeat(' '))
            .take(place.column - 1)
            .map(|c| if c == '\t' { c } else { ' ' })
            .collect();
        let text = format!(
            "{}\n  {number} | {line}\n  {:width$} | {indent}^",
            error.message(),
            "",
            width = number.len()
        );
        problems.push(Problem::new(Origin::File(place), text));
    }
    problems
}

/// The tables of the settings, each once.
fn tables() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    SETTINGS
        .iter()
        .map(Setting::table)
        .filter(move |table| std::mem::replace(&mut last, table) != *table)
}

/// A key as it would be written: bare, or in quotes.
pub(super) fn quote(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else {
        format!("{key:?}")
    }
}
