//! The layers laid over each other: flags, environment, file, defaults.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::document;
use super::environment::Environment;
use super::file::{File, Snapshot};
use super::forms::{Form, Host};
use super::origin::{Given, Origin, Problem, Shape, failure, one_line};
use super::report::{Entry, Report};
use super::settings::{self, Setting};
use super::{Loaded, rules};
use crate::exit::Failure;

/// What stands on the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// `--config`
    pub(crate) file: Option<PathBuf>,
    /// By key. More than one only where the form repeats.
    pub(super) given: BTreeMap<&'static str, Vec<String>>,
}

/// All layers of one load. [`take`](Layers::take) asks them for one setting after the other.
pub(super) struct Layers<'a> {
    service: &'a str,
    flags: &'a Flags,
    environment: &'a Environment,
    file: BTreeMap<&'static str, Given>,
    host: &'a Host,
    entries: Vec<Entry>,
    problems: Vec<Problem>,
}

/// The path of the control socket of the service called `service`: `--control`, else `PAYLOAD_CONTROL`,
/// else `control.sock` in the first `RUNTIME_DIRECTORY`, else `payload/<service>.sock` in
/// `XDG_RUNTIME_DIR`, else none. Server and client find the same.
///
/// # Errors
/// The path cannot be one, with the reason.
pub(crate) fn control_path(
    service: &str,
    flags: &Flags,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Option<PathBuf>, Failure> {
    let environment = Environment::new(environment);
    let host = Host { cpus: 1 };
    let mut layers = Layers::new(service, flags, &environment, BTreeMap::new(), &host);
    let path = settings::control(&mut layers);
    if layers.problems.is_empty() {
        Ok(path)
    } else {
        Err(failure(layers.problems))
    }
}

/// Everything of [`load`](super::load) behind the reading of the file.
pub(super) fn resolve(
    service: &str,
    flags: &Flags,
    environment: &Environment,
    file: File,
    host: &Host,
) -> Result<Loaded, Failure> {
    let mut problems = environment.problems();
    let File { choice, source } = file;
    let source = source.unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let found = source.is_some();
    let snapshot = Snapshot {
        text: source.as_ref().map(|source| source.text.clone()),
    };
    let document = source.map(document::parse).unwrap_or_default();
    problems.extend(document.problems);
    let mut layers = Layers::new(service, flags, environment, document.values, host);
    let config = settings::build(&mut layers, document.app);
    problems.extend(layers.problems);
    problems.extend(rules::check(&config, &layers.entries));
    if !problems.is_empty() {
        return Err(failure(problems));
    }
    let report = Report {
        service: service.to_owned(),
        file: choice,
        found,
        entries: layers.entries,
        app: document.app_entries,
    };
    Ok(Loaded {
        config,
        report,
        snapshot,
    })
}

impl Flags {
    /// Notes what was given for a setting, in place of what was noted before.
    pub(crate) fn set(&mut self, setting: &Setting, values: Vec<String>) {
        self.given.insert(setting.key, values);
    }

    /// Whether the command line says anything besides the settings with these keys.
    pub(crate) fn others_than(&self, keys: &[&str]) -> bool {
        self.file.is_some() || self.given.keys().any(|key| !keys.contains(key))
    }
}

impl<'a> Layers<'a> {
    fn new(
        service: &'a str,
        flags: &'a Flags,
        environment: &'a Environment,
        file: BTreeMap<&'static str, Given>,
        host: &'a Host,
    ) -> Self {
        let (entries, problems) = (Vec::new(), Vec::new());
        Self {
            service,
            flags,
            environment,
            file,
            host,
            entries,
            problems,
        }
    }

    /// The value of the highest layer that has one. A wrong value is noted in whichever layer it stands:
    /// it would come to light at a bad moment, when the layer above it goes.
    pub(super) fn take<F: Form>(&mut self, setting: &Setting, form: &F) -> F::Value {
        let mut winner = None;
        let mut doubtful = false;
        for given in self.given(setting) {
            match form.read(&given, self.host) {
                Ok(value) if winner.is_none() => winner = Some((value, given)),
                Ok(_) => {}
                Err(problems) => {
                    doubtful |= winner.is_none();
                    self.problems.extend(problems);
                }
            }
        }
        let Some((value, given)) = winner else {
            return F::Value::default();
        };
        self.entries.push(Entry {
            key: setting.key.to_owned(),
            shown: form.show(&value, &given),
            origin: given.origin,
            doubtful,
        });
        value
    }

    /// What the layers say, highest first.
    fn given(&self, setting: &Setting) -> Vec<Given> {
        let plain = |origin, literal: &str, text: String| Given {
            key: setting.key,
            origin,
            literal: one_line(literal),
            shape: Shape::Plain(text),
        };
        let mut found = Vec::new();
        if let Some(values) = self.flags.given.get(setting.key) {
            let text = values.join(",");
            found.push(plain(Origin::Flag(setting.flag), &text, text.clone()));
        }
        let variable = setting.variable();
        if let Some(value) = self.environment.get(&variable) {
            found.push(plain(Origin::Variable(variable), value, value.to_owned()));
        }
        if found.is_empty() {
            let foreign = setting.sources.foreign.iter();
            let set = foreign.filter_map(|foreign| {
                let value = self.environment.get(foreign.name)?;
                let text = (foreign.translate)(value, self.service)?;
                Some(plain(
                    Origin::Variable(foreign.name.to_owned()),
                    value,
                    text,
                ))
            });
            found.extend(set.take(1));
        }
        found.extend(self.file.get(setting.key).cloned());
        found.push(plain(
            Origin::Default,
            setting.default,
            setting.default.to_owned(),
        ));
        found
    }
}
