//! What a holder leaves to the next one. Only its number and its length are known here; the shell has the bytes.
//!
//! 1. Only the holder leaves something, by its own epoch, and only the newest counts.
//! 2. It goes along with every grant of that payload, and of that slot if there is one for each, whoever gets it and
//!    how many slots there are then.
//! 3. It is discarded when it is replaced; when its slot was given up; and when the service is complete and no worker
//!    has such a payload any more. The holder must be gone by then, and a reload decided: a generation that can still
//!    be rolled back takes nothing from the one before it.
//! 4. Each one that came in belongs to one lease, or was told to be discarded, once.

use super::super::Core;
use super::super::actions::Action;
use super::super::roster::WorkerId;
use super::Lease;
use crate::lease::Deposit;

impl Core {
    /// What came out of the manager's store: the service has left it to itself. Before
    /// [`Event::Start`](super::super::Event::Start).
    /// False: there is something already.
    pub(crate) fn inherit(&mut self, payload: &str, slot: Option<u16>, deposit: Deposit) -> bool {
        let mut all = self.leases.all.iter();
        if all.any(|lease| lease.name == payload && lease.slot == slot) {
            return false;
        }
        let mut lease = Lease::new(payload, slot);
        lease.deposit = Some(deposit);
        self.leases.all.push(lease);
        true
    }

    pub(in crate::arbiter::core) fn kept(
        &mut self,
        id: WorkerId,
        grant: (u32, u64),
        deposit: Deposit,
    ) {
        let outdated = match self.leases.granted(id, grant) {
            Some(index) => self.leases.all[index].deposit.replace(deposit),
            None => Some(deposit),
        };
        if let Some(Deposit { number, .. }) = outdated {
            self.act(Action::Discard { deposit: number });
        }
    }

    pub(super) fn discard_outdated(&mut self) {
        if self.suspends_forks() {
            return;
        }
        let complete = self.slots.iter().all(|slot| slot.serving.is_some());
        let target = self.target_number();
        for index in 0..self.leases.all.len() {
            let lease = &self.leases.all[index];
            let is_given_up = lease.slot.is_some_and(|slot| slot >= target);
            let is_unknown = complete && !self.leases.is_declared(lease);
            if lease.holder.is_none()
                && (is_given_up || is_unknown)
                && let Some(Deposit { number, .. }) = self.leases.all[index].deposit.take()
            {
                self.act(Action::Discard { deposit: number });
            }
        }
    }

    /// So many leases have something to leave, or a holder that may yet leave something.
    pub(crate) fn deposits(&self) -> usize {
        let has = |lease: &&Lease| lease.deposit.is_some() || lease.holder.is_some();
        self.leases.all.iter().filter(has).count()
    }
}
