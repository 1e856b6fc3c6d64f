//! The probe's payload that must be alone: it writes a line into a file every few milliseconds, and would see
//! another writer by the lock that it holds, by the count that it goes on with, or by the number of shares.
//!
//! A line is `word pid slot slots epoch count time`, the time in nanoseconds of CLOCK_MONOTONIC, filled up with zeros so
//! that the line has 128 bytes. The words: `begin`, `tick`, `end`, and `clash` where somebody else has the lock. Each slot
//! has a lock and a count of its own.
//!
//! With `ledger_keep` each count is kept (`PayloadContext::keep`) before its line is written. What the next one finds
//! kept is the last line's count, or the next one, if the last writer was killed in between: else its first word is
//! `lost`, or `bare` if it finds nothing although there are lines.
//!
//! While a file `<ledger>.do` is there, its word is done, after one more tick: `return`, `fail`, `pause` (writes
//! nothing, and says so by a file `<ledger>.paused`), `crash` (SIGKILL to itself), `block` (holds its thread when it is told to stop), `ignore` (is told to stop, and does not).

use std::fs::{self, File, OpenOptions};
use std::future::pending;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use payload::{KeepError, PayloadContext, Scope};

const PAUSE: Duration = Duration::from_millis(2);
/// The last line of a writer that has just left is not further from the end of the file.
const TAIL: u64 = 16 << 10;

pub(crate) async fn keep(
    context: PayloadContext,
    ledger: PathBuf,
    scope: Scope,
    keep: bool,
) -> payload::Result<()> {
    let _held = super::Held("ledger");
    // Whose count it goes on with.
    let slot = (scope == Scope::Slot).then(|| context.slot());
    let lock = slot.map_or("lock".to_owned(), |slot| format!("lock{slot}"));
    let lock = File::create(beside(&ledger, &lock))?;
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock);
    let mut writer = Writer::open(&context, &ledger, slot, keep)?;
    let first = match writer.found() {
        _ if lock.is_err() => "clash",
        Found::Right => "begin",
        Found::Nothing => "bare",
        Found::Wrong => "lost",
    };
    writer.write(first).await?;
    loop {
        tokio::select! {
            () = context.stopped() => break,
            () = tokio::time::sleep(PAUSE) => {}
        }
        if word(&ledger) == "pause" {
            File::create(beside(&ledger, "paused"))?;
            continue;
        }
        writer.write("tick").await?;
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
            writer.write("tick").await?;
        },
        "ignore" => pending().await,
        _ => {}
    }
    writer.write("end").await?;
    drop(lock);
    Ok(())
}

struct Writer {
    file: File,
    place: String,
    count: u64,
    /// Where it keeps its count.
    context: Option<PayloadContext>,
}

/// What the last one has kept.
enum Found {
    Right,
    Nothing,
    Wrong,
}

impl Writer {
    fn open(
        context: &PayloadContext,
        ledger: &Path,
        slot: Option<u32>,
        keep: bool,
    ) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(ledger)?;
        let count = last_count(ledger, slot, TAIL)?.or(last_count(ledger, slot, u64::MAX)?);
        let (pid, epoch) = (std::process::id(), context.epoch());
        Ok(Self {
            file,
            place: format!("{pid} {} {} {epoch}", context.slot(), context.slots()),
            count: count.unwrap_or(0),
            context: keep.then(|| context.clone()),
        })
    }

    fn found(&self) -> Found {
        let Some(context) = &self.context else {
            return Found::Right;
        };
        let Some(kept) = context.kept() else {
            return if self.count == 0 {
                Found::Right
            } else {
                Found::Nothing
            };
        };
        let kept = std::str::from_utf8(&kept).map(str::parse);
        let right = [self.count, self.count + 1];
        match kept {
            Ok(Ok(kept)) if right.contains(&kept) => Found::Right,
            _ => Found::Wrong,
        }
    }

    /// In one write, which does not mix with another one.
    async fn write(&mut self, word: &str) -> payload::Result<()> {
        self.count += 1;
        if let Some(context) = &self.context {
            let count = self.count.to_string();
            // An arbiter that does not run for a while takes nothing for so long.
            while let Err(error) = context.keep(&count) {
                if !matches!(error, KeepError::System(_)) {
                    return Err(error.into());
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let now = Duration::from(now).as_nanos();
        let head = format!("{word} {} {} ", self.place, self.count);
        // 128 bytes in all: none crosses a page, where a SIGKILL could leave half of it.
        let width = 127 - head.len();
        let line = format!("{head}{now:0width$}\n");
        self.file.write_all(line.as_bytes())?;
        Ok(())
    }
}

/// The count that this slot, or anybody, has come to, by the end of the file.
fn last_count(ledger: &Path, slot: Option<u32>, tail: u64) -> io::Result<Option<u64>> {
    let mut file = File::open(ledger)?;
    let from = file.metadata()?.len().saturating_sub(tail);
    file.seek(SeekFrom::Start(from))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let whole = if from == 0 { 0 } else { 1 };
    let count = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let its: u32 = fields.next()?.parse().ok()?;
        let counts = slot.is_none_or(|slot| slot == its);
        counts.then(|| fields.nth(2)?.parse().ok()).flatten()
    };
    Ok(text.lines().skip(whole).filter_map(count).max())
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
