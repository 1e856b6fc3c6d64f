//! The preload at a reload: afresh, with the new configuration, and again in the old binary after the way back.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::Signal;

use crate::stage::{OLD, Stage};
use crate::support::service::{Setup, signal_to};

/// Runs are counted in a file: the start, the check, the new image, the old one again.
fn configuration(preload: &str) -> String {
    format!("{OLD}[app.preload]\nruns = '@FOLDER@/runs'\nfile = '@FOLDER@/word'\n{preload}\n")
}

fn set(preload: &str) -> Stage {
    set_with(&configuration(preload))
}

fn set_with(configuration: &str) -> Stage {
    let setup = Setup::new(configuration)
        .installed()
        .filled_in()
        .env("PROBE_PRELOAD", "1");
    fs::write(setup.folder().join("word"), "first").unwrap();
    Stage::of(setup)
}

impl Stage {
    /// The processes that it has run in, in order.
    fn runs(&self) -> Vec<u32> {
        let runs = fs::read_to_string(self.service.folder().join("runs")).unwrap();
        runs.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// What a worker says that it got.
    fn preloaded(&self) -> String {
        word_of(&self.service.get("/preloaded")).to_owned()
    }

    /// Writes the configuration that says `new`.
    fn configure(&self, preload: &str) {
        let folder = self.service.folder().display().to_string();
        let text = configuration(preload)
            .replace("@FOLDER@", &folder)
            .replace("\"old\"", "\"new\"");
        self.service.configure(&text);
    }

    /// A worker crashes, and is replaced; then the workers say that they got these.
    #[track_caller]
    fn replaces_a_worker(&mut self, words: &[&str]) {
        self.calm();
        let victim = self.service.workers()[0];
        signal_to(victim, Signal::SIGKILL);
        self.service.wait_until_replaced(victim);
        let told = self.service.get_of_each("/preloaded");
        let told: BTreeSet<&str> = told.iter().map(|text| word_of(text)).collect();
        assert!(told.iter().eq(words), "{told:?}");
        self.press();
    }
}

fn word_of(told: &str) -> &str {
    told.split(' ').nth(1).expect("a pid, and the word")
}

#[test]
fn a_reload_runs_it_afresh() {
    let stage = set("");
    let arbiter = stage.service.pid();
    for (word, count) in [("second", 3), ("third", 5)] {
        assert_ne!(stage.preloaded(), word);
        stage.service.write("word", word);
        stage.configure("");
        stage.reload();
        assert_eq!(stage.preloaded(), word);
        let runs = stage.runs();
        assert_eq!(runs.len(), count, "the start, the check, the new image");
        assert_ne!(runs[count - 2], arbiter, "a process of its own");
        assert_eq!(runs[count - 1], arbiter);
    }
    stage.ends();
}

/// The check finds it; the arbiter has lost nothing.
#[test]
fn one_that_fails_is_found_by_the_check() {
    let mut stage = set("");
    stage.configure("conduct = 'fail'");
    stage.service.write("word", "second");
    let output = stage.service.reload();
    stage.rolled_back(&output, "preload failed: read the table: no such table");
    assert_eq!(stage.runs().len(), 2);
    stage.replaces_a_worker(&["first"]);
    stage.configure("");
    stage.succeeds();
}

#[test]
fn one_that_panics_or_leaves_a_thread_is_found_by_the_check() {
    let stage = set("");
    for (conduct, reason) in [
        ("panic", "preload panicked: asked to panic"),
        ("thread", "left it running ('indexer')"),
    ] {
        stage.configure(&format!("conduct = '{conduct}'"));
        let output = stage.service.reload();
        stage.rolled_back(&output, reason);
    }
    stage.configure("");
    stage.succeeds();
}

#[test]
fn one_that_hangs_is_found_by_the_check() {
    let stage = set_with(&configuration("").replace("\"30s\"", "\"5s\""));
    stage.configure("conduct = 'hang'");
    let output = stage.service.reload();
    stage.rolled_back(
        &output,
        "raise reload.preflight if its preload needs longer",
    );
    stage.configure("");
    stage.succeeds();
}

/// And it is run once more, since the exec has lost what the old image had.
#[test]
fn one_that_fails_in_the_new_image_takes_the_reload_back() {
    let mut stage = set("fails = [3]");
    stage.configure("fails = [3]");
    stage.service.write("word", "second");
    let output = stage.service.reload();
    stage.rolled_back(
        &output,
        "the new binary could not take over: preload failed: read the table: no such table",
    );
    assert_eq!(stage.runs().len(), 4);
    // The new one has what was there to be read after the way back.
    stage.replaces_a_worker(&["first", "second"]);
    stage.configure("");
    stage.succeeds();
}

/// Nobody ends for it, and whoever has to be replaced waits until it succeeds.
#[test]
fn one_that_fails_after_the_way_back_as_well_is_tried_again() {
    let mut stage = set("fails = [3, 4, 5, 6]");
    stage.configure("fails = [3, 4, 5, 6]");
    let output = stage.service.reload();
    stage.rolled_back(&output, "preload failed");
    assert_eq!(stage.runs().len(), 4);
    stage
        .service
        .message("workers cannot be replaced until the preload succeeds");
    stage.service.never("fork-failed");
    stage.replaces_a_worker(&["first"]);
    let failed = stage
        .service
        .count("runs 5 and 6", 2, |record| record.is("fork-failed"));
    assert_eq!(failed.len(), 2, "runs 5 and 6");
    let reason = failed[0].text("reason");
    assert_eq!(reason, "preload failed: read the table: no such table");
    assert_eq!(stage.runs().len(), 7);
    stage.configure("");
    stage.succeeds();
}

#[test]
fn a_long_one_costs_no_worker_its_life() {
    let limits = "[timeouts]\nheartbeat_serving = '4s'\nabort_grace = '100ms'\n[reload]";
    let long = configuration("delay = 6.0").replace("[reload]", limits);
    let stage = set_with(&long);
    let folder = stage.service.folder().display().to_string();
    let new = long
        .replace("@FOLDER@", &folder)
        .replace("\"old\"", "\"new\"");
    stage.service.configure(&new);
    stage.reload();
    stage.service.never("worker-stuck");
    stage.ends();
}
