//! What every worker is told about the whole service, beside its orders.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::orders::Order;
use crate::events::{LifecycleEvent, Ring};
use crate::lenient;
use crate::moment::Moment;
use crate::status::{Lease, Scope};

/// What comes over a channel from the arbiter.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Told {
    Bulletin(Box<Bulletin>),
    #[serde(untagged)]
    Order(Order),
}

/// What has changed since the last one. Whatever is in it may have been told before. A worker takes from it what it
/// can read: what the arbiter says is that of one program, and a reload makes workers of others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Bulletin {
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::list"
    )]
    pub(crate) events: Vec<LifecycleEvent>,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::list"
    )]
    pub(crate) leases: Vec<Row>,
    /// Leases that there are no more.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::list"
    )]
    pub(crate) gone: Vec<Key>,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::list"
    )]
    pub(crate) payloads: Vec<Declared>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<String>,
    /// Messages for this worker alone that workers had not sent which are gone, by their topics.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::list"
    )]
    pub(crate) unsent: Vec<(String, u64)>,
}

/// What a worker knows of the service when it is forked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Briefing {
    pub(crate) events: Ring,
    pub(crate) known: Known,
}

/// What is known of the service and not on the scoreboard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) leases: BTreeMap<Key, Row>,
    /// By the number of the worker.
    pub(crate) payloads: BTreeMap<u64, Declared>,
    /// The service in a line, without live counts.
    pub(crate) line: String,
}

/// Which lease: the payload, and the slot where each slot has one.
pub(crate) type Key = (String, Option<u32>);

/// One row of the table of leases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) lease: Lease,
    /// The moment at which it was true: its `since` counts to it.
    pub(crate) at: Moment,
}

/// The payloads of one worker's app, in the order of registration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Declared {
    pub(crate) worker: u64,
    pub(crate) names: Vec<String>,
    pub(crate) scopes: Vec<Scope>,
}

impl Bulletin {
    /// Says what the other says as well.
    pub(crate) fn append(&mut self, later: Bulletin) {
        self.events.extend(later.events);
        self.leases.extend(later.leases);
        self.gone.extend(later.gone);
        self.payloads.extend(later.payloads);
        self.line = later.line.or(self.line.take());
        self.unsent.extend(later.unsent);
    }
}

impl Known {
    /// Takes over what is to be known, and gives the events back.
    pub(crate) fn apply(&mut self, bulletin: Bulletin) -> Vec<LifecycleEvent> {
        for key in bulletin.gone {
            self.leases.remove(&key);
        }
        for row in bulletin.leases {
            self.leases.insert(row.key(), row);
        }
        for declared in bulletin.payloads {
            self.payloads.insert(declared.worker, declared);
        }
        if let Some(line) = bulletin.line {
            self.line = line;
        }
        bulletin.events
    }

    /// The table of leases, at that moment.
    pub(crate) fn leases(&self, at: Moment) -> Vec<Lease> {
        self.leases.values().map(|row| row.lease_at(at)).collect()
    }
}

impl Row {
    pub(crate) fn key(&self) -> Key {
        (self.lease.payload.clone(), self.lease.slot)
    }

    /// Whether the other says the same, at another time.
    pub(crate) fn says(&self, other: &Row) -> bool {
        fn timeless(lease: &Lease) -> Lease {
            let mut lease = lease.clone();
            if let Some(holder) = &mut lease.holder {
                holder.since = 0.0;
            }
            // Each pause comes after another failure, which is counted.
            lease.again_in = lease.again_in.map(|_| 0.0);
            lease
        }
        timeless(&self.lease) == timeless(&other.lease)
    }

    fn lease_at(&self, at: Moment) -> Lease {
        let mut lease = self.lease.clone();
        let passed = at.since(self.at).as_secs_f64();
        if let Some(holder) = &mut lease.holder {
            holder.since += passed;
        }
        lease.again_in = lease.again_in.map(|left| (left - passed).max(0.0));
        lease
    }
}
