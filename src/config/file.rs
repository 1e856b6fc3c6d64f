//! Which configuration file is read, and reading it.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::document::Source;
use super::environment::{self, Environment};
use super::layers::Flags;
use super::origin::{Origin, Place, Problem};

/// Which file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) path: PathBuf,
    /// Who asked for it. `Default`: nobody, it may be missing.
    pub(super) origin: Origin,
}

/// What stood in the file when a configuration was made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// `None`: there was no file.
    pub(super) text: Option<String>,
}

/// The chosen file, read.
#[derive(Debug)]
pub(super) struct File {
    pub(super) choice: Choice,
    /// `Ok(None)`: it is the default file, and not there.
    pub(super) source: Result<Option<Source>, Problem>,
}

impl Choice {
    /// `--config`, else `PAYLOAD_CONFIG`, else `/etc/<service>/<service>.toml`.
    pub(super) fn new(service: &str, flags: &Flags, environment: &Environment) -> Self {
        if let Some(path) = &flags.file {
            let origin = Origin::Flag("--config");
            return Self {
                path: path.clone(),
                origin,
            };
        }
        if let Some(path) = environment.get(environment::FILE) {
            let origin = Origin::Variable(environment::FILE.to_owned());
            return Self {
                path: path.into(),
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

    /// The file as it was at another time, whatever is on disk now.
    pub(super) fn remember(self, snapshot: &Snapshot) -> File {
        let path = self.path.clone();
        let source = snapshot.text.clone().map(|text| Source { path, text });
        File {
            choice: self,
            source: Ok(source),
        }
    }

    /// Reads the file, whole.
    pub(super) fn read(self) -> File {
        let bytes = std::fs::read(&self.path);
        let source = self.judge(bytes);
        File {
            choice: self,
            source,
        }
    }

    fn judge(&self, read: io::Result<Vec<u8>>) -> Result<Option<Source>, Problem> {
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => {
                let kind = error.kind();
                if self.origin == Origin::Default && kind == io::ErrorKind::NotFound {
                    return Ok(None);
                }
                let text = format!("cannot read {}: {error}", self.path.display());
                let cure = match kind {
                    io::ErrorKind::NotFound => "create it or name another",
                    io::ErrorKind::PermissionDenied => "let the service's user read it",
                    _ => "name a file",
                };
                let problem = Problem::new(self.origin.clone(), format!("{text}; {cure}"));
                return Err(problem.beyond_the_flag());
            }
        };
        let path = self.path.clone();
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(Source { path, text })),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes());
                let origin = Origin::File(Place::new(&path, &text, valid));
                Err(Problem::new(
                    origin,
                    "not UTF-8 from here on; save the file as UTF-8",
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::origin::failure;

    fn choose(flag: Option<&str>, variable: &str) -> (String, String) {
        let flags = Flags {
            file: flag.map(PathBuf::from),
            ..Flags::default()
        };
        let environment =
            Environment::new([(environment::FILE.into(), variable.into())].into_iter());
        let choice = Choice::new("demo", &flags, &environment);
        (
            choice.path.to_str().unwrap().to_owned(),
            choice.origin.to_string(),
        )
    }

    #[test]
    fn the_file_is_chosen_in_order() {
        assert_eq!(choose(Some("a"), "b"), ("a".into(), "--config".into()));
        assert_eq!(choose(None, "b"), ("b".into(), "PAYLOAD_CONFIG".into()));
        assert_eq!(
            choose(None, ""),
            ("/etc/demo/demo.toml".into(), "default".into())
        );
    }

    #[test]
    fn only_a_missing_default_file_is_fine() {
        let told = |origin, kind: io::ErrorKind| {
            let choice = Choice {
                path: "f".into(),
                origin,
            };
            choice
                .judge(Err(kind.into()))
                .err()
                .map(|problem| failure(vec![problem]).to_string())
        };
        assert_eq!(told(Origin::Default, io::ErrorKind::NotFound), None);
        assert_eq!(
            told(Origin::Default, io::ErrorKind::PermissionDenied).unwrap(),
            "cannot read f: permission denied; let the service's user read it"
        );
        assert_eq!(
            told(Origin::Flag("--config"), io::ErrorKind::NotFound).unwrap(),
            "--config: cannot read f: entity not found; create it or name another"
        );
        assert_eq!(
            told(Origin::Flag("--config"), io::ErrorKind::IsADirectory).unwrap(),
            "--config: cannot read f: is a directory; name a file"
        );
    }
}
