use super::*;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;

fn event(name: &str) -> LifecycleEvent {
    LifecycleEvent {
        number: 0,
        time: 1.0,
        name: name.to_owned(),
        level: Level::Info,
        message: "it happened".to_owned(),
        worker: None,
        slot: None,
        generation: None,
        pid: None,
        fields: BTreeMap::new(),
    }
}

/// The arbiter's ring after so many events, of which the first has the number 101.
fn ring(count: usize) -> Ring {
    let mut ring = Ring::starting_after(100);
    (0..count).for_each(|at| ring.push(event(&at.to_string())));
    ring
}

fn names(events: &[Arc<LifecycleEvent>]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

async fn next(stream: &mut EventStream) -> Result<String, EventsMissed> {
    let next = timeout(Duration::from_secs(10), stream.recv()).await;
    next.expect("in time").map(|event| event.name.clone())
}

#[test]
fn the_last_events_are_kept_and_numbered_in_order() {
    let ring = ring(300);
    let kept = ring.after(0);
    assert_eq!(kept.len(), 256);
    assert_eq!((kept[0].number, kept[255].number), (145, 400));
    assert_eq!(names(&ring.after(398)), ["298", "299"]);
    assert_eq!(ring.after(400), []);
}

#[tokio::test]
async fn a_replay_begins_with_the_oldest_and_goes_on_with_what_happens() {
    let events = Events::new(ring(2));
    let mut replay = events.replay();
    let mut news = events.subscribe();
    events.extend(ring(3).after(0));
    for expected in ["0", "1", "2"] {
        assert_eq!(next(&mut replay).await.unwrap(), expected);
    }
    assert_eq!(next(&mut news).await.unwrap(), "2");
    assert_eq!(names(&events.recent()), ["0", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_already_is_not_told_again() {
    let events = Events::new(ring(2));
    let mut news = events.subscribe();
    events.extend(ring(2).after(0));
    assert!(timeout(Duration::from_secs(60), news.recv()).await.is_err());
    assert_eq!(events.recent().len(), 2);
}

#[tokio::test]
async fn who_comes_too_late_hears_how_many_were_missed() {
    let events = Events::new(ring(1));
    let mut news = events.subscribe();
    events.extend(ring(300).after(0));
    assert_eq!(next(&mut news).await, Err(EventsMissed(43)));
    assert_eq!(next(&mut news).await.unwrap(), "44");
}

#[tokio::test]
async fn a_hole_in_what_the_worker_heard_is_told_too() {
    let events = Events::new(ring(1));
    let mut replay = events.replay();
    events.extend(ring(5).after(104));
    assert_eq!(next(&mut replay).await.unwrap(), "0");
    assert_eq!(next(&mut replay).await, Err(EventsMissed(3)));
    assert_eq!(next(&mut replay).await.unwrap(), "4");
}

#[tokio::test]
async fn waiting_can_be_given_up_and_nothing_is_lost() {
    let events = Events::new(ring(1));
    let mut news = events.subscribe();
    assert!(
        timeout(Duration::from_millis(1), news.recv())
            .await
            .is_err()
    );
    events.extend(ring(2).after(0));
    assert_eq!(next(&mut news).await.unwrap(), "1");
}

#[test]
fn an_event_keeps_its_fields_over_the_wire() {
    let mut sent = event("worker-forked");
    for (name, value) in [
        ("again", FieldValue::Flag(true)),
        ("epoch", FieldValue::Count(1_763_800_000_000_001)),
        ("took_seconds", FieldValue::Number(0.5)),
        ("gap_seconds", FieldValue::Number(0.0)),
        ("cause", FieldValue::Text("boot".to_owned())),
    ] {
        sent.fields.insert(name.to_owned(), value);
    }
    let text = serde_json::to_string(&sent).unwrap();
    let back: LifecycleEvent = serde_json::from_str(&text).unwrap();
    assert_eq!(back, sent);
    assert_eq!(back.field("epoch").as_deref(), Some("1763800000000001"));
    let number = |name: &str| back.fields[name].as_f64();
    assert_eq!((number("gap_seconds"), number("cause")), (Some(0.0), None));
}

#[tokio::test]
async fn what_was_never_sent_is_missed_when_something_follows() {
    let events = Events::new(ring(1));
    let mut news = events.subscribe();
    let mut arbiter = ring(1);
    arbiter.skip(3);
    arbiter.push(event("after"));
    events.extend(arbiter.after(101));
    assert_eq!(next(&mut news).await, Err(EventsMissed(3)));
    assert_eq!(next(&mut news).await.unwrap(), "after");
}
