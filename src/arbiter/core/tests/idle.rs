//! Leaving when nobody needs the service.

use std::time::Duration;

use super::*;
use crate::arbiter::core::{Activity, Want};
use crate::lease::Released;
use crate::status::Scope;

const LIMIT: Duration = Duration::from_secs(60);
const NONE: Activity = Activity {
    connections: 0,
    in_flight: 0,
    busy: 0,
    accepted: 0,
    waiting: false,
};

fn ready() -> Bench {
    Bench::ready_with(|policy| policy.idle_exit = Some(LIMIT))
}

impl Bench {
    /// Time passes with the looks that are due in it, at which this is there.
    fn idle(&mut self, span: Duration, activity: Activity) {
        let end = self.now + span;
        while let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let alive: Vec<WorkerId> = self.core.workers.keys().copied().collect();
            let beats = alive.iter().map(|id| (*id, self.now)).collect();
            self.tell(Event::Beats(beats));
            if self.core.look_at().is_some_and(|at| at <= self.now) {
                self.tell(Event::Activity(activity));
            }
            self.tell(Event::Tick);
        }
        self.now = end;
    }

    /// Everybody is told to pause; the number of that.
    #[track_caller]
    fn pausing(&mut self) -> u64 {
        let wanted = self.wanted();
        let pauses = wanted.iter().map(|action| match action {
            Action::Send {
                worker,
                order: Order::Pause { round },
            } => (*worker, *round),
            other => panic!("{other:?}"),
        });
        let pauses: Vec<_> = pauses.collect();
        let [(FIRST, round), (SECOND, same)] = pauses[..] else {
            panic!("{pauses:?}");
        };
        assert_eq!(round, same);
        round
    }

    fn paused(&mut self, worker: WorkerId, round: u64) {
        self.tell(Event::Paused { worker, round });
    }

    /// The last look.
    fn look(&mut self, activity: Activity) {
        assert_eq!(self.core.look_at(), Some(self.now), "at once");
        self.tell(Event::Activity(activity));
    }
}

/// What it is called, and it.
type Happens = (&'static str, fn(&mut Bench));

fn resumed() -> [Action; 2] {
    [FIRST, SECOND].map(|worker| Action::Send {
        worker,
        order: Order::Resume,
    })
}

/// A core that waits for the second worker.
fn half_paused() -> (Bench, u64) {
    let mut bench = ready();
    bench.idle(LIMIT, NONE);
    let round = bench.pausing();
    bench.paused(FIRST, round);
    (bench, round)
}

#[test]
fn an_arbiter_that_comes_late_to_its_last_look_says_how_long_it_was_idle_all_the_same() {
    let (mut bench, round) = half_paused();
    bench.paused(SECOND, round);
    let late = Duration::from_secs(5);
    bench.now = bench.now + late;
    bench.tell(Event::Tick);
    bench.tell(Event::Activity(NONE));
    let actions = bench.taken();
    let idle = Notice::Idle { idle: LIMIT + late };
    assert!(actions.contains(&Action::Log(idle)), "{actions:?}");
}

#[test]
fn it_leaves_when_everybody_has_paused_and_there_is_still_nothing() {
    let mut bench = ready();
    bench.idle(LIMIT - Duration::from_secs(1), NONE);
    assert_eq!(bench.wanted(), []);
    bench.idle(Duration::from_secs(1), NONE);
    let round = bench.pausing();
    bench.paused(FIRST, round);
    assert_eq!(bench.wanted(), []);
    bench.paused(SECOND, round);
    assert_eq!(bench.wanted(), [], "not without a look");
    bench.look(NONE);
    let actions = bench.taken();
    let idle = Notice::Idle { idle: LIMIT };
    assert!(actions.contains(&Action::Log(idle)), "{actions:?}");
    assert!(actions.contains(&Action::Stopping));
    for worker in [FIRST, SECOND] {
        assert!(actions.contains(&stop(worker, Level::Graceful)));
        bench.exit(worker, Exit::Code(0));
    }
    assert_eq!(bench.core.stops_idle(), Some(LIMIT));
    assert_eq!(bench.wanted(), [Action::Leave(ExitCode::Ok)]);
}

#[test]
fn without_the_setting_nothing_is_looked_at() {
    let mut bench = Bench::ready();
    bench.idle(LIMIT * 100, NONE);
    assert_eq!(bench.core.look_at(), None);
    assert_eq!(bench.wanted(), []);
}

#[test]
fn whatever_needs_the_service_begins_the_time_anew() {
    let needs: [fn(&mut Activity); 5] = [
        |activity| activity.connections = 1,
        |activity| activity.in_flight = 1,
        |activity| activity.busy = 1,
        |activity| activity.waiting = true,
        // Come and gone between two looks.
        |activity| activity.accepted = 1,
    ];
    for need in needs {
        let mut bench = ready();
        bench.idle(LIMIT - Duration::from_secs(2), NONE);
        let mut needed = NONE;
        need(&mut needed);
        bench.idle(Duration::from_secs(1), needed);
        let since = Activity {
            accepted: needed.accepted,
            ..NONE
        };
        bench.idle(LIMIT - Duration::from_secs(1), since);
        assert_eq!(bench.wanted(), [], "{needed:?}");
        bench.idle(Duration::from_secs(1), since);
        bench.pausing();
    }
}

#[test]
fn a_connection_that_came_before_the_pause_is_served_on() {
    for late in [
        Activity {
            connections: 1,
            accepted: 1,
            ..NONE
        },
        // It is over already.
        Activity {
            accepted: 1,
            ..NONE
        },
        Activity {
            waiting: true,
            ..NONE
        },
    ] {
        let (mut bench, round) = half_paused();
        bench.paused(SECOND, round);
        bench.look(late);
        assert_eq!(bench.wanted(), resumed());
        let over = Activity {
            accepted: late.accepted,
            ..NONE
        };
        bench.idle(LIMIT - Duration::from_secs(1), over);
        assert_eq!(bench.wanted(), [], "the time begins anew");
        bench.idle(Duration::from_secs(1), over);
        bench.pausing();
    }
}

#[test]
fn nobody_waits_for_a_worker_that_does_not_pause() {
    let (mut bench, round) = half_paused();
    bench.idle(Duration::from_millis(900), NONE);
    assert_eq!(bench.wanted(), []);
    bench.idle(Duration::from_millis(1_100), NONE);
    assert_eq!(bench.wanted(), resumed());
    bench.paused(SECOND, round);
    bench.idle(LIMIT - Duration::from_secs(2), NONE);
    assert_eq!(bench.wanted(), [], "an answer to what was taken back");
}

#[test]
fn an_answer_to_an_earlier_pause_is_none_to_this_one() {
    let (mut bench, earlier) = half_paused();
    bench.idle(Duration::from_secs(2) + LIMIT, NONE);
    bench.taken();
    bench.paused(FIRST, earlier);
    bench.paused(SECOND, earlier);
    assert_ne!(bench.core.look_at(), Some(bench.now));
}

#[test]
fn whatever_happens_to_the_workers_ends_a_pause() {
    let happens: [Happens; 4] = [
        ("a reload", |bench| {
            bench.tell(Event::Asked(Request::Reload(super::super::Trigger(1))));
        }),
        ("a recycling", |bench| {
            let cause = Recycle::Requests;
            bench.tell(Event::Recycle {
                worker: FIRST,
                cause,
            });
        }),
        ("one more worker", |bench| {
            bench.tell(Event::Asked(Request::OneMore));
        }),
        ("a channel that closes", |bench| {
            bench.tell(Event::ChannelClosed { worker: FIRST });
        }),
    ];
    for (what, happens) in happens {
        let (mut bench, round) = half_paused();
        happens(&mut bench);
        let wanted = bench.wanted();
        assert!(wanted.starts_with(&resumed()), "{what}: {wanted:?}");
        bench.paused(SECOND, round);
        bench.tell(Event::Activity(NONE));
        assert_eq!(bench.core.stops_idle(), None, "{what}");
    }
}

#[test]
fn a_crash_ends_a_pause_for_those_that_are_left() {
    let (mut bench, _) = half_paused();
    bench.exit(FIRST, Exit::Signal(11));
    let resume = Action::Send {
        worker: SECOND,
        order: Order::Resume,
    };
    assert_eq!(bench.wanted()[0], resume, "before the fork");
    bench.idle(LIMIT * 2, NONE);
    let wanted = bench.wanted();
    let pauses = |action: &Action| format!("{action:?}").contains("Pause");
    assert!(!wanted.iter().any(pauses), "it is degraded: {wanted:?}");
}

/// It would keep the service for ever. Everything else that degrades it does not last.
#[test]
fn a_payload_that_fails_wherever_it_is_keeps_nobody_from_leaving() {
    let mut bench = ready();
    let wants = Want::of(&["scheduler".to_owned()], &[Scope::Service], &[]);
    let worker = FIRST;
    bench.tell(Event::Wants { worker, wants });
    let fail = |bench: &mut Bench| {
        let lease = bench.core.leases(bench.now).remove(0);
        if let Some(holder) = lease.holder {
            bench.tell(Event::Released {
                worker,
                payload: 0,
                epoch: holder.epoch,
                how: Released::NotTaken,
                at: bench.now,
            });
        }
    };
    fail(&mut bench);
    bench.taken();
    let begun = bench.now;
    while bench.now < begun + LIMIT {
        fail(&mut bench);
        assert_eq!(bench.core.state(), ServiceState::Degraded);
        bench.idle(Duration::from_millis(100), NONE);
    }
    let wanted = bench.wanted();
    let pauses = |action: &Action| format!("{action:?}").contains("Pause");
    assert!(wanted.iter().any(pauses), "{wanted:?}");
}

#[test]
fn a_stop_in_a_pause_is_a_stop_like_any_other() {
    let (mut bench, _) = half_paused();
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    let stops = [FIRST, SECOND].map(|worker| stop(worker, Level::Graceful));
    assert!(bench.wanted().ends_with(&stops));
    assert_eq!(bench.core.stops_idle(), None);
}

#[test]
fn who_asks_for_a_stop_that_idleness_has_begun_hurries_nobody() {
    let (mut bench, round) = half_paused();
    bench.paused(SECOND, round);
    bench.look(NONE);
    bench.taken();
    bench.now = bench.now + Duration::from_secs(1);
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    assert_eq!(bench.wanted(), []);
    assert_eq!(bench.core.stops_idle(), None, "it was asked for now");
    bench.now = bench.now + Duration::from_secs(1);
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    let stops = [FIRST, SECOND].map(|worker| stop(worker, Level::Quick));
    assert_eq!(bench.wanted(), stops);
}

#[test]
fn a_service_that_was_frozen_has_its_time_before_it() {
    let mut bench = ready();
    bench.now = bench.now + LIMIT * 10;
    bench.tell(Event::Beats(vec![(FIRST, bench.now), (SECOND, bench.now)]));
    bench.tell(Event::Activity(NONE));
    bench.tell(Event::Tick);
    assert_eq!(bench.wanted(), []);
    bench.idle(LIMIT, NONE);
    bench.pausing();
}
