//! An app's end of its leases: grants come in from any thread, and each is given back exactly once, when its
//! payload does not run any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::shelf::{Custodian, Shelf};
use crate::kept::Kept;
use crate::lease::Grant;
use crate::status::Scope;

/// One for each app, made before it is loaded.
pub(crate) struct Leases {
    /// The worker's slot, and how many there were when it was started.
    pub(super) slot: u32,
    pub(super) slots: u32,
    /// By the payload's place in the order of registration.
    trays: Mutex<BTreeMap<u32, Entry>>,
    custodian: Option<Arc<dyn Custodian>>,
}

/// A lease as it comes, with what its last holder has kept.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    pub(super) grant: Grant,
    pub(super) kept: Option<Arc<Kept>>,
}

#[derive(Clone)]
struct Entry {
    payload: Arc<str>,
    tray: Arc<watch::Sender<Tray>>,
}

/// What lies between whoever grants and one payload's supervisor.
#[derive(Default)]
struct Tray {
    grant: Option<Granted>,
    /// The supervisor has seen it.
    taken: bool,
    /// It is to be given back.
    revoked: bool,
    /// No supervisor will come for it any more.
    closed: bool,
}

/// The supervisor's side of a tray.
pub(super) struct Seat {
    tray: Arc<watch::Sender<Tray>>,
    changes: watch::Receiver<Tray>,
}

impl Leases {
    /// For an app in this slot of so many.
    pub(crate) fn new(slot: u32, slots: u32) -> Self {
        Self {
            slot,
            slots,
            trays: Mutex::default(),
            custodian: None,
        }
    }

    /// The same, where somebody takes over what the app's payloads keep.
    pub(crate) fn with_custodian(self, custodian: Arc<dyn Custodian>) -> Self {
        Self {
            custodian: Some(custodian),
            ..self
        }
    }

    /// Where that payload keeps something.
    pub(super) fn shelf(&self, number: u32, payload: &Arc<str>, scope: Scope) -> Shelf {
        Shelf::new(number, payload, scope, self.slot, self.custodian.clone())
    }

    /// Opens a payload's tray.
    pub(super) fn open(&self, number: u32, payload: &Arc<str>) -> Seat {
        let tray = Arc::new(watch::Sender::new(Tray::default()));
        let entry = Entry {
            payload: Arc::clone(payload),
            tray: Arc::clone(&tray),
        };
        self.trays().insert(number, entry);
        Seat {
            changes: tray.subscribe(),
            tray,
        }
    }

    /// Lets the payload run. False: its supervisor has left, and the grant is free again.
    pub(crate) fn grant(&self, payload: u32, grant: Grant, kept: Option<Arc<Kept>>) -> bool {
        self.change(payload, |tray| {
            if tray.closed {
                return false;
            }
            *tray = Tray {
                grant: Some(Granted { grant, kept }),
                ..Tray::default()
            };
            true
        })
    }

    /// Has the payload stopped, if it runs under this grant. What comes of it is the supervisor's to say.
    pub(crate) fn revoke(&self, payload: u32, epoch: u64) {
        self.change(payload, |tray| {
            let granted = tray.grant.as_ref();
            let held = granted.is_some_and(|granted| granted.grant.epoch == epoch);
            tray.revoked |= held;
            held
        });
    }

    /// The payloads that need a lease, by number and name.
    pub(crate) fn payloads(&self) -> Vec<(u32, Arc<str>)> {
        let trays = self.trays();
        let named = trays
            .iter()
            .map(|(number, entry)| (*number, Arc::clone(&entry.payload)));
        named.collect()
    }

    fn change(&self, payload: u32, change: impl FnOnce(&mut Tray) -> bool) -> bool {
        let entry = self.trays().get(&payload).cloned();
        entry.is_some_and(|entry| entry.tray.send_if_modified(change))
    }

    fn trays(&self) -> MutexGuard<'_, BTreeMap<u32, Entry>> {
        self.trays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The next grant. Cancel-safe: one that is not waited for is still there.
    pub(super) async fn granted(&mut self) -> Granted {
        loop {
            let waits = |tray: &Tray| tray.grant.is_some() && !tray.taken;
            // The sender is here.
            let _ = self.changes.wait_for(waits).await;
            if let Some(grant) = self.take() {
                return grant;
            }
        }
    }

    /// Resolves when the grant that was taken is to be given back.
    pub(super) fn revoked(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut changes = self.changes.clone();
        async move {
            let _ = changes.wait_for(|tray| tray.revoked).await;
        }
    }

    /// The payload does not run any more: the tray is ready for the next grant.
    pub(super) fn clear(&mut self) {
        self.tray.send_modify(|tray| *tray = Tray::default());
    }

    /// No grant will be taken any more. Gives back the one that lies there.
    pub(super) fn close(&mut self) -> Option<Grant> {
        let mut left = None;
        self.tray.send_modify(|tray| {
            tray.closed = true;
            left = tray.grant.take_if(|_| !tray.taken);
        });
        left.map(|granted| granted.grant)
    }

    fn take(&mut self) -> Option<Granted> {
        let mut grant = None;
        self.tray.send_modify(|tray| {
            grant = tray.grant.clone().filter(|_| !tray.taken);
            tray.taken = true;
        });
        grant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Grant = Grant { epoch: 1, slots: 2 };
    const SECOND: Grant = Grant { epoch: 2, slots: 2 };

    #[tokio::test]
    async fn a_grant_is_taken_once_and_revoked_by_its_own_epoch() {
        let leases = Leases::new(0, 2);
        let mut seat = leases.open(3, &Arc::from("p"));
        assert!(leases.grant(3, FIRST, None));
        assert_eq!(seat.granted().await.grant, FIRST);
        leases.revoke(3, 7);
        tokio::select! {
            biased;
            () = seat.revoked() => panic!("it was another grant"),
            _ = seat.granted() => panic!("it was taken already"),
            () = std::future::ready(()) => {}
        }
        leases.revoke(3, 1);
        seat.revoked().await;
        seat.clear();
        assert!(leases.grant(3, SECOND, None));
        assert_eq!(seat.granted().await.grant, SECOND);
    }

    #[tokio::test]
    async fn one_that_is_revoked_before_it_was_seen_is_seen_revoked() {
        let leases = Leases::new(0, 2);
        let mut seat = leases.open(0, &Arc::from("p"));
        leases.grant(0, FIRST, None);
        leases.revoke(0, 1);
        assert_eq!(seat.granted().await.grant, FIRST);
        seat.revoked().await;
    }

    #[test]
    fn a_grant_that_comes_too_late_is_refused_or_found_at_the_end() {
        let leases = Leases::new(0, 2);
        let mut seat = leases.open(0, &Arc::from("p"));
        assert!(leases.grant(0, FIRST, None));
        assert_eq!(seat.close(), Some(FIRST));
        assert!(!leases.grant(0, SECOND, None));
        assert!(!leases.grant(9, SECOND, None), "there is no such payload");
    }
}
