//! The environment, as far as it configures the service.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::origin::{Origin, Problem, nearest};
use super::settings::SETTINGS;

/// Every variable of ours begins so, and a variable that does must be known.
pub(super) const PREFIX: &str = "PAYLOAD_";

/// Names the configuration file.
pub(super) const FILE: &str = "PAYLOAD_CONFIG";

/// Reserved for tests of services; never looked at.
const TESTS: &str = "PAYLOAD_TEST_";
/// So somebody begins who looks for the variables of the author's settings.
const APP: &str = "PAYLOAD_APP_";

/// Variables by name. One that is empty counts as not set.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// `None`: the value is not UTF-8.
    variables: BTreeMap<String, Option<String>>,
}

impl Environment {
    pub(super) fn new(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let variables = variables
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok())))
            .collect();
        Self { variables }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)?
            .as_deref()
            .filter(|value| !value.is_empty())
    }

    /// Variables that nobody reads although they look like ours, and values that are not text.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let own: Vec<String> = SETTINGS
            .iter()
            .map(|setting| setting.variable())
            .chain([FILE.to_owned()])
            .collect();
        let foreign = SETTINGS.iter().flat_map(|setting| setting.sources.foreign);
        let foreign: Vec<&str> = foreign.map(|variable| variable.name).collect();
        let mut problems = Vec::new();
        for (name, value) in &self.variables {
            let origin = || Origin::Variable(name.clone());
            if own.contains(name) || foreign.contains(&name.as_str()) {
                if value.is_none() {
                    problems.push(Problem::new(
                        origin(),
                        "the value is not UTF-8; set it anew or unset it",
                    ));
                }
            } else if name.starts_with(PREFIX) && !name.starts_with(TESTS) {
                let known = own.iter().map(|known| (&known[PREFIX.len()..], known));
                let cure = match nearest(&name[PREFIX.len()..], known) {
                    Some(known) => format!("did you mean {known}?"),
                    None if name.starts_with(APP) => {
                        "the [app] table is set in the configuration file only".to_owned()
                    }
                    None => "unset it, or see --help for the known ones".to_owned(),
                };
                problems.push(Problem::new(origin(), format!("unknown variable; {cure}")));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::config::origin::failure;

    fn told(variables: &[(&str, &str)]) -> String {
        let pairs = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        failure(Environment::new(pairs).problems()).to_string()
    }

    #[test]
    fn an_unknown_variable_names_the_nearest() {
        assert_eq!(
            told(&[
                ("PAYLOAD_WORKER", "2"),
                ("PAYLOAD_HTTP_KEEPALIVE_TIMEOUT", ""),
                ("PATH", "x")
            ]),
            "2 mistakes in the configuration\n\
             PAYLOAD_HTTP_KEEPALIVE_TIMEOUT: unknown variable; did you mean PAYLOAD_HTTP_KEEP_ALIVE_TIMEOUT?\n\
             PAYLOAD_WORKER: unknown variable; did you mean PAYLOAD_WORKERS?"
        );
        assert_eq!(
            told(&[("PAYLOAD_ZZZ", "2")]),
            "PAYLOAD_ZZZ: unknown variable; unset it, or see --help for the known ones"
        );
        assert_eq!(
            told(&[("PAYLOAD_APP_GREETING", "hi")]),
            "PAYLOAD_APP_GREETING: unknown variable; the [app] table is set in the configuration file only"
        );
    }

    #[test]
    fn known_foreign_and_reserved_variables_are_fine() {
        let known = [
            ("PAYLOAD_CONFIG", "x"),
            ("PAYLOAD_LISTEN", "x"),
            ("PORT", "x"),
            ("PAYLOAD_TEST_X", "x"),
        ];
        assert_eq!(told(&known), "");
    }

    #[test]
    fn a_value_that_is_not_text_is_told() {
        let broken = || OsString::from_vec(vec![0xff]);
        let pairs = [
            ("PAYLOAD_LISTEN".into(), broken()),
            ("OTHER".into(), broken()),
            (broken(), broken()),
        ];
        let environment = Environment::new(pairs.into_iter());
        assert_eq!(environment.get("PAYLOAD_LISTEN"), None);
        assert_eq!(
            failure(environment.problems()).to_string(),
            "PAYLOAD_LISTEN: the value is not UTF-8; set it anew or unset it"
        );
    }

    #[test]
    fn empty_is_unset() {
        let environment = Environment::new([("PORT".into(), "".into())].into_iter());
        assert_eq!(environment.get("PORT"), None);
    }
}
