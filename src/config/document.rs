//! What stands in the configuration file, sorted by settings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::app::{self, AppSettings};
use super::forms::Shown;
use super::origin::{Given, Origin, Place, Problem, Shape, nearest, one_line};
use super::report::Entry;
use super::settings::{SETTINGS, Setting};

/// A file and its text.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// What stands in a file.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) values: BTreeMap<&'static str, Given>,
    pub(super) app: AppSettings,
    pub(super) app_entries: Vec<Entry>,
    pub(super) problems: Vec<Problem>,
}

type Key<'a> = Spanned<toml::de::DeString<'a>>;
type Node<'a> = Spanned<DeValue<'a>>;

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
pub(super) fn parse(source: Source) -> Document {
    let mut document = Document::default();
    let (root, errors) = DeTable::parse_recoverable(&source.text);
    if errors.is_empty() {
        for (key, node) in root.get_ref() {
            top_level(&source, key, node, &mut document);
        }
    } else {
        document.problems = syntax(&source, &errors);
    }
    document.app.source = Some((source.path, source.text));
    document
}

fn top_level(source: &Source, key: &Key<'_>, node: &Node<'_>, document: &mut Document) {
    let name = key.get_ref().as_ref();
    let is_table = name == "app" || tables().any(|table| table == name);
    match node.get_ref() {
        DeValue::Table(_) if name == "app" => app_table(source, node, document),
        DeValue::Table(table) if is_table => {
            for (key, node) in table {
                value(source, name, key, node, document);
            }
        }
        _ if is_table => {
            let given = given(source, "", node);
            let problem = format!("{name} = {}: expected a table, [{name}]", given.literal);
            document.problems.push(Problem::new(given.origin, problem));
        }
        _ => value(source, "", key, node, document),
    }
}

fn value(source: &Source, table: &str, key: &Key<'_>, node: &Node<'_>, document: &mut Document) {
    let name = key.get_ref().as_ref();
    match SETTINGS
        .iter()
        .find(|setting| setting.table() == table && setting.name() == name)
    {
        Some(setting) if setting.sources.file => {
            document
                .values
                .insert(setting.key, given(source, setting.key, node));
        }
        Some(setting) => {
            let cure = format!(
                "'{name}' cannot stand in a file, where clients do not look; use {} or {}",
                setting.flag,
                setting.variable()
            );
            document
                .problems
                .push(Problem::new(source.origin(key.span().start), cure));
        }
        None => document.problems.push(unknown(source, table, key, node)),
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

fn app_table(source: &Source, node: &Node<'_>, document: &mut Document) {
    match toml::Table::deserialize(toml::de::ValueDeserializer::from(node.clone())) {
        Ok(table) => document.app.table = table,
        Err(error) => document.problems.push(app::problem(source, node, &error)),
    }
    leaves(source, "app", node, &mut document.app_entries);
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

/// The leftmost complaint of each line: the parser goes on after an error, and further ones on the same line
/// mostly follow from it.
fn syntax(source: &Source, errors: &[toml::de::Error]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut lines = Vec::new();
    let offset =
        |error: &toml::de::Error| error.span().map_or(source.text.len(), |span| span.start);
    let mut errors: Vec<_> = errors.iter().map(|error| (offset(error), error)).collect();
    errors.sort_by_key(|(offset, _)| *offset);
    for (offset, error) in errors {
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
