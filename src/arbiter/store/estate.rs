//! What payloads have kept, on its way into the manager's store: as the last thing of all, when no worker is left that
//! could keep something else.

use std::io;
use std::os::fd::BorrowedFd;
use std::thread;

use super::{AGAIN, DOUBT};
use crate::moment::Moment;
use crate::systemd::fd_store::{Barrier, Line, Name, Transfer};

/// So many descriptors at once: SCM_MAX_FD of unix(7) is 253.
const BATCH: usize = 128;

/// Waits for the manager, but not beyond `end`.
pub(super) struct Estate<'a, C> {
    pub(super) line: &'a Line,
    /// The manager does not say whether it stores anything.
    pub(super) doubtful: bool,
    /// Names up to this number are in use.
    pub(super) last: u32,
    pub(super) end: Moment,
    pub(super) clock: C,
}

impl<C: Fn() -> Moment> Estate<'_, C> {
    /// Takes out what bears an `outdated` name, and puts these in. How many are in the store then.
    ///
    /// # Errors
    /// The manager is gone, or no descriptors. What is not known to be in the store is not there.
    pub(super) fn store(
        &mut self,
        outdated: &[Name],
        kept: &[BorrowedFd<'_>],
    ) -> io::Result<usize> {
        for name in outdated {
            self.remove(name)?;
        }
        let mut stored = 0;
        for batch in kept.chunks(BATCH) {
            stored += self.put(batch)?;
        }
        self.remove(&Name::Check)?;
        // Of a process that is gone the manager might take nothing any more.
        let mut barrier = Barrier::new()?;
        if self.until(|line| barrier.send(line))? {
            barrier.wait(self.left());
        }
        Ok(stored)
    }

    /// All, or as many as there is room for.
    fn put(&mut self, batch: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.last += 1;
        let name = Name::Kept(self.last);
        if self.try_put(name.clone(), batch)? {
            return Ok(batch.len());
        }
        // The store has taken a part of it, and does not say which.
        if !self.remove(&name)? || batch.len() < 2 {
            return Ok(0);
        }
        let (first, second) = batch.split_at(batch.len() / 2);
        let stored = self.put(first)?;
        if stored < first.len() {
            return Ok(stored);
        }
        Ok(stored + self.put(second)?)
    }

    fn try_put(&mut self, name: Name, batch: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let mut transfer = Transfer::new(name)?;
        if !self.until(|line| transfer.send(line, batch))? {
            return Ok(false);
        }
        transfer.wait(self.left());
        if !transfer.is_processed() || !transfer.is_stored() {
            return Ok(false);
        }
        if std::mem::take(&mut self.doubtful) {
            thread::sleep(DOUBT);
        }
        Ok(transfer.is_stored())
    }

    fn remove(&self, name: &Name) -> io::Result<bool> {
        self.until(|line| line.remove(name))
    }

    /// Tries until it is done. False: the time is over.
    fn until(&self, mut act: impl FnMut(&Line) -> io::Result<bool>) -> io::Result<bool> {
        while !act(self.line)? {
            if (self.clock)() >= self.end {
                return Ok(false);
            }
            thread::sleep(AGAIN);
        }
        Ok(true)
    }

    fn left(&self) -> std::time::Duration {
        self.end.since((self.clock)())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::time::Duration;

    use crate::sys::{clock, sealed};
    use crate::systemd::fd_store::fake::Manager;

    fn now() -> Moment {
        Moment::from_nanos(clock::monotonic_nanos())
    }

    fn files(count: usize) -> Vec<OwnedFd> {
        (0..count)
            .map(|_| sealed::write("test", b"x").unwrap())
            .collect()
    }

    /// Stores so many files with a manager that works meanwhile. What it has then, and what was said.
    fn stored(
        (mut manager, line): (Manager, Line),
        count: usize,
        outdated: &[Name],
    ) -> (Vec<String>, usize) {
        let files = files(count);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let working = scope.spawn(|| {
                while !over.load(Relaxed) {
                    manager.work();
                    thread::sleep(Duration::from_millis(1));
                }
                manager
            });
            let mut estate = Estate {
                line: &line,
                doubtful: true,
                last: 7,
                end: now() + Duration::from_secs(10),
                clock: now,
            };
            let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            let told = estate.store(outdated, &fds).unwrap();
            over.store(true, Relaxed);
            let manager = working.join().unwrap();
            let names = manager.names().into_iter().map(str::to_owned).collect();
            (names, told)
        })
    }

    #[test]
    fn everything_is_stored_and_nothing_else_stays() {
        let mut manager = Manager::new(200);
        for name in ["payload-connections-1", "payload-kept-3", "payload-kept-3"] {
            let file = sealed::write("test", b"x").unwrap();
            manager.0.stored.push((name.to_owned(), file));
        }
        let (names, told) = stored(manager, 130, &[Name::Kept(3)]);
        assert_eq!((names.len(), told), (131, 130));
        assert_eq!(names[0], "payload-connections-1");
        let of = |name: &str| names.iter().filter(|own| *own == name).count();
        assert_eq!((of("payload-kept-8"), of("payload-kept-9")), (128, 2));
    }

    #[test]
    fn of_what_has_no_room_nothing_is_left_there_and_it_is_told() {
        for most in 0..6 {
            let (names, told) = stored(Manager::new(most), 5, &[]);
            assert_eq!(names.len(), told);
            // A check has to fit beside it, and a half at once.
            assert!(
                told < most.max(1) && (most < 3 || told > 0),
                "{most} {told}"
            );
        }
    }

    #[test]
    fn a_manager_that_does_nothing_is_not_waited_for_any_longer() {
        let (_manager, line) = Manager::new(9);
        let mut estate = Estate {
            line: &line,
            doubtful: false,
            last: 0,
            end: now() + Duration::from_millis(30),
            clock: now,
        };
        let files = files(1);
        let stored = estate.store(&[], &[files[0].as_fd()]).unwrap();
        assert_eq!(stored, 0);
        assert!(now() < estate.end + Duration::from_secs(10));
    }
}
