//! `examples/schedule.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::support::service::{Quiet as _, Record, Service, Setup, number, signal_to};
use crate::support::{DEADLINE, eventually};

fn schedule(workers: u32, catch_up: u32) -> Setup {
    let configuration = format!(
        "workers = {workers}\n[reload]\ntrial = '200ms'\n[app]\nreports = '@FOLDER@/reports'\nevery = '100ms'\n\
         catch_up = {catch_up}\n"
    );
    Setup::example("schedule", &configuration).filled_in()
}

/// The numbers of the reports, by the service.
fn runs(service: &Service) -> Vec<u64> {
    let list = service.get("/");
    list.lines().map(|run| run.parse().unwrap()).collect()
}

/// Waits for so many reports more.
#[track_caller]
fn advance(service: &Service, count: u64) {
    let goal = runs(service).last().copied().unwrap_or(0) + count;
    eventually("more reports", DEADLINE, || {
        let last = runs(service).last().copied();
        last.filter(|last| *last >= goal && *last > count)
    });
}

/// One that stays: who leaves may have it still.
fn holder(service: &Service) -> Option<u32> {
    let holder = &service.status()["leases"][0]["holder"];
    (holder["leaving"] == false).then(|| number(&holder["pid"]))
}

/// As many runs are due in this time as a handover could never take.
const FROZEN: Duration = Duration::from_millis(1500);

/// Freezes the worker that makes the runs.
#[track_caller]
fn freeze(service: &Service) -> u32 {
    let holder = eventually("a holder", DEADLINE, || holder(service));
    signal_to(holder, Signal::SIGSTOP);
    holder
}

/// No run is missing between the first and the last, none was made twice, and later ones are by later holders.
#[track_caller]
fn check(service: &Service, runs: &[u64]) -> usize {
    let (first, last) = (runs[0], runs[runs.len() - 1]);
    assert_eq!(runs, (first..=last).collect::<Vec<_>>());
    let records = service.records().into_iter();
    let written = records.filter(|record| record.text("message") == "a report was written");
    let mut epochs = BTreeMap::new();
    for record in written {
        let (run, epoch) = (&record["run"], record["epoch"].as_u64().unwrap());
        let twice = epochs.insert(run.as_u64().unwrap(), epoch);
        assert_eq!(twice, None, "{record}");
    }
    let epochs: Vec<u64> = epochs.into_values().collect();
    assert!(epochs.is_sorted(), "{epochs:?}");
    epochs.chunk_by(|one, next| one == next).count()
}

#[test]
fn one_of_the_workers_makes_each_run() {
    let service = schedule(3, 1000).serve();
    advance(&service, 5);
    let made = runs(&service);
    let report = service.get(&format!("/{}", made[0]));
    let holder = holder(&service).expect("a holder");
    assert!(
        report.starts_with(&format!("run {} by process {holder} in epoch ", made[0])),
        "{report}"
    );
    assert_eq!(service.client().get("/1").unwrap().status, 404);
    assert_eq!(service.stop(), 0);
    assert_eq!(check(&service, &made), 1);
}

#[test]
fn what_was_due_meanwhile_is_made_up_for() {
    let service = schedule(2, 1000).serve();
    advance(&service, 3);
    // Nobody makes runs while their holder is frozen. Then it has to leave at once.
    let frozen = freeze(&service);
    let reload = service.reload_command().spawn_quiet();
    let (new, serving) = (2, "serving");
    service.count("the new ones serve", 2, |event| {
        event["payload_generation"] == new && event.text("phase") == serving
    });
    sleep(FROZEN);
    signal_to(frozen, Signal::SIGCONT);
    let reload = reload.wait_with_output().unwrap();
    assert!(reload.status.success(), "{reload:?}");
    // The one that was frozen may have made some more, before it heard that it has to leave.
    service.record("a run by a new one", |record| {
        record.text("message") == "a report was written" && record["payload_generation"] == new
    });
    advance(&service, 3);
    let killed = freeze(&service);
    sleep(FROZEN);
    signal_to(killed, Signal::SIGKILL);
    service.wait_until_replaced(killed);
    advance(&service, 3);
    // And one that goes on where it was.
    let frozen = freeze(&service);
    sleep(FROZEN);
    signal_to(frozen, Signal::SIGCONT);
    advance(&service, 3);
    assert_eq!(service.stop(), 0);
    let made = fs::read_dir(service.folder().join("reports")).unwrap();
    let made = made.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut made: Vec<u64> = made
        .filter_map(|name| name.strip_suffix(".txt")?.parse().ok())
        .collect();
    made.sort_unstable();
    assert!(check(&service, &made) >= 3);
}

/// Nothing is kept before it, and it was due all the same.
#[test]
#[expect(clippy::disallowed_methods, reason = "so the example goes")]
fn a_first_run_that_fails_is_made_up_for() {
    let setup = schedule(2, 1000);
    let reports = setup.folder().join("reports");
    // A folder that nobody can write into, not even root.
    symlink("/proc/self", &reports).unwrap();
    let service = setup.serve();
    let failed = |record: &Record| record.is("payload-failed");
    service.record("the first run", failed);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let due = u64::try_from(since.as_millis()).unwrap() / 100;
    service.count("it is tried again and again", 3, failed);
    let (good, link) = (service.folder().join("good"), service.folder().join("link"));
    fs::create_dir(&good).unwrap();
    symlink(&good, &link).unwrap();
    fs::rename(link, reports).unwrap();
    let first = eventually("a report", DEADLINE, || runs(&service).first().copied());
    assert!(
        first <= due,
        "{first} was not the first one to be due: {due}"
    );
    assert_eq!(service.stop(), 0);
}

#[test]
fn no_more_is_made_up_for_than_it_is_set_to() {
    let service = schedule(1, 20).serve();
    advance(&service, 3);
    let holder = freeze(&service);
    sleep(Duration::from_secs(4));
    signal_to(holder, Signal::SIGCONT);
    let skipped: Record = service.message("runs are skipped");
    advance(&service, 30);
    let made = runs(&service);
    let [from, to] = ["from", "to"].map(|end| skipped[end].as_u64().unwrap());
    assert!(made.contains(&(from - 1)) && made.contains(&(to + 1)));
    assert!(
        !made.iter().any(|run| (from..=to).contains(run)),
        "{from} to {to}: {made:?}"
    );
    assert_eq!(service.stop(), 0);
}
