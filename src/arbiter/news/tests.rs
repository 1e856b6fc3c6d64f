use super::pieces::{PIECE, ROOM};
use super::*;
use crate::ipc::bulletin::Told;
use crate::ipc::channel::Received;

fn lease(holder: Option<(u32, f64)>) -> Row {
    lease_of(None, holder)
}

fn lease_of(slot: impl Into<Option<u32>>, holder: Option<(u32, f64)>) -> Row {
    let lease = serde_json::from_value(serde_json::json!({
        "payload": "p", "scope": "service", "slot": slot.into(), "finished": false, "grants": 1, "gap": 0.0,
        "holder": holder.map(|(pid, since)| serde_json::json!({
            "slot": 0, "pid": pid, "generation": 1, "epoch": 1, "since": since, "leaving": false
        })),
    }));
    Row {
        lease: lease.unwrap(),
        at: Moment::default(),
    }
}

fn event(text: &str) -> LifecycleEvent {
    serde_json::from_value(serde_json::json!({
        "number": 0, "time": 0.0, "name": "worker-phase", "level": "info", "message": text, "worker": null,
        "slot": null, "generation": null, "pid": null, "fields": {},
    }))
    .unwrap()
}

/// What a worker knows that has heard these.
fn hear(known: &mut Known, ring: &mut Ring, pieces: &[Piece]) {
    for piece in pieces {
        apply(
            known,
            ring,
            serde_json::from_slice(piece.packet.bytes()).unwrap(),
        );
    }
}

fn apply(known: &mut Known, ring: &mut Ring, told: Told) {
    let Told::Bulletin(bulletin) = told else {
        panic!("no bulletin");
    };
    for event in known.apply(*bulletin) {
        ring.add(event.into());
    }
}

#[test]
fn who_is_told_in_turns_knows_what_the_arbiter_knows() {
    let mut news = News::with(Ring::starting_after(7));
    let (mut known, mut ring) = (Known::default(), Ring::default());
    let mut mark = Mark::default();
    let rounds: [&dyn Fn(&mut News); 4] = [
        &|news| {
            news.note_leases(vec![lease(None)]);
            news.note_line("1/1".to_owned());
        },
        &|news| news.note_leases(vec![lease(Some((4, 0.0)))]),
        &|news| news.happened(WorkerId(3), event("a")),
        &|news| news.note_leases(vec![]),
    ];
    for (at, change) in rounds.iter().enumerate() {
        change(&mut news);
        hear(&mut known, &mut ring, &news.since(mark));
        mark = news.newest();
        assert_eq!(known.leases, news.known.leases, "round {at}");
        assert_eq!(known.line, news.known.line);
        assert_eq!(ring.after(0), news.events.after(0));
    }
    assert!(news.since(mark).is_empty(), "nothing is told twice");
}

#[test]
fn time_alone_is_no_news() {
    let mut news = News::with(Ring::default());
    news.note_leases(vec![lease(Some((4, 1.0)))]);
    let before = news.newest();
    news.note_leases(vec![lease(Some((4, 9.0)))]);
    assert_eq!(news.newest(), before);
    news.note_leases(vec![lease(Some((5, 0.0)))]);
    assert_ne!(news.newest(), before);
}

#[test]
fn news_that_fill_many_packets_arrive_whole_and_in_order() {
    let mut news = News::with(Ring::default());
    for _ in 0..256 {
        news.happened(WorkerId(1), event(&"x".repeat(4000)));
    }
    let pieces = news.since(Mark::default());
    assert!(pieces.len() > 10);
    let (mut known, mut ring) = (Known::default(), Ring::default());
    hear(&mut known, &mut ring, &pieces);
    assert_eq!(ring.after(0), news.events.after(0));
}

#[test]
fn who_does_not_listen_keeps_room_for_orders_and_hears_the_rest_later_and_once() {
    let mut news = News::with(Ring::default());
    news.note_leases((0..40).map(|slot| lease_of(slot, None)).collect());
    for number in 0..200 {
        news.happened(WorkerId(1), event(&format!("{number}{}", "x".repeat(900))));
    }
    let (arbiter, worker) = Channel::pair().unwrap();
    let (mut known, mut ring) = (Known::default(), Ring::default());
    let (mut told, mut rounds, mut heard) = (Mark::default(), 0, 0);
    while told != news.newest() {
        rounds += 1;
        let has_more = tell(&arbiter, &news.since(told), &mut told, news.newest());
        assert_eq!(has_more, told != news.newest());
        assert!(arbiter.unsent().unwrap() <= ROOM + 2 * PIECE + 4096);
        let before = told;
        let again = tell(&arbiter, &news.since(told), &mut told, news.newest());
        assert!(!again && told == before, "it has not listened since");
        while let (Received::Message(message), _) = worker.receive_with().unwrap() {
            apply(&mut known, &mut ring, message);
            heard += 1;
        }
    }
    assert!(rounds > 5 && heard > 50, "{rounds} {heard}");
    assert_eq!(known.leases, news.known.leases);
    assert_eq!(ring.after(0), news.events.after(0));
}

/// Packets cost their making once, however many hear them; who does not listen costs none.
#[test]
fn what_many_do_not_know_is_made_once_and_for_one_that_is_stuck_it_is_not_made() {
    let mut news = News::with(Ring::default());
    let pairs: Vec<_> = (0..5).map(|_| Channel::pair().unwrap()).collect();
    let channels = || (1..).map(WorkerId).zip(pairs.iter().map(|pair| &pair.0));
    while has_room(&pairs[4].0) {
        pairs[4].0.send(&"x".repeat(1000)).unwrap();
    }
    news.happened(WorkerId(1), event("a"));
    let first = Mark::default();
    let a = news.newest();
    news.told = [2, 4].map(|worker| (WorkerId(worker), a)).into();
    news.happened(WorkerId(1), event("b"));
    // Of two marks in turns, and of a third that is stuck.
    news.told.insert(
        WorkerId(5),
        Mark {
            event: 0,
            version: 1,
        },
    );
    let made = news.tell(channels());
    assert!(made.keys().eq(&[first, a]), "{made:?}");
    let newest = news.newest();
    for (worker, heard) in (1..5).map(WorkerId).zip([2, 1, 2, 1]) {
        assert_eq!(news.told[&worker], newest);
        let (mut known, mut ring) = (Known::default(), Ring::default());
        let index = usize::try_from(worker.0).unwrap() - 1;
        while let (Received::Message(told), _) = pairs[index].1.receive_with().unwrap() {
            apply(&mut known, &mut ring, told);
        }
        assert_eq!(ring.after(0).len(), heard, "{worker:?}");
    }
    assert_ne!(news.told[&WorkerId(5)], newest, "it is reminded later");
    assert!(news.tell(channels()).is_empty(), "there is nothing new");
}

/// An image before this one has not said how far it had come.
#[test]
fn one_of_whom_nothing_is_known_is_reminded_although_it_does_not_listen() {
    let mut news = News::with(Ring::default());
    let (arbiter, _worker) = Channel::pair().unwrap();
    while has_room(&arbiter) {
        arbiter.send(&"x".repeat(1000)).unwrap();
    }
    news.happened(WorkerId(1), event("a"));
    assert!(news.tell([(WorkerId(1), &arbiter)].into_iter()).is_empty());
    assert_eq!(news.told[&WorkerId(1)], Mark::default());
}

#[test]
fn what_a_worker_has_not_sent_is_a_gap_in_the_numbers() {
    let mut news = News::with(Ring::starting_after(100));
    let mut late = event("a");
    late.fields.insert(UNSENT.to_owned(), FieldValue::Count(3));
    news.happened(WorkerId(1), late.clone());
    late.fields
        .insert(UNSENT.to_owned(), FieldValue::Count(u64::MAX));
    news.happened(WorkerId(1), late);
    let numbers: Vec<_> = news.events.after(0).iter().map(|e| e.number).collect();
    assert_eq!(numbers, [104, 105 + MOST_UNSENT]);
}

#[test]
fn who_lives_is_remembered_however_many_come_and_go() {
    let mut news = News::with(Ring::default());
    let who = |pid| Who {
        slot: 0,
        generation: 1,
        pid,
    };
    for number in 1..=2_000 {
        news.briefed(WorkerId(number), who(u32::try_from(number).unwrap()));
        news.keep_only(|worker| worker.0 == 1 || worker.0 == number);
    }
    assert_eq!(news.workers.len(), REMEMBERED);
    news.happened(WorkerId(1), event("a"));
    assert_eq!(news.events.after(0)[0].pid, Some(1));
}

#[test]
fn a_storm_is_told_in_rounds() {
    let mut news = News::with(Ring::default());
    assert_eq!(
        news.poll_timeout(),
        Some(Moment::default()),
        "the first at once"
    );
    (news.due, news.last_round) = (false, Some(Moment::from_nanos(1)));
    assert_eq!(news.poll_timeout(), None);
    news.happened(WorkerId(1), event("a"));
    assert_eq!(news.poll_timeout(), Some(Moment::from_nanos(1) + PAUSE));
}

#[test]
fn an_event_about_a_worker_says_who_that_is_or_was() {
    let mut news = News::with(Ring::default());
    let who = Who {
        slot: 2,
        generation: 5,
        pid: 77,
    };
    news.briefed(WorkerId(3), who);
    news.keep_only(|_| false);
    news.happened(WorkerId(3), event("a"));
    let event = &news.events.after(0)[0];
    assert_eq!(
        (event.slot, event.generation, event.pid),
        (Some(2), Some(5), Some(77))
    );
}
