//! What a pretended worker's app does with its leases, and the proof that no two do the same at the same time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::backoff::Random;
use super::events::Event;
use super::lease::Want;
use super::roster::WorkerId;
use crate::ipc::orders::Order;
use crate::lease::{Grant, Released};
use crate::status::Scope;

/// The one that has something to do once.
const ONCE: &str = "migration";

pub(super) struct Tenant {
    slot: u16,
    pub(super) wants: Vec<Want>,
    /// Sent and not looked at yet.
    orders: VecDeque<Order>,
    /// The payloads that run, and those of them that are to stop.
    running: BTreeMap<u32, (Grant, bool)>,
    /// Its program does not say which of its payloads can be started only once.
    older: bool,
    /// Those that cannot be started again.
    spent: BTreeSet<u32>,
    /// Those that have given their lease back, and nobody will ever hear it.
    unheard: BTreeSet<u32>,
    /// It has no room for what comes along with a lease.
    full: bool,
    /// It was told to give back what it had given back already.
    pub(super) crossed: bool,
}

/// Who runs a payload, for which slot.
type Seen = (WorkerId, Option<u16>, Grant);

/// What is said about a payload and its grant.
pub(super) enum Word {
    /// It has kept something.
    Keeps(u32, u64),
    /// Its lease comes back.
    Back(u32, u64, Released),
}

/// What one generation's app is made of.
pub(super) fn app(random: &mut Random, older: bool) -> Vec<Want> {
    let all = [
        ("scheduler", Scope::Service, 0.9),
        (ONCE, Scope::Service, 0.5),
        ("consumer", Scope::Slot, 0.7),
        ("cleaner", Scope::Slot, 0.3),
    ];
    let mut wants = Vec::new();
    for ((name, scope, share), payload) in all.into_iter().zip(3..) {
        let other = random.fraction() < 0.1;
        if random.fraction() > share {
            continue;
        }
        let scope = match scope {
            Scope::Slot if other => Scope::Service,
            Scope::Service if other => Scope::Slot,
            scope => scope,
        };
        wants.push(Want {
            payload,
            name: name.to_owned(),
            scope,
            once: !older && random.fraction() < 0.5,
        });
    }
    wants
}

/// Where something may have been left.
pub(super) fn places() -> impl Iterator<Item = (&'static str, Option<u16>)> {
    let slots = ["consumer", "cleaner"].into_iter();
    let slots = slots.flat_map(|name| (0..5).map(move |slot| (name, Some(slot))));
    ["scheduler", ONCE, "consumer", "forgotten"]
        .map(|name| (name, None))
        .into_iter()
        .chain(slots)
}

/// Over all workers that are not gone, whatever the core thinks of them.
pub(super) fn check<'a>(tenants: impl Iterator<Item = (WorkerId, &'a Tenant)>) {
    let mut seen: BTreeMap<&str, Vec<Seen>> = BTreeMap::new();
    for (id, tenant) in tenants {
        for want in &tenant.wants {
            let Some((grant, _)) = tenant.running.get(&want.payload) else {
                continue;
            };
            let slot = (want.scope == Scope::Slot).then_some(tenant.slot);
            let others = seen.entry(&want.name).or_default();
            for (other, taken, theirs) in &*others {
                let disjoint = slot.is_some() && taken.is_some() && slot != *taken;
                assert!(
                    disjoint && theirs.slots == grant.slots,
                    "'{}' runs in worker {id} ({slot:?}, {grant:?}) and in worker {other} ({taken:?}, {theirs:?})",
                    want.name
                );
            }
            others.push((id, slot, *grant));
        }
    }
}

impl Tenant {
    pub(super) fn new(slot: u16, wants: Vec<Want>, older: bool) -> Self {
        Self {
            slot,
            wants,
            older,
            orders: VecDeque::new(),
            running: BTreeMap::new(),
            spent: BTreeSet::new(),
            unheard: BTreeSet::new(),
            full: false,
            crossed: false,
        }
    }

    pub(super) fn hear(&mut self, order: Order) {
        self.orders.push_back(order);
    }

    /// Nothing runs in it any more. True: a grant was on its way.
    pub(super) fn die(&mut self) -> bool {
        let is_grant = |order: &Order| matches!(order, Order::Grant { .. });
        let lost = self.orders.iter().any(is_grant);
        self.orders.clear();
        self.running.clear();
        self.unheard.clear();
        lost
    }

    /// What it says is never heard.
    pub(super) fn lose(&mut self, event: &Event) {
        if let Event::Released { payload, .. } = event {
            self.unheard.insert(*payload);
        }
    }

    /// What it could run if it was told to: the lease's slot, and the payload.
    pub(super) fn able(&self) -> impl Iterator<Item = (Option<u16>, &Want)> {
        let able = |want: &&Want| !self.full && !self.spent.contains(&want.payload);
        self.wants.iter().filter(able).map(|want| self.place(want))
    }

    /// What it could run in its slot, if it had not run it before.
    pub(super) fn spent(&self) -> impl Iterator<Item = (Option<u16>, &Want)> {
        let spent = |want: &&Want| self.spent.contains(&want.payload);
        let spent = self.wants.iter().filter(spent);
        spent
            .map(|want| self.place(want))
            .filter(|(slot, _)| slot.is_some())
    }

    /// What it runs.
    pub(super) fn running(&self) -> impl Iterator<Item = (Option<u16>, &Want, Grant)> {
        self.wants.iter().filter_map(|want| {
            let (grant, _) = self.running.get(&want.payload)?;
            Some((self.place(want).0, want, *grant))
        })
    }

    /// What does not run here, and nobody else may run before that is heard.
    pub(super) fn withheld(&self) -> impl Iterator<Item = &Want> {
        self.wants.iter().filter(|want| {
            let waits = |order: &Order| {
                matches!(order, Order::Grant { payload, .. } if *payload == want.payload)
            };
            self.unheard.contains(&want.payload) || self.orders.iter().any(waits)
        })
    }

    /// Looks at its orders and its payloads; what comes back is free from now on.
    pub(super) fn work(&mut self, random: &mut Random, serves: bool, trouble: f64) -> Vec<Word> {
        let mut back = Vec::new();
        self.full = trouble > 0.0 && self.full != (random.fraction() < trouble);
        while let Some(order) = self.orders.pop_front() {
            match order {
                Order::Grant { payload, grant, .. } if serves && self.full => {
                    back.push(Word::Back(payload, grant.epoch, Released::NotTaken));
                }
                Order::Grant { payload, grant, .. } if serves => {
                    let before = self.running.insert(payload, (grant, false));
                    assert!(before.is_none(), "granted twice: {grant:?}");
                }
                Order::Grant { payload, grant, .. } => {
                    self.spent.insert(payload);
                    back.push(Word::Back(payload, grant.epoch, Released::Spent));
                }
                Order::Revoke { payload, epoch } => {
                    let mut running = self.running.get_mut(&payload);
                    let held = running.take_if(|(grant, _)| grant.epoch == epoch);
                    self.crossed |= held.is_none();
                    if let Some((_, stops)) = held {
                        *stops = true;
                    }
                }
                _ => {}
            }
        }
        let wants = self.wants.clone();
        for want in wants {
            let Some((grant, stops)) = self.running.get(&want.payload).copied() else {
                continue;
            };
            if random.fraction() < 0.3 {
                back.push(Word::Keeps(want.payload, grant.epoch));
            }
            let luck = random.fraction();
            let how = if !serves && luck < 0.4 {
                Released::Spent
            } else if stops && luck < 0.5 {
                if want.once || (self.older && want.payload % 2 == 1) {
                    Released::Spent
                } else {
                    Released::Stopped
                }
            } else if serves && !stops && want.name == ONCE && luck < 0.2 {
                Released::Finished
            } else if serves && luck < trouble / 2.0 {
                Released::Failed
            } else if serves && luck < trouble * 0.6 {
                // It is of a newer program.
                Released::Unknown
            } else {
                continue;
            };
            self.running.remove(&want.payload);
            if matches!(how, Released::Spent | Released::Failed) {
                self.spent.insert(want.payload);
            }
            back.push(Word::Back(want.payload, grant.epoch, how));
            // Somebody who has not heard of it yet.
            if random.fraction() < 0.1 {
                back.push(Word::Keeps(want.payload, grant.epoch));
            }
            if how == Released::Failed {
                break;
            }
        }
        // A lie about something that is long over.
        if random.fraction() < trouble
            && let Some(want) = self.wants.first()
        {
            back.push(Word::Back(want.payload, 0, Released::Stopped));
            back.push(Word::Keeps(want.payload, 0));
        }
        back
    }

    fn place<'a>(&self, want: &'a Want) -> (Option<u16>, &'a Want) {
        let slot = (want.scope == Scope::Slot).then_some(self.slot);
        (slot, want)
    }
}
