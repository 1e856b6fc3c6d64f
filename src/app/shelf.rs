//! Where a payload that needs a lease keeps something for whoever has the lease next.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::kept::{Kept, MOST};
use crate::status::Scope;

/// Takes over what a holder keeps: whoever gives the leases has it from then on, also when this process dies.
/// Called from the author's code, so it must not wait.
pub(crate) trait Custodian: Send + Sync {
    /// For the lease of this payload that has this epoch.
    ///
    /// # Errors
    /// It cannot be taken over now. What was kept before stays.
    fn keep(&self, payload: u32, epoch: u64, kept: &Arc<Kept>) -> io::Result<()>;
}

/// One payload's. All attempts have the same.
#[derive(Clone)]
pub(super) struct Shelf(Arc<Place>);

struct Place {
    payload: u32,
    name: Arc<str>,
    scope: Scope,
    /// The worker's.
    slot: u32,
    custodian: Option<Arc<dyn Custodian>>,
    state: Mutex<Shelved>,
}

#[derive(Default)]
struct Shelved {
    /// Of the lease that this app has now.
    epoch: Option<u64>,
    newest: Option<Arc<Kept>>,
}

/// Why something was not kept. What was kept before still is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// There are too many bytes.
    #[error("{length} bytes are too many to keep: {most} is the limit")]
    TooLong {
        /// So many it should have been.
        length: usize,
        /// [`PayloadContext::MOST_KEPT`](crate::PayloadContext::MOST_KEPT).
        most: usize,
    },
    /// The payload has no lease (any more): it was given back, and belongs to somebody else by now.
    #[error("only the holder of a lease can keep something")]
    NoLease,
    /// The payload runs in every worker, and so has no successor that something could be kept for.
    #[error(
        "payload '{payload}' runs in every worker and has no lease to keep something under: give it \
         .scope(Scope::Service) or .scope(Scope::Slot)"
    )]
    EveryWorker {
        /// Its name.
        payload: String,
    },
    /// The arbiter cannot take it now, or there is no memory or no descriptor for it.
    #[error("hand over what is to be kept")]
    System(#[source] io::Error),
}

impl Shelf {
    pub(super) fn new(
        payload: u32,
        name: &Arc<str>,
        scope: Scope,
        slot: u32,
        custodian: Option<Arc<dyn Custodian>>,
    ) -> Self {
        Self(Arc::new(Place {
            payload,
            name: Arc::clone(name),
            scope,
            slot,
            custodian,
            state: Mutex::default(),
        }))
    }

    /// The lease is here, with what its last holder has kept.
    pub(super) fn open(&self, epoch: u64, kept: Option<Arc<Kept>>) {
        *self.state() = Shelved {
            epoch: Some(epoch),
            newest: kept,
        };
    }

    /// The lease is about to be given back: from now on nothing is kept in its name.
    pub(super) fn close(&self) {
        *self.state() = Shelved::default();
    }

    pub(super) fn keep(&self, epoch: u64, bytes: &[u8]) -> Result<(), KeepError> {
        let slot = match self.0.scope {
            Scope::Worker => {
                let payload = self.0.name.to_string();
                return Err(KeepError::EveryWorker { payload });
            }
            Scope::Slot => Some(self.0.slot),
            Scope::Service => None,
        };
        if bytes.len() > MOST {
            return Err(KeepError::TooLong {
                length: bytes.len(),
                most: MOST,
            });
        }
        let Place {
            payload,
            name,
            custodian,
            ..
        } = &*self.0;
        let kept = Kept::write(name, slot, bytes).map_err(KeepError::System)?;
        let kept = Arc::new(kept);
        // Held over the handover: the order in which it arrives is the order in which it is remembered here.
        let mut state = self.state();
        if state.epoch != Some(epoch) {
            return Err(KeepError::NoLease);
        }
        if let Some(custodian) = custodian {
            custodian
                .keep(*payload, epoch, &kept)
                .map_err(KeepError::System)?;
        }
        state.newest = Some(kept);
        Ok(())
    }

    pub(super) fn kept(&self, epoch: u64) -> Option<Bytes> {
        let newest = {
            let state = self.state();
            state.newest.clone().filter(|_| state.epoch == Some(epoch))
        };
        match newest?.bytes() {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                tracing::error!(payload = &*self.0.name, error = %error, "what was kept cannot be read");
                None
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, Shelved> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf")
            .field("payload", &self.0.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps nothing, and says how often it was asked; or refuses.
    #[derive(Default)]
    struct Counter {
        count: Mutex<u32>,
        refuses: bool,
    }

    impl Custodian for Counter {
        fn keep(&self, _: u32, _: u64, _: &Arc<Kept>) -> io::Result<()> {
            *self.count.lock().unwrap() += 1;
            match self.refuses {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(()),
            }
        }
    }

    fn shelf(custodian: Arc<Counter>) -> Shelf {
        Shelf::new(0, &Arc::from("p"), Scope::Service, 0, Some(custodian))
    }

    #[test]
    fn only_the_holder_keeps_and_sees_something() {
        let counter = Arc::new(Counter::default());
        let shelf = shelf(counter.clone());
        assert!(matches!(shelf.keep(1, b"x"), Err(KeepError::NoLease)));
        let before = Arc::new(Kept::write("p", None, b"before").unwrap());
        shelf.open(1, Some(before.clone()));
        assert_eq!(shelf.kept(1).unwrap(), "before");
        shelf.keep(1, b"mine").unwrap();
        assert_eq!(shelf.kept(1).unwrap(), "mine");
        assert!(matches!(shelf.keep(2, b"x"), Err(KeepError::NoLease)));
        shelf.close();
        assert!(matches!(shelf.keep(1, b"late"), Err(KeepError::NoLease)));
        assert_eq!(shelf.kept(1), None);
        shelf.open(2, None);
        assert!(matches!(shelf.keep(1, b"late"), Err(KeepError::NoLease)));
        assert_eq!((shelf.kept(1), shelf.kept(2)), (None, None));
        assert_eq!(*counter.count.lock().unwrap(), 1);
    }

    #[test]
    fn a_payload_of_every_worker_is_told_what_it_needs() {
        let shelf = Shelf::new(0, &Arc::from("tick"), Scope::Worker, 0, None);
        assert_eq!(
            shelf.keep(0, b"x").unwrap_err().to_string(),
            "payload 'tick' runs in every worker and has no lease to keep something under: give it \
             .scope(Scope::Service) or .scope(Scope::Slot)"
        );
    }

    #[test]
    fn what_is_too_long_or_cannot_be_handed_over_changes_nothing() {
        let refuses = Counter {
            refuses: true,
            ..Counter::default()
        };
        let shelf = shelf(Arc::new(refuses));
        shelf.open(1, Some(Arc::new(Kept::write("p", None, b"old").unwrap())));
        let error = shelf.keep(1, &vec![0; MOST + 1]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "16777217 bytes are too many to keep: 16777216 is the limit"
        );
        assert!(matches!(shelf.keep(1, b"new"), Err(KeepError::System(_))));
        assert_eq!(shelf.kept(1).unwrap(), "old");
    }
}
