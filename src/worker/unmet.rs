//! Workers whose mailboxes did not come along with the arbiter's word of them: it is asked for them again.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::ipc::channel::{Channel, Report};
use crate::sys::passing;

/// An arbiter that has no room for the question has it later.
const AGAIN: Duration = Duration::from_secs(1);

/// Those that it could not be asked for yet.
#[derive(Debug, Default)]
pub(super) struct Unmet {
    workers: BTreeSet<u64>,
    ask_at: Option<Instant>,
}

impl Unmet {
    /// When [`ask`](Self::ask) is due.
    pub(super) fn ask_at(&self) -> Option<Instant> {
        self.ask_at
    }

    /// Asks for that worker's mailbox, now or later.
    pub(super) fn add(&mut self, worker: u64, channel: &Channel) {
        self.workers.insert(worker);
        self.ask(channel);
    }

    /// Asks for all that is missing, as far as there is room.
    pub(super) fn ask(&mut self, channel: &Channel) {
        self.ask_at = None;
        while let Some(worker) = self.workers.first().copied() {
            match channel.send(&Report::Unmet { worker }) {
                Ok(()) => drop(self.workers.pop_first()),
                Err(error) if is_passing(&error) => {
                    tracing::debug!(to = worker, error = %error, "the arbiter cannot be asked for a worker's mailbox now");
                    self.ask_at = Some(Instant::now() + AGAIN);
                    return;
                }
                // It is gone, and introduces nobody any more.
                Err(error) => {
                    tracing::debug!(to = worker, error = %error, "the arbiter cannot be asked for a worker's mailbox");
                    self.workers.clear();
                }
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || passing::is_shortage(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::channel::Received;

    fn asked(arbiter: &Channel) -> Vec<u64> {
        let mut asked = Vec::new();
        while let (Received::Message(report), _) = arbiter.receive_with().unwrap() {
            if let Report::Unmet { worker } = report {
                asked.push(worker);
            }
        }
        asked
    }

    #[test]
    fn an_arbiter_that_does_not_read_is_asked_when_it_does() {
        let (arbiter, worker) = Channel::pair().unwrap();
        let mut unmet = Unmet::default();
        unmet.add(3, &worker);
        assert_eq!((asked(&arbiter), unmet.ask_at()), (vec![3], None));
        while worker.send(&Report::Paused { round: 1 }).is_ok() {}
        unmet.add(5, &worker);
        unmet.add(4, &worker);
        assert!(unmet.ask_at().is_some() && asked(&arbiter).is_empty());
        unmet.ask(&worker);
        assert_eq!((asked(&arbiter), unmet.ask_at()), (vec![4, 5], None));
        unmet.ask(&worker);
        assert!(asked(&arbiter).is_empty(), "once");
    }

    #[test]
    fn an_arbiter_that_is_gone_is_not_asked_for_ever() {
        let (arbiter, worker) = Channel::pair().unwrap();
        drop(arbiter);
        let mut unmet = Unmet::default();
        unmet.add(3, &worker);
        assert!(unmet.ask_at().is_none() && unmet.workers.is_empty());
    }
}
