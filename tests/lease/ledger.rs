//! What the probe's payload wrote, read and judged; see `support/ledger.rs`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::service::{Service, Setup};
use crate::support::{DEADLINE, eventually};

/// A configuration with a ledger; more lines of `[app]` can follow.
pub(crate) fn with(settings: &str, scope: &str) -> Setup {
    let app = format!("{settings}\n[app]\nledger = '@FOLDER@/ledger'\nscope = '{scope}'\n");
    Setup::new(&app).filled_in()
}

/// One writer, from its first line to its last.
#[derive(Clone, Debug)]
pub(crate) struct Stint {
    pub(crate) pid: u32,
    pub(crate) slot: u32,
    pub(crate) slots: u32,
    pub(crate) epoch: u64,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    /// The longest time between two of its lines.
    pub(crate) pause: Duration,
    /// It was told to stop and did.
    pub(crate) ended: bool,
    /// It found nothing kept, although there was a writer before it.
    pub(crate) bare: bool,
}

pub(crate) struct Ledger(PathBuf);

/// A ledger that goes on over several lives of a service.
pub(crate) struct Book {
    folder: TempDir,
    pub(crate) ledger: Ledger,
}

impl Book {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger(folder.path().join("ledger"));
        Self { folder, ledger }
    }

    /// A service whose restarting payload writes it, and keeps what it writes.
    pub(crate) fn setup(&self, settings: &str, scope: &str) -> Setup {
        let ledger = self.folder.path().join("ledger");
        Setup::new(&format!(
            "{settings}\n[app]\nledger = '{}'\nscope = '{scope}'\nledger_policy = 'restart'\nledger_keep = true\n",
            ledger.display()
        ))
    }
}

impl Ledger {
    pub(crate) fn of(service: &Service) -> Self {
        Self(service.folder().join("ledger"))
    }

    /// What the payload is to do as long as this stands.
    pub(crate) fn tell(&self, word: &str) {
        fs::write(self.0.with_extension("do"), word).unwrap();
    }

    pub(crate) fn tell_nothing(&self) {
        fs::remove_file(self.0.with_extension("do")).unwrap();
    }

    /// See [`judge`].
    #[track_caller]
    pub(crate) fn stints(&self) -> Vec<Stint> {
        let by_slot = !self.0.with_extension("lock").exists();
        judge(&fs::read_to_string(&self.0).unwrap_or_default(), by_slot)
    }

    /// Waits for this many of them.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Stint> {
        self.wait_until(&format!("{count} writers"), |stints| stints.len() >= count)
    }

    /// Waits until what was written is as it should become.
    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, fits: impl Fn(&[Stint]) -> bool) -> Vec<Stint> {
        eventually(what, DEADLINE, || {
            Some(self.stints()).filter(|stints| fits(stints))
        })
    }

    /// Has whoever writes it do nothing, and waits until that is so.
    #[track_caller]
    pub(crate) fn pause(&self) {
        let paused = self.0.with_extension("paused");
        let _ = fs::remove_file(&paused);
        self.tell("pause");
        eventually("nobody writes", DEADLINE, || paused.exists().then_some(()));
    }

    /// Waits until this process writes, and has written for a while.
    #[track_caller]
    pub(crate) fn wait_for_writer(&self, pid: u32) {
        self.wait_until(&format!("{pid} writes"), |stints| {
            let last = stints.iter().rev().find(|stint| stint.pid == pid);
            last.is_some_and(|last| !last.ended && last.to > last.from)
        });
    }
}

/// Everybody who ever wrote, in the order of their first lines. Panics where two wrote at the same time. `by_slot`: each
/// slot has a writer of its own.
#[track_caller]
pub(crate) fn judge(text: &str, by_slot: bool) -> Vec<Stint> {
    // The last line may still be on its way.
    let text = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let mut stints: Vec<Stint> = Vec::new();
    let mut counts = std::collections::BTreeMap::<u32, u64>::new();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let word = fields.next().unwrap();
        let numbers: Vec<u64> = fields.map(|field| field.parse().unwrap()).collect();
        let [pid, slot, slots, epoch, count, time] = numbers[..] else {
            panic!("no line of the ledger: {line}");
        };
        let (pid, slot, slots) = (narrow(pid), narrow(slot), narrow(slots));
        let time = Duration::from_nanos(time);
        assert_ne!(word, "clash", "two hold the lock: {line}\n{stints:#?}");
        assert_ne!(
            word, "lost",
            "it was not what was kept last: {line}\n{stints:#?}"
        );
        let last = counts.entry(if by_slot { slot } else { 0 }).or_default();
        assert_eq!(count, *last + 1, "two count: {line}\n{stints:#?}");
        *last = count;
        if word == "begin" || word == "bare" {
            stints.push(Stint {
                pid,
                slot,
                slots,
                epoch,
                from: time,
                to: time,
                pause: Duration::ZERO,
                ended: false,
                bare: word == "bare",
            });
            continue;
        }
        let mut stint = stints.iter_mut().rev();
        let stint = stint.find(|stint| stint.epoch == epoch && stint.pid == pid);
        let stint = stint.unwrap_or_else(|| panic!("it never began: {line}"));
        assert!(!stint.ended, "it had ended: {line}");
        stint.pause = stint.pause.max(time - stint.to);
        stint.to = time;
        stint.ended = word == "end";
    }
    check(&stints, by_slot);
    stints
}

/// Nobody overlaps with anybody: in the whole service, or within a slot and between different numbers of slots.
#[track_caller]
fn check(stints: &[Stint], by_slot: bool) {
    for (index, later) in stints.iter().enumerate() {
        for earlier in &stints[..index] {
            let apart = by_slot && later.slot != earlier.slot && later.slots == earlier.slots;
            assert!(
                apart || earlier.to <= later.from,
                "two at the same time: {earlier:?} {later:?}"
            );
            let same = later.epoch == earlier.epoch && later.pid == earlier.pid;
            assert!(
                same || later.epoch > earlier.epoch || apart,
                "{earlier:?} {later:?}"
            );
        }
    }
}

/// The longest time in which nobody wrote, between two writers or while one did not come to it.
pub(crate) fn silence(stints: &[Stint]) -> Duration {
    let pauses = stints.iter().map(|stint| stint.pause);
    pauses.chain(gaps(stints)).max().unwrap_or_default()
}

/// For how long nobody wrote between each two that followed each other.
pub(crate) fn gaps(stints: &[Stint]) -> Vec<Duration> {
    let pairs = stints.windows(2);
    pairs
        .map(|pair| pair[1].from.saturating_sub(pair[0].to))
        .collect()
}

fn narrow(number: u64) -> u32 {
    number.try_into().unwrap()
}
