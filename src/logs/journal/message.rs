//! The sentence of a record, made whole for people: `journalctl` and `systemctl status` show MESSAGE and no
//! other field, so a constant sentence alone would not say which worker, nor why.

use std::fmt::Write as _;

use crate::logs::line::quote_into;

/// Appends the fields of an encoded record to its MESSAGE, as ` key=value`. The fields themselves stay.
///
/// Only what the event says: nothing of where in the code it comes from, no numbers of the catalog. Several
/// lines follow the sentence indented, as [`Line::human`](crate::logs::line::Line::human) has them.
pub(super) fn complete(record: &[u8]) -> Vec<u8> {
    let fields: Vec<(&str, &[u8])> = Encoded(record).collect();
    let mut message = String::new();
    let mut blocks = String::new();
    for (name, value) in &fields {
        let value = String::from_utf8_lossy(value);
        match shown_as(name) {
            None if *name == MESSAGE => message.insert_str(0, &value),
            None => {}
            Some(key) if value.len() > LONG => {
                let _ = write!(message, " {key}=({} bytes)", value.len());
            }
            Some(key) if value.contains('\n') => {
                let _ = write!(blocks, "\n    {key}:");
                for line in value.lines() {
                    let _ = write!(blocks, "\n      {line}");
                }
            }
            Some(key) => {
                let _ = write!(message, " {key}=");
                quote_into(&mut message, &value);
            }
        }
    }
    message.push_str(&blocks);

    let mut completed = Vec::with_capacity(record.len() + message.len());
    for (name, value) in fields {
        let value = if name == MESSAGE {
            message.as_bytes()
        } else {
            value
        };
        put(&mut completed, name, value);
    }
    completed
}

const MESSAGE: &str = "MESSAGE";

/// A value of more bytes is not stored twice; a stack trace is well below.
const LONG: usize = 16 * 1024;

/// The key under which people see a field; `None` for one that is there for machines.
fn shown_as(name: &str) -> Option<String> {
    const HIDDEN: [&str; 6] = [
        "MESSAGE",
        "PRIORITY",
        "TARGET",
        "PAYLOAD_EVENT",
        "PAYLOAD_GENERATION",
        "MESSAGE_ID",
    ];
    const FAMILIES: [&str; 3] = ["CODE_", "SPAN_", "SYSLOG_"];
    if HIDDEN.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family)) {
        return None;
    }
    Some(
        name.strip_prefix("PAYLOAD_")
            .unwrap_or(name)
            .to_ascii_lowercase(),
    )
}

/// The form that may hold anything, JOURNAL_NATIVE_PROTOCOL.
fn put(record: &mut Vec<u8>, name: &str, value: &[u8]) {
    record.extend(name.as_bytes());
    record.push(b'\n');
    record.extend((value.len() as u64).to_le_bytes());
    record.extend(value);
    record.push(b'\n');
}

/// The fields of a record in both of their forms: `NAME=value` and `NAME`, length, value. Ends at the first
/// that is neither.
struct Encoded<'a>(&'a [u8]);

impl<'a> Iterator for Encoded<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = (self.0.get(..end)?, self.0.get(end + 1..)?);
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            self.0 = rest;
            let (name, value) = line.split_at(equals);
            return Some((std::str::from_utf8(name).ok()?, value.get(1..)?));
        }
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let value = rest.get(..length)?;
        self.0 = rest.get(length + 1..)?;
        Some((std::str::from_utf8(line).ok()?, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The completed record, its fields in order.
    fn completed(fields: &[(&str, &str)], tail: &str) -> Vec<(String, String)> {
        let mut record = Vec::new();
        for (name, value) in fields {
            put(&mut record, name, value.as_bytes());
        }
        record.extend(tail.as_bytes());
        Encoded(&complete(&record))
            .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned()))
            .collect()
    }

    fn message(fields: &[(&str, &str)], tail: &str) -> String {
        let fields = completed(fields, tail);
        let found = fields.into_iter().find(|(name, _)| name == MESSAGE);
        found.unwrap().1
    }

    #[test]
    fn the_sentence_says_who_and_why() {
        let fields = [
            ("PRIORITY", "3"),
            ("CODE_LINE", "7"),
            ("MESSAGE", "the service cannot start"),
            ("PAYLOAD_EVENT", "boot-failed"),
            ("REASON", "open data.db: no such file"),
            ("PHASE", "starting"),
        ];
        assert_eq!(
            message(&fields, "PAYLOAD_WORKER=7\nPAYLOAD_SLOT=1\n"),
            r#"the service cannot start reason="open data.db: no such file" phase=starting worker=7 slot=1"#
        );
    }

    #[test]
    fn every_field_stays_as_it_was() {
        let fields = [
            ("MESSAGE", "m"),
            ("REASON", "a\nMESSAGE=b"),
            ("MESSAGE_ID", "12"),
        ];
        let after = completed(&fields, "PAYLOAD_SLOT=1\n");
        let pairs: Vec<(&str, &str)> = after
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            pairs[1..],
            [
                ("REASON", "a\nMESSAGE=b"),
                ("MESSAGE_ID", "12"),
                ("PAYLOAD_SLOT", "1")
            ]
        );
    }

    #[test]
    fn several_lines_follow_indented() {
        assert_eq!(
            message(
                &[
                    ("TRACE", "one\ntwo"),
                    ("MESSAGE", "stuck"),
                    ("PHASE", "serving")
                ],
                ""
            ),
            "stuck phase=serving\n    trace:\n      one\n      two"
        );
    }

    #[test]
    fn a_huge_value_is_not_stored_twice() {
        let body = "y".repeat(LONG + 1);
        let fields = [("MESSAGE", "m"), ("BODY", body.as_str())];
        assert_eq!(message(&fields, ""), "m body=(16385 bytes)");
        assert_eq!(completed(&fields, "")[1].1, body);
    }

    #[test]
    fn a_record_that_was_cut_loses_only_its_end() {
        let mut record = Vec::new();
        put(&mut record, "MESSAGE", b"m");
        put(&mut record, "PHASE", b"serving");
        record.extend(b"REASON\n\x09\0\0\0\0\0\0\0cut");
        let completed = complete(&record);
        assert_eq!(
            Encoded(&completed).next(),
            Some(("MESSAGE", &b"m phase=serving"[..]))
        );
        assert_eq!(Encoded(&completed).count(), 2);
    }
}
