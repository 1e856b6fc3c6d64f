//! `log.level`: which records are written.

use tracing_subscriber::EnvFilter;

use crate::exit::{ExitCode, Failure};

/// Reads directives as tracing-subscriber knows them: `info`, `info,my_service=debug`.
///
/// A word that is no level is refused, although it could be a target: `inof` would switch everything off but
/// the errors.
///
/// # Errors
/// Exit 78 with the directive and what can stand there.
pub(super) fn parse(level: &str) -> Result<EnvFilter, Failure> {
    let directives: Vec<&str> = level.split(',').map(str::trim).collect();
    if let Some(word) = directives.iter().find(|word| !is_clear(word)) {
        return Err(wrong(
            level,
            &format!("'{word}' is no level; for a target write '{word}=trace'"),
        ));
    }
    EnvFilter::builder()
        .parse(directives.join(","))
        .map_err(|error| wrong(level, &error.to_string()))
}

fn is_clear(directive: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    directive.contains(['=', '['])
        || LEVELS
            .iter()
            .any(|level| level.eq_ignore_ascii_case(directive))
}

fn wrong(level: &str, why: &str) -> Failure {
    Failure::new(
        ExitCode::Config,
        format!(
            "log.level \"{level}\" cannot be read: {why}. Levels are off, error, warn, info, debug and trace; \
             several directives are separated by commas, as in \"info,my_service=debug\""
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_targets_and_spans_are_read() {
        for level in [
            "info",
            "WARN",
            "off",
            "info,hyper=debug",
            "info, my::target=trace",
            "info,[request{id=1}]=debug",
        ] {
            parse(level).unwrap_or_else(|failure| panic!("{failure}"));
        }
    }

    #[test]
    fn a_mistake_is_named_with_its_cure() {
        for (level, part) in [
            (
                "inof",
                "'inof' is no level; for a target write 'inof=trace'",
            ),
            ("", "'' is no level"),
            ("info,", "'' is no level"),
            ("payload=loud", "cannot be read"),
            ("info,a=b=c", "cannot be read"),
        ] {
            let failure = parse(level).unwrap_err();
            assert_eq!(failure.code(), ExitCode::Config);
            assert!(failure.to_string().contains(part), "{failure}");
        }
    }
}
