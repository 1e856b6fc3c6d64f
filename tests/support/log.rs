//! What a service logs: read as it comes, and waited for.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::ops::Index;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ChildStderr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::DEADLINE;
use super::service::Service;

/// So much lies in the pipe before a service has to drop lines, as it does rather than wait for a test that does not run.
const ROOM: i32 = 1 << 20;

/// What a service has logged so far.
pub(super) struct Log {
    /// Never waits.
    pipe: Option<File>,
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Default)]
struct Lines {
    records: Vec<Record>,
    /// Of a line that has no end yet.
    begun: Vec<u8>,
    ended: bool,
}

/// One line of the log: an object, or a string where it was none.
#[derive(Clone, Debug)]
pub(crate) struct Record(pub(crate) Value);

impl Service {
    /// The first record with this `payload_event`.
    #[track_caller]
    pub(crate) fn event(&self, name: &str) -> Record {
        self.record(name, |record| record.is(name))
    }

    /// The first record with this `payload_event` that fits.
    #[track_caller]
    pub(crate) fn event_where(&self, name: &str, fits: impl Fn(&Record) -> bool) -> Record {
        self.record(name, |record| record.is(name) && fits(record))
    }

    /// The first record whose sentence contains this text.
    #[track_caller]
    pub(crate) fn message(&self, text: &str) -> Record {
        self.record(text, |record| record.text("message").contains(text))
    }

    /// The first record that fits.
    #[track_caller]
    pub(crate) fn record(&self, what: &str, fits: impl Fn(&Record) -> bool) -> Record {
        self.log.wait(what, |records| {
            records.iter().find(|record| fits(record)).cloned()
        })
    }

    /// Waits until so many records fit.
    #[track_caller]
    pub(crate) fn count(
        &self,
        what: &str,
        number: usize,
        fits: impl Fn(&Record) -> bool,
    ) -> Vec<Record> {
        self.log.wait(what, |records| {
            let found: Vec<Record> = records.iter().filter(|r| fits(r)).cloned().collect();
            (found.len() >= number).then_some(found)
        })
    }

    /// Everything that was logged until now: what a test has heard of otherwise is in it, if it was logged before.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut lines = self.log.lines();
        self.log.take(&mut lines);
        lines.records.clone()
    }

    /// Everything with this `payload_event` that was logged until now.
    pub(crate) fn events(&self, name: &str) -> Vec<Record> {
        let mut records = self.records();
        records.retain(|record| record.is(name));
        records
    }

    /// Nothing with this `payload_event` was logged until now.
    #[track_caller]
    pub(crate) fn never(&self, name: &str) {
        let events = self.events(name);
        assert!(events.is_empty(), "{}", events[0]);
    }

    /// The phases that a worker has entered until now.
    pub(crate) fn phases(&self, worker: u64) -> Vec<String> {
        let phases = self.events("worker-phase").into_iter();
        phases
            .filter(|record| record.worker() == Some(worker))
            .map(|record| record.text("phase").to_owned())
            .collect()
    }

    /// Everything that was logged until now, line by line.
    pub(crate) fn text(&self) -> String {
        let line = |record: &Record| format!("{record}\n");
        self.records().iter().map(line).collect()
    }
}

impl Log {
    /// Reads it to its end. Empty and ended where there is none.
    pub(super) fn of(stderr: Option<ChildStderr>) -> Arc<Self> {
        let pipe = stderr.map(|stderr| {
            let pipe = File::from(OwnedFd::from(stderr));
            fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("fcntl");
            // As much as the system allows.
            let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(ROOM));
            pipe
        });
        let log = Arc::new(Self {
            lines: Mutex::new(Lines {
                ended: pipe.is_none(),
                ..Lines::default()
            }),
            pipe,
            more: Condvar::new(),
        });
        let reader = log.clone();
        thread::spawn(move || reader.read());
        log
    }

    fn read(&self) {
        while let Some(pipe) = &self.pipe {
            let mut readable = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
            // Interrupted, it looks in vain.
            let _ = poll(&mut readable, PollTimeout::NONE);
            let mut lines = self.lines();
            self.take(&mut lines);
            if lines.ended {
                break;
            }
        }
    }

    /// All that is there.
    fn take(&self, lines: &mut Lines) {
        let mut bytes = [0; 1 << 16];
        let before = (lines.records.len(), lines.ended);
        while let (Some(mut pipe), false) = (self.pipe.as_ref(), lines.ended) {
            match pipe.read(&mut bytes) {
                Ok(0) => lines.end(),
                Ok(count) => lines.add(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => lines.end(),
            }
        }
        if before != (lines.records.len(), lines.ended) {
            self.more.notify_all();
        }
    }

    /// Also while a test fails.
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends early when nothing more can come.
    #[track_caller]
    fn wait<T>(&self, what: &str, found: impl Fn(&[Record]) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        let mut lines = self.lines();
        loop {
            // Of what has come in time nothing is missed, however late this is.
            let left = end.saturating_duration_since(Instant::now());
            self.take(&mut lines);
            if let Some(found) = found(&lines.records) {
                return found;
            }
            if left.is_zero() || lines.ended {
                drop(lines);
                panic!("not in the log: {what}");
            }
            lines = self.more.wait_timeout(lines, left).unwrap().0;
        }
    }

    #[track_caller]
    pub(super) fn wait_for_end(&self) {
        let lines = self.lines();
        let (lines, _) = self
            .more
            .wait_timeout_while(lines, DEADLINE, |lines| !lines.ended)
            .unwrap();
        let ended = lines.ended;
        drop(lines);
        assert!(ended, "the log goes on: a process is left");
    }
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.begun.pop();
                self.finish();
            }
        }
    }

    fn end(&mut self) {
        if !self.begun.is_empty() {
            self.finish();
        }
        self.ended = true;
    }

    fn finish(&mut self) {
        let line = std::mem::take(&mut self.begun);
        let line = String::from_utf8_lossy(&line).into_owned();
        let record = serde_json::from_str(&line).unwrap_or(Value::String(line));
        self.records.push(Record(record));
    }
}

impl Record {
    pub(crate) fn is(&self, event: &str) -> bool {
        self.0["payload_event"] == event
    }

    /// Empty: there is no such field.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn number(&self, field: &str) -> u32 {
        number(&self.0[field])
    }

    #[track_caller]
    pub(crate) fn seconds(&self, field: &str) -> f64 {
        self.0[field].as_f64().expect("a number")
    }

    /// Which worker it is about, or comes from.
    pub(crate) fn worker(&self) -> Option<u64> {
        self.0["payload_worker"].as_u64()
    }

    /// How long after another record of its run it was written, in seconds: the run takes less than a day.
    #[track_caller]
    pub(crate) fn seconds_after(&self, other: &Record) -> f64 {
        let day = 24.0 * 3600.0;
        let apart = self.time_of_day() - other.time_of_day();
        // Midnight may be in between. A clock that is set back a little is no midnight.
        if apart < -day / 2.0 {
            apart + day
        } else {
            apart
        }
    }

    /// When it was written, by CLOCK_MONOTONIC as far as the clocks agree: less than a day ago.
    #[expect(clippy::disallowed_methods, reason = "the log has the time of day")]
    #[track_caller]
    pub(crate) fn when(&self) -> Duration {
        let day = 24.0 * 3600.0;
        let ago = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let ago = (ago.as_secs_f64() - self.time_of_day()).rem_euclid(day);
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
        Duration::from(now).saturating_sub(Duration::from_secs_f64(ago))
    }

    fn time_of_day(&self) -> f64 {
        let time = self.text("time");
        let (_, clock) = time.trim_end_matches('Z').split_once('T').unwrap();
        clock
            .split(':')
            .map(|part| part.parse::<f64>().unwrap())
            .fold(0.0, |sum, part| sum * 60.0 + part)
    }
}

/// A field; null where there is none.
impl Index<&str> for Record {
    type Output = Value;

    fn index(&self, field: &str) -> &Value {
        &self.0[field]
    }
}

/// The line.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Value::String(line) => f.write_str(line),
            record => record.fmt(f),
        }
    }
}

#[track_caller]
pub(crate) fn number(value: &Value) -> u32 {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.unwrap_or_else(|| panic!("no number: {value}"))
}

/// One record for each worker's start, and one for its end.
#[track_caller]
pub(super) fn every_start_has_one_end(records: &[Record]) {
    let of = |names: &[&str]| {
        let named = |record: &&Record| names.iter().any(|name| record.is(name));
        let mut workers: Vec<_> = records
            .iter()
            .filter(named)
            .map(|r| r.worker().expect("a worker"))
            .collect();
        workers.sort_unstable();
        workers
    };
    let (started, ended) = (
        of(&["worker-forked"]),
        of(&["worker-exited", "worker-failed"]),
    );
    assert_eq!(started, ended, "workers that started, and that ended");
}
