//! The probe's preload, when `PROBE_PRELOAD` is in its environment. Settings, `[app.preload]`:
//!
//! - `conduct`: `ok`, `fail`, `panic`, `hang`, `thread` (leaves one running), `joined` (has some that it joins)
//! - `runs`: a file that gets a line for each run; `fails`: the runs that fail, by the number of their line
//! - `delay`: seconds; `mib`: the size of the table; `file`: of which the content is `word`
//!
//! Requests: `/preloaded`: the pid of the process that has run it, and the word.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::thread::{self, park, sleep};
use std::time::Duration;

use serde::Deserialize;

use crate::Unreadable;

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    conduct: Conduct,
    runs: Option<PathBuf>,
    fails: Vec<usize>,
    delay: f64,
    mib: usize,
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Conduct {
    #[default]
    Ok,
    Fail,
    Panic,
    Hang,
    Thread,
    Joined,
}

pub(crate) struct Table {
    by: u32,
    word: String,
    rows: Vec<u8>,
}

impl Table {
    pub(crate) fn told(&self) -> String {
        let sum: u64 = self
            .rows
            .iter()
            .step_by(4096)
            .map(|row| u64::from(*row))
            .sum();
        format!("{} {} {sum}", self.by, self.word)
    }
}

#[expect(clippy::panic, reason = "what it is for")]
pub(crate) fn table(settings: &Settings) -> payload::Result<Table> {
    tracing::info!(probe = "preload", "probe");
    let run = settings.count()?;
    sleep(Duration::from_secs_f64(settings.delay));
    let unreadable = || Unreadable(io::Error::other("no such table"));
    if settings.fails.contains(&run) {
        return Err(unreadable().into());
    }
    match settings.conduct {
        Conduct::Ok => {}
        Conduct::Fail => return Err(unreadable().into()),
        Conduct::Panic => panic!("asked to panic"),
        Conduct::Hang => loop {
            park();
        },
        Conduct::Thread => drop(start("indexer", park)?),
        Conduct::Joined => {
            for _ in 0..50 {
                let _ = start("helper", || {})?.join();
            }
        }
    }
    Ok(Table {
        by: std::process::id(),
        word: settings
            .file
            .as_ref()
            .map_or(Ok(String::new()), fs::read_to_string)?,
        rows: vec![1; settings.mib << 20],
    })
}

impl Settings {
    /// The number of this run, from 1.
    fn count(&self) -> io::Result<usize> {
        let Some(path) = &self.runs else { return Ok(1) };
        let mut file = File::options().create(true).append(true).open(path)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(fs::read_to_string(path)?.lines().count())
    }
}

fn start(name: &str, code: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(code)
}
