//! What the workers are told about the whole service: its lifecycle events, who has which lease, whose payloads are
//! which.
//!
//! 1. Everybody hears everything, the events in one order: the arbiter's own, and those that workers report.
//! 2. The first news after a quiet time go out at once; then they are collected for [`PAUSE`], so that the cost of a
//!    storm does not grow with its size times the number of workers.
//! 3. News never get into the way of an order: a channel in which more than [`ROOM`](pieces::ROOM) waits gets no piece of them. Its
//!    worker hears what it has missed later, as far as the ring of events still has it, and nothing twice.
//! 4. A worker that is forked knows what the arbiter knows at that moment; from there on it is told.

mod pieces;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(super) use self::pieces::has_room;
use self::pieces::{Backlogs, Mark, Piece, pieces, tell};
use super::core::WorkerId;
use super::shell::Shell;
use super::view;
use serde::{Deserialize, Serialize};

use crate::events::{FieldValue, LifecycleEvent, Ring, UNSENT};
use crate::ipc::bulletin::{Briefing, Bulletin, Declared, Key, Known, Row};
use crate::ipc::channel::Channel;
use crate::ipc::failures::Failures;
use crate::moment::Moment;
use crate::{logs, sys};

/// Between two rounds of news.
const PAUSE: Duration = Duration::from_millis(50);
/// Events about a worker may come when it is gone: of how many workers is known who they were.
const REMEMBERED: usize = 1024;
/// What a worker has not sent. More at once is no count, and would carry the numbers far away from the time.
const MOST_UNSENT: u64 = 1_000_000;

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
    failures: Failures,
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
        let failures = events.after(0).iter().map(Arc::as_ref).collect();
        Self {
            events,
            known: Known::default(),
            version: 0,
            lease_changes: BTreeMap::new(),
            payload_changes: BTreeMap::new(),
            line_change: 0,
            told: BTreeMap::new(),
            workers: BTreeMap::new(),
            failures,
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
        if let Some(FieldValue::Count(unsent)) = event.fields.get(UNSENT) {
            self.events.skip((*unsent).min(MOST_UNSENT));
        }
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
            // Who lives is told, and may have much to say yet.
            let is_gone = |number: &&u64| !self.told.contains_key(&WorkerId(**number));
            if let Some(oldest) = self.workers.keys().find(is_gone).copied() {
                self.workers.remove(&oldest);
            }
        }
    }

    /// Takes over what this process has logged.
    fn collect(&mut self) {
        let (events, lost) = logs::take_events();
        for event in events {
            self.push(event);
        }
        self.events.skip(lost);
    }

    fn push(&mut self, mut event: LifecycleEvent) {
        let who = event.worker.and_then(|worker| self.workers.get(&worker));
        if let Some(who) = who {
            event.slot.get_or_insert(who.slot);
            event.pid.get_or_insert(who.pid);
            // Some records have the one that serves: the event is about the worker.
            event.generation = Some(who.generation);
        }
        self.failures.note(&event);
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

    /// How payloads have failed last.
    pub(super) fn failures(&self) -> &Failures {
        &self.failures
    }

    fn newest(&self) -> Mark {
        Mark {
            event: self.events.newest(),
            version: self.version,
        }
    }

    /// Everything that somebody does not know who has been told so far, in pieces: what has changed, in the order in
    /// which it has, and then what has happened, so that who is woken by an event sees what it is about.
    fn since(&self, mark: Mark) -> Vec<Piece> {
        let mut changes: Vec<(u64, Bulletin)> = Vec::new();
        if self.line_change > mark.version {
            let line = Some(self.known.line.clone());
            let line = Bulletin {
                line,
                ..Bulletin::default()
            };
            changes.push((self.line_change, line));
        }
        for (key, change) in self.lease_changes.iter() {
            let row = self.known.leases.get(key).cloned();
            let lease = Bulletin {
                gone: if row.is_none() {
                    vec![key.clone()]
                } else {
                    vec![]
                },
                leases: row.into_iter().collect(),
                ..Bulletin::default()
            };
            changes.push((*change, lease));
        }
        for (worker, change) in &self.payload_changes {
            let payloads = self.known.payloads.get(worker).cloned();
            let payloads = Bulletin {
                payloads: payloads.into_iter().collect(),
                ..Bulletin::default()
            };
            changes.push((*change, payloads));
        }
        changes.retain(|(version, _)| *version > mark.version);
        changes.sort_by_key(|(version, _)| *version);
        let mut until = mark;
        let changes = changes.into_iter().map(|(version, change)| {
            until.version = version;
            (until, change)
        });
        let mut entries: Vec<(Mark, Bulletin)> = changes.collect();
        let events = self.events.after(mark.event).into_iter().map(|event| {
            let until = Mark {
                event: event.number,
                version: self.version,
            };
            let event = Bulletin {
                events: vec![Arc::unwrap_or_clone(event)],
                ..Bulletin::default()
            };
            (until, event)
        });
        entries.extend(events);
        pieces(entries)
    }

    /// Tells everybody what it does not know, as far as there is room for it. The packets are made once for all that
    /// have been told the same so far, and none for a worker that takes nothing; what was made is the answer.
    fn tell<'a>(&mut self, channels: impl Iterator<Item = (WorkerId, &'a Channel)>) -> Backlogs {
        let newest = self.newest();
        let mut backlogs = Backlogs::new();
        for (worker, channel) in channels {
            // Also who takes nothing has its mark: it is reminded now and then.
            let mut told = *self.told.entry(worker).or_default();
            if told == newest || !has_room(channel) {
                continue;
            }
            let backlog = backlogs.entry(told).or_insert_with(|| self.since(told));
            // Who takes some takes more in the next round.
            self.due |= tell(channel, backlog, &mut told, newest);
            self.told.insert(worker, told);
        }
        backlogs
    }

    /// Forgets workers that are gone.
    fn keep_only(&mut self, lives: impl Fn(WorkerId) -> bool) {
        self.told.retain(|worker, _| lives(*worker));
        self.failures.keep_only(|worker| lives(WorkerId(worker)));
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
        let children = self.children.iter();
        let channels =
            children.filter_map(|(worker, child)| Some((worker, child.channel.as_ref()?)));
        self.news.tell(channels);
    }

    /// Those that had no room get another chance.
    pub(super) fn remind_of_news(&mut self) {
        let newest = self.news.newest();
        self.news.due |= self.news.told.values().any(|mark| *mark != newest);
    }
}

#[cfg(test)]
mod tests;
