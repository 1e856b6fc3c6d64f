//! The rules that every service of every test is read by see what is wrong: a true log, spoiled in one place.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::service::{Record, Setup, signal_to};
use crate::support::trace::violations;

/// A run with all that the rules speak of: leases, a death, a reload, a stop.
fn log() -> Vec<Record> {
    let app = "workers = 2\nreload.trial = '0s'\n[app]\nledger = '@FOLDER@/ledger'\nscope = 'service'\n\
               payload = 'run'";
    let service = Setup::new(app).filled_in().serve();
    let first = service.event("lease-granted").worker().unwrap();
    let other = service.event_where("worker-forked", |event| event.worker() != Some(first));
    let pid = other.number("worker_pid");
    signal_to(pid, Signal::SIGKILL);
    service.wait_until_replaced(pid);
    assert!(service.reload().status.success());
    service.count("it has moved", 2, |record| record.is("lease-granted"));
    service.count("it runs", 2, |record| {
        is_of_ledger(record, "payload-started")
    });
    assert_eq!(service.stop(), 0);
    service.records()
}

fn is_of_ledger(record: &Record, event: &str) -> bool {
    record.is(event) && record.text("payload") == "ledger"
}

/// One change to the log, and the property that it breaks.
struct Spoiled<'a> {
    what: &'static str,
    property: u32,
    log: &'a [Record],
    records: Vec<Record>,
}

impl Spoiled<'_> {
    fn new<'a>(log: &'a [Record], property: u32, what: &'static str) -> Spoiled<'a> {
        Spoiled {
            what,
            property,
            log,
            records: log.to_vec(),
        }
    }

    #[track_caller]
    fn at(&self, fits: impl Fn(&Record) -> bool) -> usize {
        let found = self.records.iter().position(fits);
        found.unwrap_or_else(|| panic!("{}: no such record", self.what))
    }

    #[track_caller]
    fn without(mut self, fits: impl Fn(&Record) -> bool) -> Self {
        let at = self.at(fits);
        self.records.remove(at);
        self
    }

    #[track_caller]
    fn twice(mut self, fits: impl Fn(&Record) -> bool) -> Self {
        let at = self.at(fits);
        self.records.insert(at, self.records[at].clone());
        self
    }

    /// The first of them, in front of the first of the others.
    #[track_caller]
    fn before(mut self, fits: impl Fn(&Record) -> bool, other: impl Fn(&Record) -> bool) -> Self {
        let record = self.records.remove(self.at(fits));
        self.records.insert(self.at(other), record);
        self
    }

    /// The first of them, behind the last of the others.
    #[track_caller]
    fn behind(mut self, fits: impl Fn(&Record) -> bool, other: impl Fn(&Record) -> bool) -> Self {
        let record = self.records.remove(self.at(fits));
        let at = self.records.iter().rposition(other).expect("such a record");
        self.records.insert(at + 1, record);
        self
    }

    #[track_caller]
    fn with(mut self, fits: impl Fn(&Record) -> bool, field: &str, value: Value) -> Self {
        let at = self.at(fits);
        self.records[at].0[field] = value;
        self
    }

    /// All of them.
    fn with_all(mut self, fits: impl Fn(&Record) -> bool, field: &str, value: &Value) -> Self {
        for record in self.records.iter_mut().filter(|record| fits(record)) {
            record.0[field] = value.clone();
        }
        self
    }

    fn and(mut self, record: Value) -> Self {
        self.records.push(Record(record));
        self
    }

    /// By the rule that says this, and not by another one of the same property, which the change may break as well.
    #[track_caller]
    fn must_be_found(self, sentence: &str) {
        let wrong = violations(&self.records);
        let number = format!("{}: ", self.property);
        assert!(
            wrong
                .iter()
                .any(|line| line.starts_with(&number) && line.contains(sentence)),
            "{}: not found as {number}{sentence}: {wrong:#?}",
            self.what
        );
        assert!(violations(self.log).is_empty(), "the log itself is right");
    }
}

#[test]
fn each_rule_finds_what_breaks_it() {
    let log = log();
    assert_eq!(violations(&log), Vec::<String>::new());
    let phase = |name: &'static str| {
        move |record: &Record| record.is("worker-phase") && record.text("phase") == name
    };
    let probe = |what: &'static str, step: &'static str| {
        move |record: &Record| record.text("probe") == what && record.text("step") == step
    };
    let event = |name: &'static str| move |record: &Record| record.is(name);
    let ledger = |name: &'static str| move |record: &Record| is_of_ledger(record, name);
    let spoiled = |property, what| Spoiled::new(&log, property, what);

    spoiled(1, "load ran twice")
        .twice(probe("load", ""))
        .must_be_found("load runs once, in its phase");
    spoiled(1, "load ran late")
        .behind(probe("load", ""), phase("serving"))
        .must_be_found("load runs once, in its phase");
    spoiled(2, "a phase is missing")
        .without(phase("starting"))
        .must_be_found("a phase was skipped in the log");
    spoiled(2, "a phase came twice")
        .twice(phase("serving"))
        .must_be_found("a phase came again, or too late");
    spoiled(2, "a phase that nobody knows")
        .with(phase("serving"), "phase", json!("dreaming"))
        .must_be_found("an unknown phase");
    spoiled(2, "the service stopped twice")
        .twice(event("service-stopped"))
        .must_be_found("the service stopped twice");
    spoiled(2, "the service began to stop twice")
        .twice(event("service-stopping"))
        .must_be_found("the service began to stop twice");
    spoiled(3, "what the app owns was left")
        .without(probe("released", ""))
        .must_be_found("an app was made 1 times, and dropped 0 times");
    let released = log.iter().find(|record| probe("released", "")(record));
    let released = released.and_then(Record::worker);
    spoiled(3, "what the app owns outlived its runtime")
        .before(
            |record| phase("exited")(record) && record.worker() == released,
            probe("released", ""),
        )
        .must_be_found("it outlived its runtime");
    spoiled(6, "it served before it was prepared")
        .without(phase("prepared"))
        .with(phase("serving"), "previous", json!("starting"))
        .must_be_found("it was not prepared");
    spoiled(6, "a step started when it served")
        .behind(probe("startup", "three"), phase("serving"))
        .must_be_found("a step started out of its phase");
    spoiled(12, "a step was not torn down")
        .without(probe("teardown", "two"))
        .must_be_found("torn down was ");
    spoiled(12, "a step was torn down twice")
        .twice(probe("teardown", "two"))
        .must_be_found("was to be torn down next");
    spoiled(12, "the first step was torn down first")
        .before(probe("teardown", "one"), probe("teardown", "three"))
        .must_be_found("was to be torn down next");
    spoiled(16, "a payload outlived its worker")
        .without(event("payload-ended"))
        .must_be_found("payloads run on");
    spoiled(17, "a payload ran twice in one worker")
        .twice(event("payload-started"))
        .must_be_found("a payload started while it ran");
    let first = log.iter().find(|record| record.is("lease-granted"));
    let first = first.and_then(Record::worker);
    let of_the_next =
        |record: &Record| is_of_ledger(record, "payload-started") && record.worker() != first;
    spoiled(20, "two ran it")
        .before(of_the_next, ledger("payload-ended"))
        .must_be_found("ran it still");
    spoiled(20, "two had the lease")
        .behind(event("lease-released"), event("lease-granted"))
        .must_be_found("had it still");
    spoiled(20, "the lease's number did not rise")
        .with(event("lease-granted"), "epoch", json!(u64::MAX))
        .must_be_found("its number must rise");
    spoiled(20, "somebody else gave it back")
        .with(event("lease-released"), "payload_worker", json!(77))
        .must_be_found(" had it: ");
    spoiled(20, "it was given to one that did not serve")
        .before(event("lease-granted"), phase("loading"))
        .must_be_found("it was given to a worker that did not serve");
    spoiled(22, "it did not drain")
        .without(phase("draining"))
        .with(phase("cleaning"), "previous", json!("serving"))
        .must_be_found("it cleans up without a drain");
    spoiled(29, "the boot failed after all")
        .and(json!({"payload_event": "boot-failed"}))
        .must_be_found("the boot failed after it had succeeded");
    spoiled(11, "the boot failed twice")
        .and(json!({"payload_event": "boot-failed"}))
        .and(json!({"payload_event": "boot-failed"}))
        .must_be_found("the boot failed twice");
    spoiled(32, "it was ready too early")
        .before(event("service-ready"), phase("loading"))
        .must_be_found("ready with ");
    spoiled(32, "it was ready with one that had left before it served")
        .with(phase("serving"), "phase", json!("cleaning"))
        .must_be_found("ready with ");
    let of_worker_1 = |record: &Record| phase("serving")(record) && record.worker() == Some(1);
    spoiled(34, "a replacement had left before it served")
        .with(of_worker_1, "phase", json!("cleaning"))
        .and(json!({"payload_event": "worker-replaced", "payload_worker": 1}))
        .must_be_found("what replaces another one must serve");
    spoiled(34, "the new ones had left before they served")
        .with_all(phase("serving"), "phase", &json!("cleaning"))
        .must_be_found("new ones serve in slots");
    spoiled(20, "it was given to one that had left before it served")
        .with_all(phase("serving"), "phase", &json!("cleaning"))
        .must_be_found("it was given to a worker that did not serve");
    spoiled(34, "the new ones did not serve yet")
        .behind(event("reload-started"), event("service-ready"))
        .before(event("reloaded"), event("image-changed"))
        .must_be_found("new ones serve in slots");
    spoiled(34, "a replacement did not serve")
        .and(json!({"payload_event": "worker-replaced", "payload_worker": 77}))
        .must_be_found("what replaces another one must serve");
    spoiled(34, "a worker was forked by a service that stops")
        .behind(event("worker-forked"), event("service-stopping"))
        .must_be_found("a worker was forked by a service that stops");
    spoiled(36, "a worker has no end")
        .without(event("worker-exited"))
        .must_be_found("has 1 starts and 0 ends");
    spoiled(36, "a worker has two ends")
        .twice(event("worker-exited"))
        .must_be_found("a worker ended twice");
    spoiled(36, "a number was given twice")
        .twice(event("worker-forked"))
        .must_be_found("a worker's number was given twice");
    spoiled(36, "a worker spoke after its end")
        .before(event("worker-exited"), phase("exited"))
        .must_be_found("a worker spoke after its end");
    spoiled(36, "a worker moved")
        .with(phase("serving"), "payload_slot", json!(7))
        .must_be_found("a worker changed its slot or its generation");
    spoiled(36, "a phase took an unknown time")
        .with(phase("serving"), "took_seconds", Value::Null)
        .must_be_found("how long did the phase take?");
    spoiled(36, "an event does not say in which slot")
        .with(event("worker-failed"), "payload_slot", Value::Null)
        .must_be_found("which worker, in which slot and generation?");
    spoiled(36, "an event does not say in which generation")
        .with(event("payload-started"), "payload_generation", Value::Null)
        .must_be_found("which worker, in which slot and generation?");
    spoiled(36, "nobody knows why it was forked")
        .with(event("worker-forked"), "cause", Value::Null)
        .must_be_found("why?");
    spoiled(36, "nobody knows why it leaves")
        .with(phase("draining"), "cause", Value::Null)
        .must_be_found("why?");
    spoiled(36, "nobody knows why it serves")
        .with(phase("serving"), "cause", Value::Null)
        .must_be_found("why?");
    spoiled(36, "it serves for another reason than it was forked for")
        .with(phase("serving"), "cause", json!("scale"))
        .must_be_found("it has another reason now");
    spoiled(36, "it was forked for another reason than it serves for")
        .with(event("worker-forked"), "cause", json!("scale"))
        .must_be_found("reason");
    spoiled(36, "it leaves for two reasons")
        .with(phase("cleaning"), "cause", json!("scale"))
        .must_be_found("it has another reason now");
    spoiled(36, "a payload has two ends")
        .twice(event("payload-ended"))
        .must_be_found("a payload ended that did not run");
    spoiled(36, "a reload has no end")
        .without(event("reloaded"))
        .must_be_found("a reload has no end");
    spoiled(36, "a reload ended twice")
        .twice(event("reloaded"))
        .must_be_found("a reload ended that had not begun");
    spoiled(36, "a reload in a reload")
        .twice(event("reload-started"))
        .must_be_found("a reload began within another one");
}

#[test]
fn a_log_that_is_cut_off_anywhere_is_right() {
    let log = log();
    for end in 0..log.len() {
        let wrong = violations(&log[..end]);
        assert!(wrong.is_empty(), "after {end} records: {wrong:#?}");
    }
}

/// What a test hears of by its requests is in the log that it reads then.
#[test]
fn what_was_logged_before_an_answer_is_read_at_once() {
    let service = Setup::new("workers = 1").serve();
    for turn in 1..=30 {
        service.get("/log?count=100");
        let records = service.records().into_iter();
        let asked_for = |record: &Record| record.text("message") == "a record that was asked for";
        assert_eq!(records.filter(asked_for).count(), turn * 100);
    }
    assert_eq!(service.stop(), 0);
}

#[test]
fn what_has_holes_is_not_judged() {
    let dropped = json!({"message": "log records were dropped", "dropped": "3"});
    let mut log = log();
    log.retain(|record| !record.is("worker-exited"));
    assert!(!violations(&log).is_empty());
    log.push(Record(dropped));
    assert_eq!(violations(&log), Vec::<String>::new());
}
