//! The probe's payload that must be alone: it writes a line into a file every few milliseconds, and would see
//! another writer by the lock that it holds, by the count that it goes on with, or by the number of shares.
//!
//! A line is `word pid slot slots epoch count time`, the time in nanoseconds of CLOCK_MONOTONIC. The words: `begin`,
//! `tick`, `end`, and `clash` where somebody else has the lock. Each slot has a lock and a count of its own.
//!
//! While a file `<ledger>.do` is there, its word is done, after one more tick: `return`, `fail`, `crash` (SIGKILL to
//! itself), `block` (holds its thread when it is told to stop), `ignore` (is told to stop, and does not).

use std::fs::{self, File, OpenOptions};
use std::future::pending;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use payload::{PayloadContext, Scope};

const PAUSE: Duration = Duration::from_millis(2);

pub(crate) async fn keep(
    context: PayloadContext,
    ledger: PathBuf,
    scope: Scope,
) -> payload::Result<()> {
    // Whose count it goes on with.
    let slot = (scope == Scope::Slot).then(|| context.slot());
    let lock = slot.map_or("lock".to_owned(), |slot| format!("lock{slot}"));
    let lock = File::create(beside(&ledger, &lock))?;
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock);
    let mut writer = Writer::open(&context, &ledger, slot)?;
    writer.write(if lock.is_ok() { "begin" } else { "clash" })?;
    loop {
        tokio::select! {
            () = context.stopped() => break,
            () = tokio::time::sleep(PAUSE) => writer.write("tick")?,
        }
        match word(&ledger).as_str() {
            "return" => return Ok(()),
            "fail" => return Err("asked to fail".into()),
            "crash" => kill(Pid::this(), Signal::SIGKILL)?,
            _ => {}
        }
    }
    match word(&ledger).as_str() {
        "block" => loop {
            std::thread::sleep(PAUSE);
            writer.write("tick")?;
        },
        "ignore" => pending().await,
        _ => {}
    }
    writer.write("end")?;
    drop(lock);
    Ok(())
}

struct Writer {
    file: File,
    place: String,
    count: u64,
}

impl Writer {
    fn open(context: &PayloadContext, ledger: &Path, slot: Option<u32>) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(ledger)?;
        let last = fs::read_to_string(ledger)?;
        let counts = last.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(2);
            let its: u32 = fields.next()?.parse().ok()?;
            let counts = slot.is_none_or(|slot| slot == its);
            counts.then(|| fields.nth(2)?.parse().ok()).flatten()
        });
        let (pid, epoch) = (std::process::id(), context.epoch());
        Ok(Self {
            file,
            place: format!("{pid} {} {} {epoch}", context.slot(), context.slots()),
            count: counts.max().unwrap_or(0),
        })
    }

    /// In one write, which does not mix with another one.
    fn write(&mut self, word: &str) -> io::Result<()> {
        self.count += 1;
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let now = Duration::from(now).as_nanos();
        let line = format!("{word} {} {} {now}\n", self.place, self.count);
        self.file.write_all(line.as_bytes())
    }
}

fn word(ledger: &Path) -> String {
    fs::read_to_string(beside(ledger, "do")).unwrap_or_default()
}

fn beside(ledger: &Path, extension: &str) -> PathBuf {
    let mut path = ledger.as_os_str().to_owned();
    path.push(".");
    path.push(extension);
    path.into()
}
