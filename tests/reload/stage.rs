//! A service under load that is about to be reloaded, and what must be true of it afterwards.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Output;

use crate::load::Load;
use crate::support::http::get;
use crate::support::notify::{Datagram, Manager};
use crate::support::program::write_program;
use crate::support::service::{Service, Setup, number, probe};
use crate::support::status::workers_of;

/// A configuration that says what it is, and is quick.
pub(crate) const OLD: &str = "\
workers = 2
[reload]
trial = \"200ms\"
preflight = \"30s\"
[app]
word = \"old\"
";

pub(crate) struct Stage {
    pub(crate) service: Service,
    pub(crate) manager: Manager,
    address: SocketAddr,
    load: Option<Load>,
    /// Before the reload.
    before: Snapshot,
}

/// What a reload changes, and what a rollback leaves as it was.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    generation: u32,
    workers: Vec<u32>,
    /// Device and inode of the programs that run, the arbiter's first.
    programs: Vec<(u64, u64)>,
}

impl Stage {
    /// The probe behind a link, with [`OLD`].
    pub(crate) fn set() -> Self {
        Self::of(Setup::new(OLD).installed())
    }

    pub(crate) fn of(setup: Setup) -> Self {
        let manager = Manager::on_path();
        let service = setup.notify(&manager).serve();
        manager.hear_until("READY=1");
        Self {
            address: service.addresses()[0],
            load: Some(Load::start(service.addresses()[0])),
            before: Snapshot::of(&service),
            service,
            manager,
        }
    }

    /// Ends the load for a while; no request was lost so far.
    #[track_caller]
    pub(crate) fn calm(&mut self) {
        if let Some(load) = self.load.take() {
            load.finish();
        }
    }

    pub(crate) fn press(&mut self) {
        self.load = Some(Load::start(self.address));
    }

    /// Puts something else into the program's place.
    pub(crate) fn replace_program(&self, content: &[u8], mode: u32) {
        let new = self.service.folder().join("new");
        write_program(&new, content, mode);
        fs::rename(new, self.service.program()).unwrap();
    }

    /// Leads the program's path there.
    pub(crate) fn lead_program_to(&self, target: &Path) {
        let new = self.service.folder().join("new");
        symlink(target, &new).unwrap();
        fs::rename(new, self.service.program()).unwrap();
    }

    /// The reload fails for this reason, and nothing has changed. Then all is put right, and the next one works.
    #[track_caller]
    pub(crate) fn rolls_back(self, reason: &str) {
        let output = self.service.reload();
        self.rolled_back(&output, reason);
        self.recovers();
    }

    /// This reload has failed, that was heard everywhere, and nothing has changed.
    #[track_caller]
    pub(crate) fn rolled_back(&self, output: &Output, reason: &str) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(70), "{said}");
        assert_eq!(said.lines().count(), 1, "one line: {said}");
        assert!(said.contains(reason), "no {reason:?} in {said}");
        self.rolled_back_unasked(reason);
    }

    /// The same for a reload that nobody waited for.
    #[track_caller]
    pub(crate) fn rolled_back_unasked(&self, reason: &str) {
        let service = &self.service;
        let failed = service.event_where("reload-failed", |event| {
            event.text("reason").contains(reason)
        });
        assert_eq!(failed["payload_generation"], self.before.generation);
        let told = self.hear_reload();
        let status = told.value("STATUS").expect("a status");
        assert!(status.contains("the last reload failed"), "{status}");
        assert!(status.contains(reason), "no {reason:?} in {status}");

        // New workers that already served may still drain.
        let status = service.status_where("only the old ones are left", |status| {
            workers_of(status).len() == self.before.workers.len()
        });
        assert_eq!(status["arbiter"]["state"], "ready", "{status:#}");
        assert_eq!(Snapshot::of(service), self.before);
        assert_eq!(self.word(), "old");
    }

    /// Puts everything right, and reloads; then the new generation serves, and no request was lost.
    #[track_caller]
    pub(crate) fn recovers(self) {
        self.service.configure(&OLD.replace("old", "new"));
        if fs::remove_file(self.service.program().with_extension("main")).is_ok()
            || !self.runs_its_file()
        {
            self.lead_program_to(&probe());
        }
        self.succeeds();
    }

    /// The reload works, nothing is left of the old generation, and no request was lost. Ends the service.
    #[track_caller]
    pub(crate) fn succeeds(self) {
        self.reload();
        self.ends();
    }

    /// A reload that works.
    #[track_caller]
    pub(crate) fn reload(&self) {
        let before = Snapshot::of(&self.service);
        let output = self.service.reload();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        let told = self.hear_reload();
        let status = told.value("STATUS").expect("a status");
        assert!(!status.contains("failed"), "{status}");
        let now = self.wait_for_generation_after(before.generation);
        assert!(
            now.workers.iter().all(|pid| !before.workers.contains(pid)),
            "{before:?} {now:?}"
        );
        assert_eq!(self.word(), "new");
    }

    /// Which configuration answers.
    #[track_caller]
    pub(crate) fn word(&self) -> String {
        get(self.address, "/word").body
    }

    /// No request was lost, and the service ends as it should.
    #[track_caller]
    pub(crate) fn ends(mut self) {
        self.calm();
        assert_eq!(self.service.stop(), 0);
        let last = self.manager.rest();
        assert!(last.iter().any(|datagram| datagram.has("STOPPING=1")));
    }

    /// The workers that served before.
    pub(crate) fn old_workers(&self) -> &[u32] {
        &self.before.workers
    }

    /// Waits until a generation after this one is alone.
    #[track_caller]
    pub(crate) fn wait_for_generation_after(&self, last: u32) -> Snapshot {
        self.service
            .status_where("one generation is left", |status| {
                let generation = number(&status["arbiter"]["generation"]);
                let workers = workers_of(status);
                generation > last && workers.iter().all(|one| one["generation"] == generation)
            });
        Snapshot::of(&self.service)
    }

    /// RELOADING with the time, and then READY.
    #[track_caller]
    pub(crate) fn hear_reload(&self) -> Datagram {
        let reloading = self.manager.hear_line("RELOADING=1");
        let began: u64 = reloading
            .value("MONOTONIC_USEC")
            .and_then(|text| text.parse().ok())
            .expect("a number");
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
        let now = u64::try_from(now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000).unwrap();
        assert!(began <= now && now - began < 60_000_000, "{began} {now}");
        self.manager.hear_line("READY=1")
    }

    fn runs_its_file(&self) -> bool {
        let file = fs::metadata(self.service.program());
        file.is_ok_and(|file| (file.dev(), file.ino()) == self.before.programs[0])
    }
}

impl Snapshot {
    #[track_caller]
    fn of(service: &Service) -> Self {
        let status = service.status();
        let workers = service.workers();
        let all = [&[service.pid()], &workers[..]].concat();
        Self {
            generation: number(&status["arbiter"]["generation"]),
            programs: all.iter().map(|pid| program_of(*pid)).collect(),
            workers,
        }
    }
}

/// Device and inode of the program that a process runs.
#[track_caller]
pub(crate) fn program_of(pid: u32) -> (u64, u64) {
    let file = fs::metadata(format!("/proc/{pid}/exe")).expect("it lives");
    (file.dev(), file.ino())
}
