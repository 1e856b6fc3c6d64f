//! `[app]`: the author's own settings.

use std::ops::Range;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{Source, quote};
use super::origin::{Problem, failure, nearest};
use super::strict::{self, Unknown};
use crate::exit::{ExitCode, Failure};

/// The `[app]` table with where it stands, for errors that name file, line and column.
#[derive(Clone, Debug, Default)]
pub(crate) struct AppSettings {
    pub(crate) table: toml::Table,
    /// The file that was read and its whole text, also when it has no `[app]`.
    pub(crate) source: Option<(PathBuf, String)>,
}

/// A place in `[app]` as keys, and whether it is the key or its value.
struct Spot {
    path: String,
    is_key: bool,
    literal: String,
}

/// Parses `[app]` into the author's type; a missing table is an empty one.
///
/// # Errors
/// The file, line, column and key of the first thing that does not fit, and of every key that the type does not know, with
/// the nearest known one: [`ExitCode::Config`].
pub(crate) fn app_settings<S: DeserializeOwned>(settings: &AppSettings) -> Result<S, Failure> {
    let Some((path, text)) = &settings.source else {
        return S::deserialize(settings.table.clone()).map_err(|error| {
            let message = format!(
                "[app]: {}; no configuration file was read: name one with --config",
                error.message()
            );
            Failure::new(ExitCode::Config, message)
        });
    };
    let root = DeTable::parse(text).map_err(|error| {
        Failure::new(
            ExitCode::Config,
            format!("{}: {}", path.display(), error.message()),
        )
    })?;
    let Some(app) = root.into_inner().remove("app") else {
        return S::deserialize(toml::Table::new()).map_err(|error| {
            let message = format!(
                "{}: the table [app] is missing: {}",
                path.display(),
                error.message()
            );
            Failure::new(ExitCode::Config, message)
        });
    };
    let (settings, unknown) = strict::read(&app);
    let settings = match settings {
        Ok(settings) if unknown.is_empty() => return Ok(settings),
        settings => settings,
    };
    let source = Source {
        path: path.clone(),
        text: text.clone(),
    };
    let wrong = settings.err().map(|error| problem(&source, &app, &error));
    let unknown = unknown.iter().map(|key| passed_over(&source, &app, key));
    Err(failure(unknown.chain(wrong).collect()))
}

/// A key that the type has no field for, although it does not complain.
fn passed_over(source: &Source, app: &Spanned<DeValue<'_>>, key: &Unknown) -> Problem {
    let spot = find(source, "app", app, &key.span);
    let path = spot.map_or_else(|| quote(&key.name), |spot| spot.path);
    let text = unknown(&path, &key.name, key.known);
    Problem::new(source.origin(key.span.start), text)
}

/// A complaint of serde about `[app]`, with its place.
pub(super) fn problem(
    source: &Source,
    app: &Spanned<DeValue<'_>>,
    error: &toml::de::Error,
) -> Problem {
    let span = error.span().unwrap_or_else(|| app.span());
    let origin = source.origin(span.start);
    let spot = find(source, "app", app, &span);
    let message = error.message();
    let text = match spot {
        Some(Spot {
            path, is_key: true, ..
        }) => match unknown_field(message) {
            Some((name, known)) => unknown(&path, name, &known),
            None => format!("{path}: {message}"),
        },
        Some(Spot { path, literal, .. }) => match missing_field(message) {
            Some(name) => format!("'{path}.{name}' is missing; add it"),
            None => format!("{path} = {literal}: {message}"),
        },
        None => format!("app: {message}"),
    };
    Problem::new(origin, text)
}

fn unknown(path: &str, name: &str, known: &[&str]) -> String {
    let parent = path.strip_suffix(&quote(name)).unwrap_or_default();
    let cure = match nearest(name, known.iter().map(|known| (known, known))) {
        Some(near) => format!("did you mean '{parent}{near}'?"),
        None if known.is_empty() => "nothing can be set here".to_owned(),
        None => format!("known here: {}", known.join(", ")),
    };
    format!("unknown key '{path}'; {cure}")
}

/// The deepest key or value that covers exactly `span`.
fn find(
    source: &Source,
    path: &str,
    node: &Spanned<DeValue<'_>>,
    span: &Range<usize>,
) -> Option<Spot> {
    let inside = match node.get_ref() {
        DeValue::Table(table) => table.iter().find_map(|(key, value)| {
            let path = format!("{path}.{}", quote(key.get_ref()));
            if key.span() == *span && value.span() != *span {
                return Some(Spot {
                    path,
                    is_key: true,
                    literal: String::new(),
                });
            }
            find(source, &path, value, span)
        }),
        DeValue::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| find(source, &format!("{path}[{index}]"), item, span)),
        _ => None,
    };
    inside.or_else(|| {
        let here = || Spot {
            path: path.to_owned(),
            is_key: false,
            literal: source.literal(node),
        };
        (node.span() == *span).then(here)
    })
}

/// Takes serde's "unknown field `a`, expected one of `b`, `c`" apart.
fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let mut names = rest.split('`').step_by(2);
    let name = names.next()?;
    Some((name, names.filter(|name| !name.is_empty()).collect()))
}

/// Takes serde's "missing field `a`" apart.
fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::app::NoSettings;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Site {
        title: String,
        #[serde(default)]
        port: u16,
        #[serde(default)]
        hosts: Vec<Host>,
        #[serde(default)]
        mode: Mode,
        #[serde(default)]
        extra: BTreeMap<String, u8>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Host {
        name: String,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        #[default]
        Fast,
        Slow,
    }

    fn settings(text: &str) -> AppSettings {
        let table = toml::from_str::<toml::Table>(text).unwrap();
        let table = table
            .get("app")
            .and_then(|app| app.as_table().cloned())
            .unwrap_or_default();
        AppSettings {
            table,
            source: Some(("f".into(), text.to_owned())),
        }
    }

    fn told(text: &str) -> String {
        let failure = app_settings::<Site>(&settings(text)).unwrap_err();
        assert_eq!(failure.code(), ExitCode::Config);
        failure.to_string()
    }

    #[test]
    fn the_authors_type_comes_out() {
        let site: Site = app_settings(&settings(
            "workers = 2\n[app]\ntitle = 'x'\nmode = 'slow'\nhosts = [{ name = 'a' }]\n[app.extra]\nb = 1\n",
        ))
        .unwrap();
        assert_eq!(site.title, "x");
        assert_eq!(site.mode, Mode::Slow);
        assert_eq!(site.hosts, [Host { name: "a".into() }]);
        assert_eq!(site.extra["b"], 1);
    }

    #[test]
    fn an_absent_table_is_an_empty_one() {
        assert_eq!(
            app_settings::<NoSettings>(&AppSettings::default()).unwrap(),
            NoSettings {}
        );
        assert_eq!(
            app_settings::<NoSettings>(&settings("workers = 2")).unwrap(),
            NoSettings {}
        );
        assert_eq!(
            told("workers = 2"),
            "f: the table [app] is missing: missing field `title`"
        );
        assert_eq!(
            app_settings::<Site>(&AppSettings::default())
                .unwrap_err()
                .to_string(),
            "[app]: missing field `title`; no configuration file was read: name one with --config"
        );
    }

    #[test]
    fn errors_name_the_place_and_the_key() {
        for (text, message) in [
            ("[app]\nport = 1", "f:1:1: 'app.title' is missing; add it"),
            (
                "[app]\ntitel = 'x'",
                "f:2:1: unknown key 'app.titel'; did you mean 'app.title'?",
            ),
            (
                "[app]\ntitle = 'x'\nzzz = 1",
                "f:3:1: unknown key 'app.zzz'; known here: title, port, hosts, mode, extra",
            ),
            (
                "app = { title = 'x', hosts = [{ name = 'a' }, { nam = 'b' }] }",
                "f:1:49: unknown key 'app.hosts[1].nam'; did you mean 'app.hosts[1].name'?",
            ),
            (
                "app.title = 'x'\napp.port = 70000",
                "f:2:12: app.port = 70000: invalid value: integer `70000`, expected u16",
            ),
            (
                "[app]\ntitle = 3",
                "f:2:9: app.title = 3: invalid type: integer `3`, expected a string",
            ),
            (
                "[app]\ntitle = 'x'\n[app.extra]\n'a b' = true",
                "f:4:9: app.extra.\"a b\" = true: invalid type: boolean `true`, expected u8",
            ),
            (
                "[app]\ntitle = 'x'\nmode = 'medium'",
                "f:3:8: app.mode = 'medium': unknown variant `medium`, expected `fast` or `slow`",
            ),
        ] {
            assert_eq!(told(text), message, "{text}");
        }
    }

    /// With which keys they are written is for serde alone to say.
    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename_all = "kebab-case")]
    struct Trusting {
        max_age: u32,
        page: Page,
        hosts: Vec<Page>,
        extra: toml::Table,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Page {
        title: String,
        colour: String,
    }

    #[test]
    fn a_key_that_the_type_passes_over_is_an_error_as_well() {
        for (text, message) in [
            (
                "[app]\nmax-agee = 1",
                "f:2:1: unknown key 'app.max-agee'; did you mean 'app.max-age'?",
            ),
            (
                "[app]\npage = { titel = 'x' }",
                "f:2:10: unknown key 'app.page.titel'; did you mean 'app.page.title'?",
            ),
            (
                "[app.page]\n\"q r\" = 1",
                "f:2:1: unknown key 'app.page.\"q r\"'; known here: title, colour",
            ),
            (
                "[[app.hosts]]\n[[app.hosts]]\nzzz.a = { b = 1 }\ncolor = 'red'",
                "2 mistakes in the configuration\n\
                 f:3:1: unknown key 'app.hosts[1].zzz'; known here: title, colour\n\
                 f:4:1: unknown key 'app.hosts[1].color'; did you mean 'app.hosts[1].colour'?",
            ),
            (
                "[app]\nmax-age = 'x'\nages = {}",
                "2 mistakes in the configuration\n\
                 f:2:11: app.max-age = 'x': invalid type: string \"x\", expected u32\n\
                 f:3:1: unknown key 'app.ages'; did you mean 'app.page'?",
            ),
        ] {
            let failure = app_settings::<Trusting>(&settings(text)).unwrap_err();
            assert_eq!(failure.code(), ExitCode::Config);
            assert_eq!(failure.to_string(), message, "{text}");
        }
        let fine = "[app]\nmax-age = 1\npage.title = 'x'\n[app.extra]\nzzz.a = 1";
        let read: Trusting = app_settings(&settings(fine)).unwrap();
        assert_eq!((read.max_age, read.extra.len()), (1, 1));
    }

    #[test]
    fn a_service_without_settings_refuses_all() {
        let failure = app_settings::<NoSettings>(&settings("[app]\nx = 1")).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "f:2:1: unknown key 'app.x'; nothing can be set here"
        );
    }
}
