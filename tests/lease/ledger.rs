//! What the probe's payload wrote, read and waited for; see `support/ledger.rs`.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::judge::{Stint, read};
use crate::support::service::{Service, Setup};
use crate::support::{DEADLINE, eventually};

/// A configuration with a ledger; more lines of `[app]` can follow.
pub(crate) fn with(settings: &str, scope: &str) -> Setup {
    let app = format!("{settings}\n[app]\nledger = '@FOLDER@/ledger'\nscope = '{scope}'\n");
    Setup::new(&app).filled_in()
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
        self.written(settings, scope, "restart")
    }

    /// The same with a payload of this policy.
    pub(crate) fn written(&self, settings: &str, scope: &str, policy: &str) -> Setup {
        self.forgotten(settings, scope, policy)
            .with_app("ledger_keep = true")
    }

    /// The same, and nothing is kept.
    pub(crate) fn forgotten(&self, settings: &str, scope: &str, policy: &str) -> Setup {
        let ledger = self.folder.path().join("ledger");
        Setup::new(&format!(
            "{settings}\n[app]\nledger = '{}'\nscope = '{scope}'\nledger_policy = '{policy}'\n",
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

    /// See [`read`].
    #[track_caller]
    pub(crate) fn stints(&self) -> Vec<Stint> {
        let by_slot = !self.0.with_extension("lock").exists();
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        read(&text, by_slot).unwrap_or_else(|error| panic!("{error}"))
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
