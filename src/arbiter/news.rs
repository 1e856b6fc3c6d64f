//! What the workers are told about the whole service: its lifecycle events, who has which lease, whose payloads are
//! which.
//!
//! 1. Everybody hears everything, the events in one order: the arbiter's own, and those that workers report.
//! 2. The first news after a quiet time go out at once; then they are collected for [`PAUSE`], so that the cost of a
//!    storm does not grow with its size times the number of workers.
//! 3. News never get into the way of an order: a channel in which more than [`ROOM`] waits gets none. Its worker
//!    hears what it has missed later, as far as the ring of events still has it.
//! 4. A worker that is forked knows what the arbiter knows at that moment; from there on it is told.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::Duration;

use super::core::WorkerId;
use super::shell::Shell;
use super::view;
use serde::{Deserialize, Serialize};

use crate::events::{LifecycleEvent, Ring};
use crate::ipc::bulletin::{Briefing, Bulletin, Declared, Key, Known, Row, Told};
use crate::ipc::channel::Packet;
use crate::moment::Moment;
use crate::sys::passing;
use crate::{logs, sys};

/// Between two rounds of news.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes of the kernel's memory that may wait in a channel that still gets news: a part of what one can hold, which
/// is net.core.wmem_default, about 200 KiB.
const ROOM: usize = 32 * 1024;
/// Events about a worker may come when it is gone: of how many workers is known who they were.
const REMEMBERED: usize = 1024;

/// What the arbiter knows, and how far everybody has been told.
#[derive(Debug)]
pub(super) struct News {
    events: Ring,
    known: Known,
    /// When each part of `known` has changed, by a version that rises with each change.
    version: u64,
    lease_changes: BTreeMap<Key, u64>,
    payload_changes: BTreeMap<u64, u64>,
    line_change: u64,
    told: BTreeMap<WorkerId, Mark>,
    /// The last workers, also those that are gone.
    workers: BTreeMap<u64, Who>,
    /// Somebody may not know everything.
    due: bool,
    last_round: Option<Moment>,
}

/// What goes to the next image. The rest is told anew there.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct SavedNews {
    events: Ring,
    /// The last event that each worker was told.
    told: Vec<(u64, u64)>,
    workers: BTreeMap<u64, Who>,
}

/// What an event about a worker says of it, whatever its record had.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Who {
    pub(super) slot: u32,
    pub(super) generation: u32,
    pub(super) pid: u32,
}

/// How far a worker has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    event: u64,
    version: u64,
}

impl News {
    /// Events are numbered from the time in microseconds, so that numbers rise over restarts.
    pub(super) fn new() -> Self {
        Self::with(Ring::starting_after(sys::clock::unix_micros()))
    }

    /// With what the image before has told.
    pub(super) fn restore(saved: SavedNews) -> Self {
        // An older image has none.
        let mut news = match saved.events.newest() {
            0 => Self::new(),
            _ => Self::with(saved.events),
        };
        news.told = saved
            .told
            .into_iter()
            .map(|(worker, event)| (WorkerId(worker), Mark { event, version: 0 }))
            .collect();
        news.workers = saved.workers;
        news
    }

    pub(super) fn save(&self) -> SavedNews {
        let told = self.told.iter();
        SavedNews {
            events: self.events.clone(),
            told: told.map(|(worker, mark)| (worker.0, mark.event)).collect(),
            workers: self.workers.clone(),
        }
    }

    fn with(events: Ring) -> Self {
        Self {
            events,
            known: Known::default(),
            version: 0,
            lease_changes: BTreeMap::new(),
            payload_changes: BTreeMap::new(),
            line_change: 0,
            told: BTreeMap::new(),
            workers: BTreeMap::new(),
            due: true,
            last_round: None,
        }
    }

    /// The next round, if there is something to tell.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        let next = self
            .last_round
            .map_or(Moment::default(), |last| last + PAUSE);
        self.due.then_some(next)
    }

    /// What a worker said has happened to it.
    pub(super) fn happened(&mut self, worker: WorkerId, mut event: LifecycleEvent) {
        event.worker = Some(worker.0);
        // What happened before it stands before it.
        self.collect();
        self.push(event);
    }

    /// The app of a worker has these payloads.
    pub(super) fn declared(&mut self, declared: Declared) {
        self.version += 1;
        self.payload_changes.insert(declared.worker, self.version);
        self.known.payloads.insert(declared.worker, declared);
        self.due = true;
    }

    /// The service is in another state.
    pub(super) fn changed(&mut self) {
        self.due = true;
    }

    /// What is to be known by a worker that is forked now.
    pub(super) fn briefing(&mut self) -> Briefing {
        self.collect();
        Briefing {
            events: self.events.clone(),
            known: self.known.clone(),
        }
    }

    /// It was forked, and got the briefing.
    pub(super) fn briefed(&mut self, worker: WorkerId, who: Who) {
        self.told.insert(worker, self.newest());
        self.workers.insert(worker.0, who);
        if self.workers.len() > REMEMBERED {
            self.workers.pop_first();
        }
    }

    /// Takes over what this process has logged.
    fn collect(&mut self) {
        for event in logs::take_events() {
            self.push(event);
        }
    }

    fn push(&mut self, mut event: LifecycleEvent) {
        let who = event.worker.and_then(|worker| self.workers.get(&worker));
        if let Some(who) = who {
            event.slot.get_or_insert(who.slot);
            event.pid.get_or_insert(who.pid);
            // Some records have the one that serves: the event is about the worker.
            event.generation = Some(who.generation);
        }
        self.events.push(event);
        self.due = true;
    }

    fn note_leases(&mut self, rows: Vec<Row>) {
        let known = &mut self.known.leases;
        let mut gone: Vec<Key> = known.keys().cloned().collect();
        for row in rows {
            let key = row.key();
            gone.retain(|known| *known != key);
            if !known.get(&key).is_some_and(|before| before.says(&row)) {
                self.version += 1;
                self.lease_changes.insert(key.clone(), self.version);
                known.insert(key, row);
            }
        }
        for key in gone {
            self.version += 1;
            self.known.leases.remove(&key);
            self.lease_changes.insert(key, self.version);
        }
    }

    fn note_line(&mut self, line: String) {
        if line != self.known.line {
            self.version += 1;
            self.line_change = self.version;
            self.known.line = line;
        }
    }

    fn newest(&self) -> Mark {
        Mark {
            event: self.events.newest(),
            version: self.version,
        }
    }

    /// Everything that somebody does not know who has been told so far.
    fn since(&self, mark: Mark) -> Bulletin {
        let mut bulletin = Bulletin {
            events: self
                .events
                .after(mark.event)
                .iter()
                .map(|event| (**event).clone())
                .collect(),
            line: (self.line_change > mark.version).then(|| self.known.line.clone()),
            ..Bulletin::default()
        };
        for (key, change) in &self.lease_changes {
            if *change > mark.version {
                match self.known.leases.get(key) {
                    Some(row) => bulletin.leases.push(row.clone()),
                    None => bulletin.gone.push(key.clone()),
                }
            }
        }
        for (worker, change) in &self.payload_changes {
            if *change > mark.version {
                bulletin
                    .payloads
                    .extend(self.known.payloads.get(worker).cloned());
            }
        }
        bulletin
    }

    /// Forgets workers that are gone.
    fn keep_only(&mut self, lives: impl Fn(WorkerId) -> bool) {
        self.told.retain(|worker, _| lives(*worker));
        self.payload_changes
            .retain(|worker, _| lives(WorkerId(*worker)));
        self.known
            .payloads
            .retain(|worker, _| lives(WorkerId(*worker)));
    }
}

impl Shell {
    /// After every round of events: tells the workers, if it is time.
    pub(super) fn spread_news(&mut self, now: Moment) {
        self.news.collect();
        if self.news.poll_timeout().is_some_and(|at| at <= now) {
            self.tell_workers(now);
        }
    }

    /// Tells every worker what it does not know.
    pub(super) fn tell_workers(&mut self, now: Moment) {
        self.news.collect();
        let rows = self.core.leases(now).into_iter();
        self.news
            .note_leases(rows.map(|lease| Row { lease, at: now }).collect());
        self.news.note_line(view::line(&self.core, None));
        self.news
            .keep_only(|worker| self.children.get(worker).is_some());
        self.news.last_round = Some(now);
        self.news.due = false;
        let newest = self.news.newest();
        // Most have been told the same so far: their packets are made once.
        let mut made: Option<(Mark, Vec<Packet>)> = None;
        for (worker, child) in self.children.iter() {
            let mark = self.news.told.get(&worker).copied().unwrap_or_default();
            let Some(channel) = child.channel.as_ref().filter(|_| mark != newest) else {
                continue;
            };
            if passing::unsent(channel.as_fd()).is_ok_and(|waits| waits > ROOM) {
                continue;
            }
            if made.as_ref().is_none_or(|(made_for, _)| *made_for != mark) {
                made = Some((mark, packets(self.news.since(mark))));
            }
            let packets = made.iter().flat_map(|(_, packets)| packets);
            // One that is full or gone is told later, or never; what it has heard twice by then it ignores.
            if packets
                .map(|packet| channel.send_packet(packet))
                .all(|sent| sent.is_ok())
            {
                self.news.told.insert(worker, newest);
            }
        }
    }

    /// Those that had no room get another chance.
    pub(super) fn remind_of_news(&mut self) {
        let newest = self.news.newest();
        self.news.due |= self.news.told.values().any(|mark| *mark != newest);
    }
}

/// As many packets as it takes.
fn packets(bulletin: Bulletin) -> Vec<Packet> {
    let parts = (
        bulletin.events.len(),
        bulletin.leases.len(),
        bulletin.payloads.len(),
    );
    let mut told = Told::Bulletin(Box::new(bulletin));
    match (Packet::of(&told), &mut told) {
        (Ok(packet), _) => vec![packet],
        (Err(_), Told::Bulletin(first)) if parts.0.max(parts.1).max(parts.2) > 1 => {
            let second = Bulletin {
                events: first.events.split_off(parts.0 / 2),
                leases: first.leases.split_off(parts.1 / 2),
                payloads: first.payloads.split_off(parts.2 / 2),
                ..Bulletin::default()
            };
            let first = std::mem::take(&mut **first);
            let mut all = packets(first);
            all.extend(packets(second));
            all
        }
        // One entry that no packet can hold: nothing that is sent here grows like that.
        (Err(_), _) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<(u32, f64)>) -> Row {
        let lease = serde_json::from_value(serde_json::json!({
            "payload": "p", "scope": "service", "slot": null, "finished": false, "grants": 1, "gap": 0.0,
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
    fn hear(known: &mut Known, ring: &mut Ring, packets: &[Packet]) {
        for packet in packets {
            let Told::Bulletin(bulletin) = serde_json::from_slice(packet.bytes()).unwrap() else {
                panic!("no bulletin");
            };
            for event in known.apply(*bulletin) {
                ring.add(event.into());
            }
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
            hear(&mut known, &mut ring, &packets(news.since(mark)));
            mark = news.newest();
            assert_eq!(known.leases, news.known.leases, "round {at}");
            assert_eq!(known.line, news.known.line);
            assert_eq!(ring.after(0), news.events.after(0));
        }
        assert_eq!(
            news.since(mark),
            Bulletin::default(),
            "nothing is told twice"
        );
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
        let packets = packets(news.since(Mark::default()));
        assert!(packets.len() > 10);
        let (mut known, mut ring) = (Known::default(), Ring::default());
        hear(&mut known, &mut ring, &packets);
        assert_eq!(ring.after(0), news.events.after(0));
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
}
