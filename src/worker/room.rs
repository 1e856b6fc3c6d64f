//! How many connections the worker may hold, and what happens when it is given more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of a worker.
///
/// Accepting takes a place and waits for one if there is none. A connection that another worker hands on is taken
/// all the same, since the service as a whole gets no more by it: then a place is *owed*, and the next
/// connection that ends pays for it instead of making room for a new one.
#[derive(Debug)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    most: usize,
    owed: AtomicUsize,
}

/// What a connection holds for as long as it is open.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    /// `None`: it was owed when the connection came.
    permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let most = most.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            places: Arc::new(Semaphore::new(most)),
            most,
            owed: AtomicUsize::new(0),
        })
    }

    /// A place, if one is free.
    pub(super) fn take(self: &Arc<Self>) -> Option<Place> {
        let permit = self.places.clone().try_acquire_owned().ok()?;
        Some(Place {
            room: self.clone(),
            permit: Some(permit),
        })
    }

    /// A place, owed if none is free.
    pub(super) fn take_or_owe(self: &Arc<Self>) -> Place {
        self.take().unwrap_or_else(|| {
            self.owed.fetch_add(1, Relaxed);
            Place {
                room: self.clone(),
                permit: None,
            }
        })
    }

    pub(super) fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// Until a place is free. It may be gone again at once. Cancel-safe.
    pub(super) async fn wait(&self) {
        // Never closed; given back at once.
        let _ = self.places.acquire().await;
    }

    /// Places that are taken, without those that are owed.
    pub(super) fn taken(&self) -> usize {
        self.most - self.places.available_permits().min(self.most)
    }

    /// True when a place was owed: whoever ends pays with its own.
    fn pay(&self) -> bool {
        let less = |owed: usize| owed.checked_sub(1);
        self.owed.fetch_update(Relaxed, Relaxed, less).is_ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let paid = self.room.pay();
        match self.permit.take() {
            Some(permit) if paid => permit.forget(),
            Some(_) => {}
            // Somebody has paid for this one before.
            None if !paid => self.room.places.add_permits(1),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_owed_is_paid_by_whoever_ends_next() {
        for held_end_first in [false, true] {
            let room = Room::new(2);
            let held: Vec<Place> = std::iter::from_fn(|| room.take()).collect();
            assert_eq!(held.len(), 2);
            let given: Vec<Place> = (0..2).map(|_| room.take_or_owe()).collect();
            assert!(room.is_full());
            let (first, second) = if held_end_first {
                (held, given)
            } else {
                (given, held)
            };
            drop(first);
            assert!(room.take().is_none(), "two are open, and two may be");
            drop(second);
            assert_eq!(room.taken(), 0);
            let again: Vec<Place> = std::iter::from_fn(|| room.take()).collect();
            assert_eq!(again.len(), 2, "as many as before");
        }
    }
}
