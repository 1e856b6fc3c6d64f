//! Among how many slots work is shared, and how that number changes.
//!
//! 1. More slots count when all of them serve, fewer at once.
//! 2. A share that cannot be started again in its worker goes on with the number before, and so do all others, until
//!    every such worker has a successor that is prepared. Then the successors serve, and all start anew together: nobody
//!    waits for a boot.
//! 3. So long a worker whose slot was given up keeps its share, too.

use super::super::Core;
use super::super::roster::{Slot, WorkerId};
use super::Lease;
use crate::ipc::orders::Recycle;

impl Core {
    /// Changes the number, or has done what has to come before that.
    pub(in crate::arbiter::core) fn settle_shares(&mut self) {
        if !self.was_ready || !self.shares_are_outdated() {
            return;
        }
        let is_bound = |slot: &&Slot| self.is_bound(slot);
        let mut bound = self.slots.iter().filter(is_bound);
        if bound.all(|slot| self.prepared(slot).is_some()) {
            self.leases.shares = self.target_number();
            return;
        }
        for index in 0..self.slots.len() {
            if self.is_bound(&self.slots[index]) {
                self.slots[index].recycle = Some(Recycle::Slots);
            }
        }
    }

    /// A successor that is prepared does not serve before the others can as well.
    pub(in crate::arbiter::core) fn waits_to_share(&self, slot: &Slot) -> bool {
        self.shares_are_outdated() && self.is_bound(slot)
    }

    /// It keeps its share until the others can do without it.
    pub(in crate::arbiter::core) fn keeps_its_share(&self, id: WorkerId) -> bool {
        let given_up = |lease: &Lease| lease.slot.is_some_and(|slot| slot >= self.target_number());
        let mut all = self.leases.all.iter();
        self.shares_are_outdated() && all.any(|lease| given_up(lease) && lease.is_held_by(id))
    }

    fn shares_are_outdated(&self) -> bool {
        let (slots, shares) = (self.slots.len(), usize::from(self.leases.shares));
        let mut more = self.slots.iter().skip(shares);
        slots < shares || (slots > shares && more.all(|slot| slot.serving.is_some()))
    }

    /// Who serves there has a share that it cannot start with another number.
    fn is_bound(&self, slot: &Slot) -> bool {
        let Some(id) = slot.serving else { return false };
        let mut shares = self.leases.all.iter().filter(|lease| lease.slot.is_some());
        shares.any(|lease| {
            let want = self.leases.want(id, lease);
            lease.is_held_by(id) && want.is_some_and(|want| want.once)
        })
    }
}
