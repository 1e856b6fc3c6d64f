//! What arbiter and workers say to each other, as programs say it that are out there. During a reload an old and a new
//! one talk: none of these texts may change, and what comes to them is passed over by who does not know it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::bulletin::{Bulletin, Declared, Row, Told};
use super::channel::Report;
use super::orders::{Level, Order, Recycle, Why};
use crate::events::{FieldValue, LifecycleEvent, Ring};
use crate::lease::{Deposit, Grant, Released};
use crate::moment::Moment;
use crate::status::Scope;
use crate::worker::phase::Phase;

/// One of each; a new kind needs a new line.
fn reports() -> Vec<(Report, &'static str)> {
    let all = vec![
        (
            Report::Entered {
                phase: Phase::Loading,
            },
            r#"{"entered":{"phase":"loading"}}"#,
        ),
        (
            Report::Failed {
                reason: "why".to_owned(),
            },
            r#"{"failed":{"reason":"why"}}"#,
        ),
        (
            Report::Recycle {
                cause: Recycle::Memory,
            },
            r#"{"recycle":{"cause":"memory"}}"#,
        ),
        (
            Report::Payloads {
                names: vec!["a".to_owned(), "b".to_owned()],
                scopes: vec![Scope::Worker, Scope::Service],
                once: Vec::new(),
            },
            r#"{"payloads":{"names":["a","b"],"scopes":["worker","service"]}}"#,
        ),
        (
            Report::Payloads {
                names: vec!["a".to_owned(), "b".to_owned()],
                scopes: vec![Scope::Worker, Scope::Slot],
                once: vec![1],
            },
            r#"{"payloads":{"names":["a","b"],"scopes":["worker","slot"],"once":[1]}}"#,
        ),
        (
            Report::Released {
                payload: 1,
                epoch: 7,
                how: Released::Spent,
                at: Moment::from_nanos(5),
            },
            r#"{"released":{"payload":1,"epoch":7,"how":"spent","at":{"secs":0,"nanos":5}}}"#,
        ),
        (
            Report::Kept {
                payload: 1,
                epoch: 7,
            },
            r#"{"kept":{"payload":1,"epoch":7}}"#,
        ),
        (Report::Paused { round: 2 }, r#"{"paused":{"round":2}}"#),
        (Report::Unmet { worker: 3 }, r#"{"unmet":{"worker":3}}"#),
        (
            Report::Unsent {
                worker: 3,
                topics: vec![("a".to_owned(), 2)],
            },
            r#"{"unsent":{"worker":3,"topics":[["a",2]]}}"#,
        ),
        (
            Report::Happened {
                event: Box::new(event()),
            },
            r#"{"happened":{"event":EVENT}}"#,
        ),
    ];
    for (report, _) in &all {
        match report {
            Report::Entered { .. }
            | Report::Failed { .. }
            | Report::Recycle { .. }
            | Report::Payloads { .. }
            | Report::Released { .. }
            | Report::Kept { .. }
            | Report::Paused { .. }
            | Report::Unmet { .. }
            | Report::Unsent { .. }
            | Report::Happened { .. } => {}
        }
    }
    all
}

/// As for reports.
fn orders() -> Vec<(Order, &'static str)> {
    let all = vec![
        (Order::Serve, r#""serve""#),
        (Order::Receive { from: 3 }, r#"{"receive":{"from":3}}"#),
        (
            Order::Give {
                to: 4,
                seat: 1,
                count: None,
            },
            r#"{"give":{"to":4,"seat":1,"count":null}}"#,
        ),
        (Order::Close, r#""close""#),
        (
            Order::Peer {
                worker: 5,
                late: false,
            },
            r#"{"peer":{"worker":5,"late":false}}"#,
        ),
        (
            Order::Grant {
                payload: 1,
                grant: Grant { epoch: 7, slots: 2 },
                kept: Some(Deposit {
                    number: 1,
                    length: 9,
                }),
            },
            r#"{"grant":{"payload":1,"grant":{"epoch":7,"slots":2},"kept":{"number":1,"length":9}}}"#,
        ),
        (
            Order::Revoke {
                payload: 1,
                epoch: 7,
            },
            r#"{"revoke":{"payload":1,"epoch":7}}"#,
        ),
        (Order::Pause { round: 2 }, r#"{"pause":{"round":2}}"#),
        (Order::Resume, r#""resume""#),
        (
            Order::Because { why: Why::Reload },
            r#"{"because":{"why":"reload"}}"#,
        ),
        (Order::Stop(Level::Graceful), r#"{"stop":"graceful"}"#),
    ];
    for (order, _) in &all {
        match order {
            Order::Serve
            | Order::Receive { .. }
            | Order::Give { .. }
            | Order::Close
            | Order::Peer { .. }
            | Order::Grant { .. }
            | Order::Revoke { .. }
            | Order::Pause { .. }
            | Order::Resume
            | Order::Because { .. }
            | Order::Stop(_) => {}
        }
    }
    all
}

const EVENT: &str = r#"{"number":101,"time":1.5,"name":"worker-forked","level":"info","message":"worker forked","worker":3,"slot":0,"generation":1,"pid":77,"fields":{"cause":"boot","epoch":9,"gap_seconds":0.0,"is":true}}"#;
const LEASE: &str = r#"{"lease":{"payload":"p","scope":"service","slot":null,"holder":{"slot":0,"pid":77,"generation":1,"epoch":7,"since":0.5,"leaving":false},"finished":false,"grants":1,"gap":0.25},"at":{"secs":0,"nanos":5}}"#;

fn event() -> LifecycleEvent {
    let fields = [
        ("cause", FieldValue::Text("boot".to_owned())),
        ("epoch", FieldValue::Count(9)),
        ("gap_seconds", FieldValue::Number(0.0)),
        ("is", FieldValue::Flag(true)),
    ];
    LifecycleEvent {
        number: 101,
        time: 1.5,
        name: "worker-forked".to_owned(),
        level: crate::events::Level::Info,
        message: "worker forked".to_owned(),
        worker: Some(3),
        slot: Some(0),
        generation: Some(1),
        pid: Some(77),
        fields: fields.map(|(name, value)| (name.to_owned(), value)).into(),
    }
}

fn lease() -> Row {
    use crate::status::{Holder, Lease};
    Row {
        lease: Lease {
            payload: "p".to_owned(),
            scope: Scope::Service,
            slot: None,
            holder: Some(Holder {
                slot: 0,
                pid: 77,
                generation: 1,
                epoch: 7,
                since: 0.5,
                leaving: false,
            }),
            finished: false,
            grants: 1,
            gap: 0.25,
            failures: 0,
            again_in: None,
        },
        at: Moment::from_nanos(5),
    }
}

fn bulletin() -> (Bulletin, String) {
    let bulletin = Bulletin {
        events: vec![event()],
        leases: vec![lease()],
        gone: vec![("q".to_owned(), Some(1))],
        payloads: vec![Declared {
            worker: 3,
            names: vec!["p".to_owned()],
            scopes: vec![Scope::Slot],
        }],
        line: Some("2/2".to_owned()),
        ..Bulletin::default()
    };
    let payloads = r#"{"worker":3,"names":["p"],"scopes":["slot"]}"#;
    let text = format!(
        r#"{{"bulletin":{{"events":[{EVENT}],"leases":[{LEASE}],"gone":[["q",1]],"payloads":[{payloads}],"line":"2/2"}}}}"#
    );
    (bulletin, text)
}

#[track_caller]
fn says<T: Serialize>(value: &T, text: &str) {
    assert_eq!(serde_json::to_string(value).unwrap(), text);
}

fn read<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The words inside of them.
#[test]
fn words_are_said_and_read_as_ever() {
    fn pin<T>(words: &[(T, &str)])
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        for (word, text) in words {
            let text = format!(r#""{text}""#);
            says(word, &text);
            assert_eq!(read::<T>(&text), *word);
        }
    }
    pin(&[
        (Released::Stopped, "stopped"),
        (Released::Spent, "spent"),
        (Released::Finished, "finished"),
        (Released::Failed, "failed"),
        (Released::NotTaken, "not_taken"),
    ]);
    pin(&[
        (Recycle::Requests, "requests"),
        (Recycle::Age, "age"),
        (Recycle::Memory, "memory"),
        (Recycle::Slots, "slots"),
    ]);
    pin(&[
        (Scope::Worker, "worker"),
        (Scope::Slot, "slot"),
        (Scope::Service, "service"),
    ]);
    pin(&[
        (Level::Graceful, "graceful"),
        (Level::Quick, "quick"),
        (Level::Kill, "kill"),
    ]);
    pin(&[
        (Why::Stop, "stop"),
        (Why::Restart, "restart"),
        (Why::Idle, "idle"),
        (Why::BootFailed, "boot_failed"),
        (Why::Reload, "reload"),
        (Why::ReloadFailed, "reload_failed"),
        (Why::Recycle, "recycle"),
        (Why::Scale, "scale"),
    ]);
    pin(&Phase::ALL.map(|phase| (phase, phase.name())));
    // A new word needs a new line.
    match Released::default() {
        Released::Stopped
        | Released::Spent
        | Released::Finished
        | Released::Failed
        | Released::NotTaken
        | Released::Unknown => {}
    }
}

/// What waits for a lease would wait for ever, if nobody knew that it does.
#[test]
fn payloads_are_told_apart_also_where_the_scope_of_one_is_not_known() {
    let text = r#"{"payloads":{"names":["a","b"],"scopes":["host","service"]}}"#;
    let expected = Report::Payloads {
        names: vec!["a".to_owned(), "b".to_owned()],
        scopes: vec![Scope::Worker, Scope::Service],
        once: Vec::new(),
    };
    assert_eq!(read::<Report>(text), expected);
}

/// Whatever has names gets one more.
fn with_more(text: &str) -> String {
    fn add(value: &mut Value, is_kind: bool) {
        match value {
            Value::Array(entries) => entries.iter_mut().for_each(|entry| add(entry, false)),
            Value::Object(entries) => {
                entries.values_mut().for_each(|entry| add(entry, false));
                // A moment is complete.
                if !is_kind && !entries.contains_key("secs") {
                    entries.insert("a_new_one".to_owned(), json!(1));
                }
            }
            _ => {}
        }
    }
    let mut value: Value = read(text);
    add(&mut value, true);
    value.to_string()
}

/// An event's fields are whatever its record had.
fn without_more_fields(mut event: LifecycleEvent) -> LifecycleEvent {
    event.fields.remove("a_new_one");
    event
}

#[test]
fn reports_are_said_and_read_as_ever_and_may_say_more() {
    for (report, text) in reports() {
        let text = text.replace("EVENT", EVENT);
        says(&report, &text);
        assert_eq!(read::<Report>(&text), report);
        let more = match read(&with_more(&text)) {
            Report::Happened { event } => Report::Happened {
                event: Box::new(without_more_fields(*event)),
            },
            more => more,
        };
        assert_eq!(more, report);
    }
}

#[test]
fn orders_are_said_and_read_as_ever_and_may_say_more() {
    for (order, text) in orders() {
        says(&order, text);
        for text in [text, &with_more(text)] {
            match read(text) {
                Told::Order(read) => assert_eq!(read, order, "{text}"),
                Told::Bulletin(_) => panic!("{text}"),
            }
        }
    }
    let Told::Order(order) = read(r#"{"peer":{"worker":5}}"#) else {
        panic!("no order");
    };
    let expected = Order::Peer {
        worker: 5,
        late: false,
    };
    assert_eq!(order, expected, "an older arbiter does not say it");
}

#[test]
fn a_bulletin_is_said_and_read_as_ever_and_may_say_more() {
    let (bulletin, text) = bulletin();
    says(&Told::Bulletin(Box::new(bulletin.clone())), &text);
    for text in [&text, &with_more(&text)] {
        let Told::Bulletin(mut read) = read(text) else {
            panic!("{text}");
        };
        read.events = read.events.into_iter().map(without_more_fields).collect();
        assert_eq!(*read, bulletin);
    }
}

/// They came later, and a lease that has not failed is as it was.
#[test]
fn the_failures_of_a_lease_are_told_in_its_row() {
    let mut row = lease();
    (row.lease.failures, row.lease.again_in) = (2, Some(0.5));
    let text = LEASE.replace(r#""gap":0.25"#, r#""gap":0.25,"failures":2,"again_in":0.5"#);
    says(&row, &text);
    assert_eq!(read::<Row>(&text), row);
    let later = Row {
        at: Moment::from_nanos(7),
        ..row.clone()
    };
    assert!(row.says(&later), "time alone is no news");
}

/// It came later, and a bulletin that has none of it is as it was.
#[test]
fn what_was_not_sent_is_told_in_a_bulletin() {
    let bulletin = Bulletin {
        unsent: vec![("a".to_owned(), 2)],
        ..Bulletin::default()
    };
    let text = r#"{"bulletin":{"unsent":[["a",2]]}}"#;
    says(&Told::Bulletin(Box::new(bulletin.clone())), text);
    let strange = r#"{"bulletin":{"unsent":[{"topic":"b"},["a",2]]}}"#;
    for text in [text, &with_more(text), strange] {
        let Told::Bulletin(read) = read(text) else {
            panic!("{text}");
        };
        assert_eq!(*read, bulletin);
    }
}

#[test]
fn what_is_not_known_in_a_bulletin_is_passed_over_and_the_rest_is_heard() {
    let (bulletin, text) = bulletin();
    let strange_event = EVENT.replace(r#""info""#, r#""fatal""#);
    let strange_lease = LEASE.replace(r#""service""#, r#""host""#);
    let text = text
        .replace(r#""events":["#, &format!(r#""events":[{strange_event},"#))
        .replace(r#""leases":["#, &format!(r#""leases":[{strange_lease},"#))
        .replace(r#""gone":["#, r#""gone":["all","#)
        .replace(r#""payloads":["#, r#""payloads":[7,"#);
    let Told::Bulletin(read) = read(&text) else {
        panic!("{text}");
    };
    assert_eq!(*read, bulletin);
}

/// What one image of the arbiter leaves to the next.
#[test]
fn the_last_events_may_have_one_that_is_not_known() {
    let strange = EVENT.replace(r#""info""#, r#""fatal""#);
    let ring: Ring = read(&format!(r#"{{"events":[{strange},{EVENT}],"newest":103}}"#));
    assert_eq!(ring.after(0), [event().into()]);
    assert_eq!(ring.newest(), 103);
    says(&ring, &format!(r#"{{"events":[{EVENT}],"newest":103}}"#));
}
