//! One log record as a line: for people, or as a JSON object.

use std::fmt::Write;

use tracing::Level;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::fields::{Fields, Value};
use super::process::ProcessIdentity;

/// A record with everything that a line says.
pub(super) struct Line<'a> {
    pub(super) time: String,
    pub(super) level: Level,
    pub(super) identity: ProcessIdentity,
    pub(super) target: &'a str,
    pub(super) message: &'a str,
    /// Of the spans around the event, outermost first, then of the event. A later field replaces an
    /// earlier one of the same name.
    pub(super) fields: Vec<&'a Fields>,
}

/// The wall clock: UTC, RFC 3339, milliseconds.
pub(super) fn now() -> String {
    let mut text = String::with_capacity(32);
    // Only a writer that fails could make it fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    milliseconds(&text)
}

/// The clock writes microseconds: "2024-05-01T10:00:00.123456Z".
fn milliseconds(text: &str) -> String {
    match text.split_once('.') {
        Some((seconds, rest)) => format!("{seconds}.{}Z", rest.get(..3).unwrap_or("000")),
        None => text.to_owned(),
    }
}

impl Line<'_> {
    /// `time LEVEL process: sentence key=value ...`. Text of several lines follows indented, so that nothing
    /// that was logged can look like another record.
    pub(super) fn human(&self, with_colour: bool) -> String {
        let paint = if with_colour { PAINT } else { PLAIN };
        let mut line = String::with_capacity(160);
        let colour = if with_colour { colour(self.level) } else { "" };
        let _ = write!(
            line,
            "{}{}{} {colour}{:>5}{} ",
            paint.dim, self.time, paint.end, self.level, paint.end
        );
        match self.identity {
            ProcessIdentity::Arbiter => line.push_str("arbiter"),
            ProcessIdentity::Worker { worker, .. } => {
                let _ = write!(line, "worker {worker}");
            }
        }
        line.push_str(": ");
        if !is_ours(self.target) {
            let _ = write!(line, "{}{}:{} ", paint.dim, self.target, paint.end);
        }
        escape_into(&mut line, self.message);
        let mut blocks = Vec::new();
        for (name, value) in self.merged() {
            // It is there for the journal, which has texts by it.
            if name == "message_id" {
                continue;
            }
            match value {
                Value::Text(text) if text.contains('\n') => blocks.push((name, text)),
                Value::Text(text) => {
                    let _ = write!(line, " {}{name}={}", paint.dim, paint.end);
                    quote_into(&mut line, text);
                }
                plain => {
                    let _ = write!(line, " {}{name}={}{plain}", paint.dim, paint.end);
                }
            }
        }
        for (name, text) in blocks {
            let _ = write!(line, "\n    {}{name}:{}", paint.dim, paint.end);
            for part in text.lines() {
                line.push_str("\n      ");
                escape_into(&mut line, part);
            }
        }
        line.push('\n');
        line
    }

    /// One object on one line, the fields beside the rest. A field that has the name of one of ours gets an
    /// underscore.
    pub(super) fn json(&self) -> String {
        const OURS: [&str; 5] = ["time", "level", "process", "target", "message"];
        let mut line = String::with_capacity(256);
        let _ = write!(
            line,
            r#"{{"time":"{}","level":"{}""#,
            self.time,
            self.level.as_str().to_ascii_lowercase()
        );
        let mut own = Vec::new();
        match self.identity {
            ProcessIdentity::Arbiter => line.push_str(r#","process":"arbiter""#),
            ProcessIdentity::Worker {
                worker,
                slot,
                generation,
            } => {
                line.push_str(r#","process":"worker""#);
                own.extend([
                    ("payload_worker", worker),
                    ("payload_slot", slot.into()),
                    ("payload_generation", generation.into()),
                ]);
            }
        }
        put_json(&mut line, "target", self.target);
        put_json(&mut line, "message", self.message);
        for (name, number) in &own {
            let _ = write!(line, r#","{name}":{number}"#);
        }
        for (name, value) in self.merged() {
            if own.iter().any(|(known, _)| *known == name) {
                continue;
            }
            let renamed = OURS.contains(&name).then(|| format!("{name}_"));
            let name = renamed.as_deref().unwrap_or(name);
            match value {
                Value::Text(text) => put_json(&mut line, name, text),
                plain => {
                    let _ = write!(line, r#",{}:{plain}"#, json_string(name));
                }
            }
        }
        line.push_str("}\n");
        line
    }

    fn merged(&self) -> Vec<(&'static str, &Value)> {
        let mut merged: Vec<(&'static str, &Value)> = Vec::new();
        for (name, value) in self.fields.iter().flat_map(|fields| &fields.rest) {
            match merged.iter_mut().find(|(known, _)| known == name) {
                Some((_, old)) => *old = value,
                None => merged.push((name, value)),
            }
        }
        merged
    }
}

struct Paint {
    dim: &'static str,
    end: &'static str,
}

const PLAIN: Paint = Paint { dim: "", end: "" };
const PAINT: Paint = Paint {
    dim: "\x1b[2m",
    end: "\x1b[0m",
};

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

fn is_ours(target: &str) -> bool {
    target == "payload" || target.starts_with("payload::")
}

/// Words stay as they are; what could be taken for something else is quoted.
pub(super) fn quote_into(line: &mut String, text: &str) {
    let is_word = !text.is_empty()
        && text
            .chars()
            .all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=' | '\\'));
    if is_word {
        line.push_str(text);
    } else {
        let _ = write!(line, "{text:?}");
    }
}

/// Control characters could move the cursor of the reader's terminal.
fn escape_into(line: &mut String, text: &str) {
    for character in text.chars() {
        if character.is_control() && character != '\t' {
            let _ = write!(line, "{}", character.escape_default());
        } else {
            line.push(character);
        }
    }
}

fn put_json(line: &mut String, name: &str, text: &str) {
    let _ = write!(line, ",{}:{}", json_string(name), json_string(text));
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    fn line<'a>(identity: ProcessIdentity, fields: &'a [Fields]) -> Line<'a> {
        Line {
            time: "2024-05-01T10:00:00.123Z".into(),
            level: Level::INFO,
            identity,
            target: "payload::lifecycle",
            message: "worker forked",
            fields: fields.iter().collect(),
        }
    }

    fn fields(rest: Vec<(&'static str, Value)>) -> Fields {
        Fields {
            rest,
            ..Fields::default()
        }
    }

    const WORKER: ProcessIdentity = ProcessIdentity::Worker {
        worker: 2,
        slot: 1,
        generation: 3,
    };

    #[test]
    fn a_human_line_has_a_sentence_and_its_fields() {
        let fields = [fields(vec![
            ("payload_event", text("worker-forked")),
            ("message_id", text("0123")),
            ("pid", Value::Count(77)),
            ("cause", text("it said \"no\"")),
            ("empty", text("")),
        ])];
        assert_eq!(
            line(ProcessIdentity::Arbiter, &fields).human(false),
            "2024-05-01T10:00:00.123Z  INFO arbiter: worker forked payload_event=worker-forked pid=77 \
             cause=\"it said \\\"no\\\"\" empty=\"\"\n"
        );
        let mut other = line(WORKER, &[]);
        other.target = "hyper::proto";
        assert_eq!(
            other.human(false),
            "2024-05-01T10:00:00.123Z  INFO worker 2: hyper::proto: worker forked\n"
        );
    }

    #[test]
    fn what_was_logged_cannot_forge_a_line_or_drive_the_terminal() {
        let fields = [fields(vec![
            ("path", text("a\x1b[2J")),
            (
                "backtrace",
                text("one\n2024-05-01T10:00:00.123Z ERROR arbiter forged\x07"),
            ),
        ])];
        let mut forged = line(WORKER, &fields);
        forged.message = "a\nb";
        assert_eq!(
            forged.human(false),
            "2024-05-01T10:00:00.123Z  INFO worker 2: a\\nb path=\"a\\u{1b}[2J\"\n    backtrace:\n      one\n      \
             2024-05-01T10:00:00.123Z ERROR arbiter forged\\u{7}\n"
        );
    }

    #[test]
    fn colour_is_there_only_when_asked_for() {
        let plain = line(WORKER, &[]);
        assert!(!plain.human(false).contains('\x1b'));
        assert!(plain.human(true).contains("\x1b[32m INFO\x1b[0m"));
    }

    #[test]
    fn a_json_line_has_the_fields_beside_the_rest() {
        let fields = [
            fields(vec![("request_id", text("r1")), ("n", Value::Count(1))]),
            fields(vec![
                ("payload_event", text("worker-phase")),
                ("payload_worker", Value::Count(2)),
                ("n", Value::Count(2)),
                ("level", text("x")),
                ("text", text("a\n\"b\"")),
            ]),
        ];
        assert_eq!(
            line(WORKER, &fields).json(),
            concat!(
                r#"{"time":"2024-05-01T10:00:00.123Z","level":"info","process":"worker","#,
                r#""target":"payload::lifecycle","message":"worker forked","payload_worker":2,"#,
                r#""payload_slot":1,"payload_generation":3,"request_id":"r1","n":2,"#,
                r#""payload_event":"worker-phase","level_":"x","text":"a\n\"b\""}"#,
                "\n"
            )
        );
        let json = line(ProcessIdentity::Arbiter, &fields).json();
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed["process"], "arbiter");
        assert_eq!(
            parsed["payload_worker"], 2,
            "the arbiter speaks about a worker"
        );
    }

    #[test]
    fn the_time_has_milliseconds() {
        assert_eq!(
            milliseconds("2024-05-01T10:00:00.123456Z"),
            "2024-05-01T10:00:00.123Z"
        );
        let now = now();
        assert_eq!(
            (now.len(), now.as_bytes()[10], now.as_bytes()[19]),
            (24, b'T', b'.'),
            "{now}"
        );
    }
}
