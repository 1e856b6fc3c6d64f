//! What must be true of every run, whatever its test is about: the harness reads each service's log by these rules.
//!
//! A rule holds for a log that was cut off anywhere, unless it says that the service must have ended. It goes by the
//! order of lines where one process has written both, or where the later one was written because of the earlier.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use super::log::Record;

/// A worker's phases, in order. It may skip some and never goes back.
const PHASES: [&str; 9] = [
    "forked", "loading", "starting", "prepared", "serving", "draining", "cleaning", "exited",
    "failed",
];

/// What is wrong, one line each, with the number of the property in the table of `tests/lifecycle`.
pub(crate) fn violations(records: &[Record]) -> Vec<String> {
    // A test that turns the log down, or floods it, has no trace.
    let has_trace = records.iter().any(|record| record.is("service-starting"));
    let has_holes = records.iter().any(|record| !record["dropped"].is_null());
    if !has_trace || has_holes {
        return Vec::new();
    }
    let mut checker = Checker::default();
    for record in records {
        checker.know(record);
    }
    for record in records {
        checker.read(record);
    }
    checker.end();
    checker.wrong
}

#[derive(Default)]
struct Checker {
    workers: BTreeMap<u64, Worker>,
    leases: BTreeMap<Lease, Held>,
    /// By the number of the grant.
    granted: BTreeMap<u64, Lease>,
    ready: bool,
    boot_failed: bool,
    reloading: bool,
    stopping: bool,
    stopped: bool,
    wrong: Vec<String>,
}

/// A payload's name, and the slot where there is one for each.
type Lease = (String, Option<u64>);

#[derive(Default)]
struct Held {
    by: Option<(u64, u64)>,
    last_epoch: u64,
    /// The worker in which the payload runs, by what workers say, and its grant.
    runs_in: Option<(u64, u64)>,
}

#[derive(Default)]
struct Worker {
    place: Option<(u64, u64)>,
    phase: usize,
    /// Being in a later phase says nothing of it.
    served: bool,
    /// Why it was forked.
    born_for: String,
    /// Why it leaves.
    cause: String,
    forks: usize,
    loads: usize,
    /// How often what the app owns was dropped.
    releases: usize,
    started: Vec<String>,
    torn_down: Vec<String>,
    /// Those that run, with the number of their grant.
    payloads: BTreeMap<String, Option<u64>>,
    ends: usize,
}

impl Checker {
    /// What may be needed before its line comes: a child can be faster than its parent.
    fn know(&mut self, record: &Record) {
        if record.is("worker-forked") {
            let place = (slot_of(record), generation_of(record));
            self.worker(record).place = Some(place);
        }
        if let (true, Some(epoch)) = (record.is("lease-granted"), record["epoch"].as_u64()) {
            self.granted.insert(epoch, lease_of(record));
        }
    }

    /// Whom an event is about, it says with all three numbers. Of a lease it is the lease's slot that counts, and a slot
    /// that waits has no worker.
    fn place(&mut self, record: &Record) {
        let event = record.text("payload_event");
        let of_worker = event.starts_with("worker-") && event != "worker-backoff";
        let names_one = record.worker().is_some() && !event.is_empty();
        if of_worker || names_one && !event.starts_with("lease-") {
            let numbers = ["payload_worker", "payload_slot", "payload_generation"];
            let all = numbers.iter().all(|field| record[*field].is_u64());
            self.must(
                36,
                all,
                "which worker, in which slot and generation?",
                record,
            );
        }
        let says_why = ["worker-forked", "worker-phase"].contains(&event);
        let why = !says_why || !record.text("cause").is_empty();
        self.must(36, why, "why?", record);
    }

    fn read(&mut self, record: &Record) {
        self.place(record);
        match record.text("payload_event") {
            "" => self.probe(record),
            "worker-forked" => self.forked(record),
            "worker-phase" => self.phase(record),
            "worker-exited" => {
                let worker = self.worker(record);
                let (owns, dropped) = (worker.loads, worker.releases);
                let why = format!("an app was made {owns} times, and dropped {dropped} times");
                self.must(3, owns == dropped, why, record);
                self.ended(record);
            }
            "worker-failed" => self.ended(record),
            "worker-replaced" => self.replaced(record),
            "payload-started" => self.payload_started(record),
            "payload-ended" | "payload-failed" => self.payload_ended(record),
            "lease-granted" => self.lease_granted(record),
            "lease-released" => self.lease_released(record),
            "service-ready" => self.service_ready(record),
            "boot-failed" => {
                let again = std::mem::replace(&mut self.boot_failed, true);
                self.must(11, !again, "the boot failed twice", record);
                self.must(
                    29,
                    !self.ready,
                    "the boot failed after it had succeeded",
                    record,
                );
            }
            "reload-started" => {
                let nested = std::mem::replace(&mut self.reloading, true);
                self.must(36, !nested, "a reload began within another one", record);
            }
            "reloaded" => {
                self.reload_ended(record);
                self.reloaded(record);
            }
            "reload-failed" => self.reload_ended(record),
            "service-stopping" => {
                let again = std::mem::replace(&mut self.stopping, true);
                self.must(2, !again, "the service began to stop twice", record);
            }
            "service-stopped" => {
                let again = std::mem::replace(&mut self.stopped, true);
                self.must(2, !again, "the service stopped twice", record);
            }
            _ => {}
        }
    }

    fn forked(&mut self, record: &Record) {
        let worker = self.worker(record);
        worker.forks += 1;
        let once = worker.forks == 1;
        let same_cause = is_the_same(&mut worker.born_for, record);
        self.must(36, once, "a worker's number was given twice", record);
        self.must(36, same_cause, "it was forked for another reason", record);
        let begins = !self.stopping && !self.stopped;
        self.must(
            34,
            begins,
            "a worker was forked by a service that stops",
            record,
        );
    }

    fn phase(&mut self, record: &Record) {
        let of = |name: &str| PHASES.iter().position(|phase| *phase == name);
        let (Some(next), Some(previous)) = (of(record.text("phase")), of(record.text("previous")))
        else {
            return self.must(2, false, "an unknown phase", record);
        };
        let took = record["took_seconds"].as_f64();
        let place = (slot_of(record), generation_of(record));
        let worker = self.worker(record);
        let (before, ended) = (worker.phase, worker.ends > 0);
        let moved = worker.place.is_some_and(|was| was != place);
        worker.phase = next;
        worker.served |= PHASES[next] == "serving";
        let (payloads, steps) = (worker.payloads.clone(), worker.started.clone());
        let torn_down = worker.torn_down.clone();
        let leaves = matches!(PHASES[next], "draining" | "cleaning" | "exited" | "failed");
        let cause = match leaves {
            true => &mut worker.cause,
            false => &mut worker.born_for,
        };
        let same_cause = is_the_same(cause, record);
        self.must(36, same_cause, "it has another reason now", record);
        self.must(
            2,
            previous == before,
            "a phase was skipped in the log",
            record,
        );
        self.must(2, next > before, "a phase came again, or too late", record);
        self.must(36, !ended, "a worker spoke after its end", record);
        self.must(
            36,
            !moved,
            "a worker changed its slot or its generation",
            record,
        );
        self.must(
            36,
            took.is_some_and(|took| took >= 0.0),
            "how long did the phase take?",
            record,
        );
        match PHASES[next] {
            "serving" => self.must(
                6,
                PHASES[before] == "prepared",
                "it was not prepared",
                record,
            ),
            "cleaning" => {
                let skipped = PHASES[before] == "serving";
                self.must(22, !skipped, "it cleans up without a drain", record);
            }
            "exited" => self.must(
                16,
                payloads.is_empty(),
                format!("payloads run on: {payloads:?}"),
                record,
            ),
            _ => {}
        }
        if PHASES[before] == "cleaning" {
            let mut wanted = steps;
            wanted.reverse();
            let why = format!("torn down was {torn_down:?}, not {wanted:?}");
            self.must(12, torn_down == wanted, why, record);
        }
    }

    /// What the test service says of itself.
    fn probe(&mut self, record: &Record) {
        let step = record.text("step").to_owned();
        let is_worker = record.text("process") == "worker";
        if !is_worker || record.text("message") != "probe" {
            return;
        }
        let worker = self.worker(record);
        match record.text("probe") {
            "load" => {
                worker.loads += 1;
                let once = worker.loads == 1 && PHASES[worker.phase] == "loading";
                self.must(1, once, "load runs once, in its phase", record);
            }
            "released" => {
                worker.releases += 1;
                let in_time = PHASES[worker.phase] != "exited";
                self.must(3, in_time, "it outlived its runtime", record);
            }
            "startup" => {
                worker.started.push(step);
                let starting = PHASES[worker.phase] == "starting";
                self.must(6, starting, "a step started out of its phase", record);
            }
            "teardown" => {
                let next = worker.started.len().checked_sub(worker.torn_down.len() + 1);
                let wanted = next.map(|next| worker.started[next].clone());
                worker.torn_down.push(step.clone());
                let why = format!("{wanted:?} was to be torn down next");
                self.must(12, wanted == Some(step), why, record);
            }
            _ => {}
        }
    }

    fn ended(&mut self, record: &Record) {
        let worker = self.worker(record);
        worker.ends += 1;
        let once = worker.ends == 1;
        worker.payloads.clear();
        self.must(36, once, "a worker ended twice", record);
        let number = record.worker();
        for held in self.leases.values_mut() {
            held.runs_in.take_if(|(worker, _)| Some(*worker) == number);
        }
    }

    fn replaced(&mut self, record: &Record) {
        let serves = self.has_served(record.worker().unwrap_or_default());
        self.must(34, serves, "what replaces another one must serve", record);
    }

    fn payload_started(&mut self, record: &Record) {
        let (name, epoch) = (record.text("payload").to_owned(), record["epoch"].as_u64());
        let number = record.worker().unwrap_or_default();
        let again = self.worker(record).payloads.insert(name, epoch).is_some();
        self.must(17, !again, "a payload started while it ran", record);
        let lease = epoch.and_then(|epoch| self.granted.get(&epoch)).cloned();
        if let (Some(lease), Some(epoch)) = (lease, epoch) {
            let held = self.leases.entry(lease).or_default();
            let before = held.runs_in.replace((number, epoch));
            let why = format!("worker {before:?} ran it still");
            self.must(20, before.is_none(), why, record);
        }
    }

    fn payload_ended(&mut self, record: &Record) {
        let name = record.text("payload");
        let number = record.worker().unwrap_or_default();
        let Some(epoch) = self.worker(record).payloads.remove(name) else {
            return self.must(36, false, "a payload ended that did not run", record);
        };
        let lease = epoch.and_then(|epoch| self.granted.get(&epoch)).cloned();
        if let Some(held) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
            held.runs_in.take_if(|(worker, _)| *worker == number);
        }
    }

    fn lease_granted(&mut self, record: &Record) {
        let to = (
            record.worker().unwrap_or_default(),
            record["epoch"].as_u64().unwrap_or_default(),
        );
        let serves = self.has_served(to.0);
        let held = self.leases.entry(lease_of(record)).or_default();
        let (before, last) = (held.by.replace(to), held.last_epoch);
        held.last_epoch = to.1;
        self.must(
            20,
            before.is_none(),
            format!("{before:?} had it still"),
            record,
        );
        self.must(20, to.1 > last, "its number must rise", record);
        self.must(
            20,
            serves,
            "it was given to a worker that did not serve",
            record,
        );
    }

    fn lease_released(&mut self, record: &Record) {
        let from = (
            record.worker().unwrap_or_default(),
            record["epoch"].as_u64().unwrap_or_default(),
        );
        let held = self.leases.entry(lease_of(record)).or_default();
        let before = held.by.take();
        self.must(
            20,
            before == Some(from),
            format!("{before:?} had it"),
            record,
        );
    }

    fn service_ready(&mut self, record: &Record) {
        self.ready = true;
        let serving = self.workers.values();
        let serving = serving
            .filter(|worker| worker.served && worker.ends == 0)
            .count();
        let wanted = record["workers"].as_u64().unwrap_or(u64::MAX);
        let why = format!("ready with {serving} that have served");
        self.must(32, serving as u64 >= wanted, why, record);
    }

    fn reload_ended(&mut self, record: &Record) {
        let begun = std::mem::replace(&mut self.reloading, false);
        self.must(36, begun, "a reload ended that had not begun", record);
    }

    /// The old ones leave after this line.
    fn reloaded(&mut self, record: &Record) {
        let new = self.workers.values().filter(|worker| {
            let generation = worker.place.map(|(_, generation)| generation);
            generation == Some(generation_of(record)) && worker.served
        });
        let slots: BTreeSet<_> = new.filter_map(|worker| Some(worker.place?.0)).collect();
        let wanted = record["workers"].as_u64().unwrap_or(u64::MAX);
        let why = format!("new ones serve in slots {slots:?} only");
        self.must(34, slots.len() as u64 >= wanted, why, record);
    }

    /// Everything has its end when the service has said that it is over.
    fn end(&mut self) {
        if !self.stopped {
            return;
        }
        if self.reloading {
            self.wrong.push("36: a reload has no end".to_owned());
        }
        for (number, worker) in &self.workers {
            if (worker.forks, worker.ends) != (1, 1) {
                let (forks, ends) = (worker.forks, worker.ends);
                let line = format!("36: worker {number} has {forks} starts and {ends} ends");
                self.wrong.push(line);
            }
        }
    }

    fn has_served(&self, worker: u64) -> bool {
        self.workers
            .get(&worker)
            .is_some_and(|worker| worker.served)
    }

    fn worker(&mut self, record: &Record) -> &mut Worker {
        let number = record.worker().unwrap_or_default();
        self.workers.entry(number).or_default()
    }

    fn must(&mut self, property: u32, holds: bool, why: impl Display, record: &Record) {
        if !holds {
            self.wrong.push(format!("{property}: {why}: {record}"));
        }
    }
}

/// Notes the record's cause, unless it is known: is it that one?
fn is_the_same(cause: &mut String, record: &Record) -> bool {
    let said = record.text("cause");
    if cause.is_empty() {
        said.clone_into(cause);
    }
    cause == said
}

fn slot_of(record: &Record) -> u64 {
    record["payload_slot"].as_u64().unwrap_or(u64::MAX)
}

fn generation_of(record: &Record) -> u64 {
    record["payload_generation"].as_u64().unwrap_or(u64::MAX)
}

fn lease_of(record: &Record) -> Lease {
    (
        record.text("payload").to_owned(),
        record["lease_slot"].as_u64(),
    )
}
