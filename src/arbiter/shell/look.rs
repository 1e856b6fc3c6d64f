//! The arbiter's looks at the world: when, what for, and whether one came late.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollTimeout};

use super::super::core::{Activity, Event, WorkerId};
use super::super::intake::Source;
use super::super::memory;
use super::{Shell, now};
use crate::control;
use crate::moment::Moment;
use crate::sockets;

/// How often live counts go into STATUS and memory limits are looked at.
pub(super) const REFRESH: Duration = Duration::from_secs(2);
/// How soon a notification that the manager did not take is tried again.
const RETRY_NOTIFY: Duration = Duration::from_secs(1);
/// Who wakes up so much later than it wanted was stopped or starved, and so was who needed so long until it could wait.
const LATE: Duration = Duration::from_millis(100);

/// The time between two looks.
struct Pause {
    /// The look before.
    since: Moment,
    /// It began to wait.
    entered: Moment,
    /// It wanted to look again, whatever happens.
    due: Option<Moment>,
    /// It was stopped while it waited.
    was_stopped: bool,
    until: Moment,
}

impl Pause {
    /// This process did not run, or had something else to do, for a part of it: what it finds may have happened at any
    /// time since the look before.
    fn is_blind(&self) -> bool {
        let overslept = self.due.is_some_and(|due| self.until > due + LATE);
        // What had happened by the time it waited ended the wait at once.
        let at_once = self.until <= self.entered + LATE;
        let was_busy = self.entered > self.since + LATE && at_once;
        self.was_stopped || overslept || was_busy
    }
}

impl Shell {
    /// Waits for the kernel or for the next timeout, and turns what came into events.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        let mut ready = [EpollEvent::empty(); 32];
        let due = self.due();
        let entered = now();
        let mut was_stopped = false;
        let count = loop {
            match self.epoll.wait(&mut ready, timeout(due)) {
                Ok(count) => break count,
                // It was stopped or frozen and goes on, by signal(7): no signal has a handler here.
                Err(Errno::EINTR) => was_stopped = true,
                Err(errno) => return Err(errno.into()),
            }
        };
        let pause = Pause {
            since: self.looked_at,
            entered,
            due,
            was_stopped,
            until: now(),
        };
        self.blind_since = pause.is_blind().then_some(pause.since);
        // What happens while it takes in what came is not seen in this look.
        self.looked_at = pause.until;
        for event in &ready[..count] {
            match Source::from(event.data()) {
                Source::Signals => self.take_signals()?,
                Source::Worker(worker) => self.take_reports(worker),
                Source::Control(client) => self.serve_control(client),
                // It is tended in every round.
                Source::Store => {}
                Source::Rival => self.settle_claims(),
            }
        }
        let now = now();
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh(now);
        }
        if self.core.poll_timeout().is_some_and(|at| at <= now) {
            self.events.push_back(Event::Beats(self.children.beats()));
            if self.core.look_at().is_some_and(|at| at <= now) {
                self.events.push_back(Event::Activity(self.activity()));
            }
            self.events.push_back(Event::Tick);
        }
        if let Some(control) = &mut self.equipment.control {
            let new = control.tick(now);
            self.watch_clients(&new);
        }
        Ok(())
    }

    /// When it has to look again, whatever happens.
    fn due(&self) -> Option<Moment> {
        let now = now();
        let pending = self
            .equipment
            .notifier
            .has_pending()
            .then(|| now + RETRY_NOTIFY);
        let control = self
            .equipment
            .control
            .as_ref()
            .and_then(control::Server::poll_timeout);
        let handoff = self.handoff.poll_timeout();
        let store = self.equipment.store.poll_timeout();
        let news = self.news.poll_timeout();
        let timeouts = [
            self.core.poll_timeout(),
            self.refresh_at,
            pending,
            control,
            handoff,
            store,
            news,
        ];
        timeouts.into_iter().flatten().min()
    }

    /// When a worker that has been reaped just now has ended. While this process did not run nobody saw it: then the last
    /// sign of it.
    pub(in crate::arbiter) fn ended_at(&self, worker: WorkerId) -> Moment {
        let now = now();
        // In the look before, or in this one since it began.
        let was_busy = now > self.looked_at + LATE;
        let Some(since) = self.blind_since.or(was_busy.then_some(self.looked_at)) else {
            return now;
        };
        let child = self.children.get(worker);
        let beat = child.map(|child| self.children.seat(child).last_beat());
        beat.map_or(since, |beat| beat.max(since)).min(now)
    }

    /// How much the service is needed, now.
    fn activity(&self) -> Activity {
        Activity {
            waiting: self.equipment.store.is_adopting()
                || sockets::any_waits(&self.equipment.listeners),
            connections: self.children.connections(),
            in_flight: self.children.in_flight(),
            busy: self.children.busy(),
            accepted: self.children.accepted(),
        }
    }

    /// Memory limits, and fresh counts for STATUS.
    fn refresh(&mut self, now: Moment) {
        self.refresh_at = Some(now + REFRESH);
        self.handoff.look_at(now);
        self.remind_of_news();
        self.introduce_again();
        self.tell_unsent();
        self.settle_claims();
        if let Some(limit) = self.equipment.config.recycle.max_memory {
            memory::measure(&self.children);
            let over = memory::over(&self.children, limit, now);
            self.events.extend(over);
        }
        let status = self.status_line();
        if status != self.status {
            self.equipment.notifier.status(&status);
            self.status = status;
        }
    }
}

/// Rounded up: a timer that fires early would only wait again.
fn timeout(due: Option<Moment>) -> EpollTimeout {
    let Some(due) = due else {
        return EpollTimeout::NONE;
    };
    let millis = due.since(now()).as_micros().div_ceil(1000);
    let millis = u32::try_from(millis).unwrap_or(u32::MAX).min(86_400_000);
    EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::default() + Duration::from_millis(millis)
    }

    #[test]
    fn who_waits_as_long_as_it_wanted_sees_when_things_happen() {
        let mut pause = Pause {
            since: at(1_000),
            entered: at(1_000),
            due: Some(at(3_000)),
            was_stopped: false,
            until: at(1_500),
        };
        assert!(!pause.is_blind());
        pause.until = at(3_100);
        assert!(!pause.is_blind(), "at its time, or a little later");
        (pause.due, pause.until) = (None, at(100_000));
        assert!(!pause.is_blind(), "nothing was due");
        pause.entered = at(2_000);
        assert!(!pause.is_blind(), "nothing was there when it waited");
        (pause.entered, pause.until) = (at(1_100), at(1_100));
        assert!(!pause.is_blind(), "it had something to do, and not much");
    }

    #[test]
    fn who_was_stopped_or_busy_or_slept_too_long_does_not() {
        let seeing = || Pause {
            since: at(1_000),
            entered: at(1_000),
            due: Some(at(3_000)),
            was_stopped: false,
            until: at(1_001),
        };
        let stopped = Pause {
            was_stopped: true,
            ..seeing()
        };
        let overslept = Pause {
            until: at(3_101),
            ..seeing()
        };
        let busy = Pause {
            entered: at(1_101),
            until: at(1_102),
            ..seeing()
        };
        assert!(stopped.is_blind() && overslept.is_blind() && busy.is_blind());
    }
}
