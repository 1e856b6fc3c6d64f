//! What this worker says to the arbiter.
//!
//! 1. What must be said is said: when it cannot be sent now, since the arbiter does not read or there is no memory for
//!    it, it waits here. With each thing that is said later, with each beat, and by the keeper, it is tried again.
//! 2. Nothing overtakes: as long as something waits, what need not be said is refused.
//! 3. Only an arbiter that is gone hears nothing more. One message that no packet can hold is lost, and the log says so.
//! 4. Nothing is logged while the queue is locked: the log itself sends its events here.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use crate::ipc::channel::{Channel, Packet, Report};
use crate::sys::passing;

/// The one way to the arbiter, for all threads.
#[derive(Debug)]
pub(super) struct Reports {
    channel: Arc<Channel>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<Packet>,
    /// The log has said that they wait.
    is_told: bool,
}

/// What becomes of a message that could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waits,
    /// It can never be sent, others can.
    Lost,
    /// The arbiter is gone, and the keeper sees to that.
    Gone,
}

impl Fate {
    fn of(error: &io::Error) -> Self {
        let is_passing = error.kind() == io::ErrorKind::WouldBlock;
        if is_passing || passing::is_shortage(error) {
            Self::Waits
        } else if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) {
            Self::Lost
        } else {
            Self::Gone
        }
    }
}

impl Reports {
    pub(super) fn new(channel: Arc<Channel>) -> Self {
        Self {
            channel,
            queue: Mutex::default(),
        }
    }

    /// Says what must be said, now or later.
    pub(super) fn say(&self, report: &Report) {
        if let Some(packet) = packet(report) {
            self.queue().packets.push_back(packet);
            self.flush();
        }
    }

    /// The same with what need not be said twice as long as it waits.
    pub(super) fn say_once(&self, report: &Report) {
        if let Some(packet) = packet(report) {
            let mut queue = self.queue();
            if !queue.packets.contains(&packet) {
                queue.packets.push_back(packet);
            }
            drop(queue);
            self.flush();
        }
    }

    /// Says what need not be said, now or never. Never logs.
    ///
    /// # Errors
    /// The arbiter does not hear of it. `WouldBlock`: something that must be said waits.
    pub(super) fn offer(&self, report: &Report) -> io::Result<()> {
        let packet = Packet::of(report)?;
        self.now(|channel| channel.send_packet(&packet))
    }

    /// The same with a descriptor.
    ///
    /// # Errors
    /// As for [`offer`](Self::offer).
    pub(super) fn offer_with(&self, report: &Report, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.now(|channel| channel.send_with(report, fd))
    }

    /// Whether there is room for what can be left out.
    pub(super) fn has_room(&self) -> bool {
        self.channel.has_room()
    }

    /// Something waits to be said.
    pub(super) fn waits(&self) -> bool {
        !self.queue().packets.is_empty()
    }

    /// Says what waits, as far as there is room.
    pub(super) fn flush(&self) {
        loop {
            let mut queue = self.queue();
            let Err(error) = queue.send(&self.channel) else {
                return;
            };
            let waiting = queue.packets.len();
            let fate = Fate::of(&error);
            let is_news = !std::mem::replace(&mut queue.is_told, fate == Fate::Waits);
            match fate {
                Fate::Waits => {
                    drop(queue);
                    if is_news {
                        tracing::warn!(waiting, error = %error, "reports to the arbiter cannot be sent now: they wait");
                    }
                    return;
                }
                Fate::Lost => {
                    queue.packets.pop_front();
                    drop(queue);
                    lost(&error);
                }
                Fate::Gone => {
                    queue.packets.clear();
                    drop(queue);
                    tracing::debug!(error = %error, "a report could not be sent to the arbiter");
                    return;
                }
            }
        }
    }

    fn now(&self, send: impl FnOnce(&Channel) -> io::Result<()>) -> io::Result<()> {
        let mut queue = self.queue();
        queue.send(&self.channel)?;
        send(&self.channel)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// All of it, in order. On an error the first one is that which was not sent.
    fn send(&mut self, channel: &Channel) -> io::Result<()> {
        while let Some(packet) = self.packets.front() {
            channel.send_packet(packet)?;
            self.packets.pop_front();
        }
        self.is_told = false;
        Ok(())
    }
}

fn packet(report: &Report) -> Option<Packet> {
    Packet::of(report).inspect_err(lost).ok()
}

fn lost(error: &io::Error) {
    tracing::error!(error = %error, "a report is too large for the channel to the arbiter, and is lost");
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::ipc::channel::Received;
    use crate::ipc::orders::Recycle;
    use crate::worker::phase::Phase;

    fn pair() -> (Channel, Reports) {
        let (arbiter, worker) = Channel::pair().unwrap();
        (arbiter, Reports::new(Arc::new(worker)))
    }

    fn said(arbiter: &Channel) -> Vec<Report> {
        let mut said = Vec::new();
        while let (Received::Message(report), _) = arbiter.receive_with().unwrap() {
            said.push(report);
        }
        said
    }

    /// An arbiter that reads nothing has no room left.
    fn fill(reports: &Reports) -> usize {
        let filler = Report::Paused { round: 0 };
        (0..100_000)
            .take_while(|_| reports.offer(&filler).is_ok())
            .count()
    }

    fn failed(reason: &str) -> Report {
        let reason = reason.to_owned();
        Report::Failed { reason }
    }

    #[test]
    fn what_must_be_said_waits_for_room_and_nothing_overtakes() {
        let (arbiter, reports) = pair();
        let count = fill(&reports);
        let first = Report::Entered {
            phase: Phase::Draining,
        };
        let unmet = Report::Unmet { worker: 3 };
        reports.say(&first);
        reports.say(&failed("why"));
        reports.say_once(&unmet);
        reports.say_once(&unmet);
        assert!(reports.waits());
        assert_eq!(said(&arbiter).len(), count);
        let last = Report::Recycle {
            cause: Recycle::Requests,
        };
        // There is room now, and those that wait are first.
        reports.offer(&Report::Paused { round: 1 }).unwrap();
        reports.say(&last);
        let paused = Report::Paused { round: 1 };
        let expected = [first, failed("why"), unmet, paused, last];
        assert_eq!(said(&arbiter), expected);
        assert!(!reports.waits());
        reports.flush();
        assert!(said(&arbiter).is_empty(), "once");
    }

    #[test]
    fn as_long_as_something_waits_nothing_else_is_taken() {
        let (arbiter, reports) = pair();
        fill(&reports);
        // Smaller than the room that is left, and larger.
        reports.say(&failed(&"x".repeat(8_000)));
        let (file, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let kept = Report::Kept {
            payload: 0,
            epoch: 1,
        };
        let error = reports.offer_with(&kept, file.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        said(&arbiter);
        reports.offer_with(&kept, file.as_fd()).unwrap();
        assert!(matches!(
            &said(&arbiter)[..],
            [Report::Failed { .. }, Report::Kept { .. }]
        ));
    }

    #[test]
    fn one_that_no_packet_can_hold_keeps_no_other_one_from_being_sent() {
        let (arbiter, reports) = pair();
        reports.say(&failed(&"x".repeat(70_000)));
        reports.say(&failed("why"));
        assert_eq!(said(&arbiter), [failed("why")]);
    }

    #[test]
    fn only_an_arbiter_that_is_gone_hears_nothing_more() {
        let fate = |errno: Errno| Fate::of(&errno.into());
        for passing in [
            Errno::EAGAIN,
            Errno::ENOBUFS,
            Errno::ENOMEM,
            Errno::ETOOMANYREFS,
        ] {
            assert_eq!(fate(passing), Fate::Waits, "{passing}");
        }
        assert_eq!(fate(Errno::EMSGSIZE), Fate::Lost);
        assert_eq!(fate(Errno::EPIPE), Fate::Gone);
        assert_eq!(fate(Errno::ECONNRESET), Fate::Gone);
        let (arbiter, reports) = pair();
        fill(&reports);
        reports.say(&failed("why"));
        drop(arbiter);
        reports.flush();
        assert!(!reports.waits());
    }
}
