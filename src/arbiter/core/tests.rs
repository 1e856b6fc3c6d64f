//! One decision at a time.

mod idle;
mod lease;
mod reload;

use std::time::Duration;

use super::actions::{Action, Cause, Fatal, Notice, Overdue};
use super::events::{Event, Exit, Request};
use super::roster::WorkerId;
use super::simulation::policy;
use super::{Core, Moment, Policy};
use crate::exit::ExitCode;
use crate::ipc::orders::{Level, Order, Recycle};
use crate::status::ServiceState;
use crate::worker::phase::Phase;

const FIRST: WorkerId = WorkerId(1);
const SECOND: WorkerId = WorkerId(2);
const THIRD: WorkerId = WorkerId(3);

/// A core, its clock, and what it wanted since somebody last looked.
struct Bench {
    core: Core,
    now: Moment,
    actions: Vec<Action>,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = policy();
        policy.workers = 2;
        policy.watchdog = None;
        change(&mut policy);
        let mut bench = Self {
            core: Core::new(policy, 7),
            now: Moment::from_nanos(1_000_000_000),
            actions: Vec::new(),
        };
        bench.tell(Event::Start);
        bench
    }

    /// Two workers that serve.
    fn ready() -> Self {
        Self::ready_with(|_| {})
    }

    fn ready_with(change: impl FnOnce(&mut Policy)) -> Self {
        let mut bench = Self::new(change);
        bench.boot(FIRST);
        bench.boot(SECOND);
        bench.serve(FIRST);
        bench.serve(SECOND);
        assert_eq!(bench.core.state(), ServiceState::Ready);
        bench.actions.clear();
        bench
    }

    fn tell(&mut self, event: Event) {
        let mut events = vec![event];
        while !events.is_empty() {
            for event in std::mem::take(&mut events) {
                let actions = self.core.handle(self.now, event);
                for action in &actions {
                    if let Action::Fork { worker, .. } = action {
                        let pid = u32::try_from(worker.0).unwrap() + 100;
                        events.push(Event::Forked {
                            worker: *worker,
                            pid,
                        });
                    }
                }
                self.actions.extend(actions);
            }
        }
    }

    fn boot(&mut self, worker: WorkerId) {
        for phase in [Phase::Loading, Phase::Starting, Phase::Prepared] {
            self.tell(Event::Entered { worker, phase });
        }
    }

    fn serve(&mut self, worker: WorkerId) {
        self.tell(Event::Entered {
            worker,
            phase: Phase::Serving,
        });
    }

    fn exit(&mut self, worker: WorkerId, exit: Exit) {
        let at = self.now;
        self.tell(Event::Exited { worker, exit, at });
    }

    /// Lets time pass; everybody named beats to the end of it.
    fn pass(&mut self, span: Duration, alive: &[WorkerId]) {
        let end = self.now + span;
        while let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.beat_and_tick(alive);
        }
        self.now = end;
        self.beat_and_tick(alive);
    }

    fn beat_and_tick(&mut self, alive: &[WorkerId]) {
        let beats = alive.iter().map(|id| (*id, self.now)).collect();
        self.tell(Event::Beats(beats));
        self.tell(Event::Tick);
    }

    fn taken(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Takes what was wanted, without the log.
    fn wanted(&mut self) -> Vec<Action> {
        self.taken()
            .into_iter()
            .filter(|action| !matches!(action, Action::Log(_) | Action::ExtendTimeout(_)))
            .collect()
    }

    fn notices(&mut self) -> Vec<Notice> {
        self.taken()
            .into_iter()
            .filter_map(|action| match action {
                Action::Log(notice) => Some(notice),
                _ => None,
            })
            .collect()
    }
}

fn serve(worker: WorkerId) -> Action {
    Action::Send {
        worker,
        order: Order::Serve,
    }
}

fn stop(worker: WorkerId, level: Level) -> Action {
    Action::Send {
        worker,
        order: Order::Stop(level),
    }
}

fn fork(worker: WorkerId, slot: u16, restarts: u32, cause: Cause) -> Action {
    Action::Fork {
        worker,
        slot,
        generation: 1,
        restarts,
        cause,
    }
}

#[test]
fn nobody_serves_before_everybody_is_prepared_and_ready_comes_last() {
    let mut bench = Bench::new(|_| {});
    assert_eq!(
        bench.wanted(),
        [
            fork(FIRST, 0, 0, Cause::Boot),
            fork(SECOND, 1, 0, Cause::Boot)
        ]
    );
    bench.boot(FIRST);
    assert_eq!(bench.wanted(), []);
    bench.boot(SECOND);
    assert_eq!(bench.wanted(), [serve(FIRST), serve(SECOND)]);
    bench.serve(SECOND);
    assert_eq!(bench.wanted(), []);
    assert_eq!(bench.core.state(), ServiceState::Booting);
    bench.serve(FIRST);
    assert_eq!(bench.wanted(), [Action::Ready]);
}

#[test]
fn a_first_boot_that_fails_unwinds_the_others_and_ends_with_70_and_the_reason_once() {
    let mut bench = Bench::new(|_| {});
    bench.boot(FIRST);
    bench.taken();
    bench.tell(Event::Failed {
        worker: SECOND,
        reason: "load failed: no database".to_owned(),
    });
    bench.tell(Event::Failed {
        worker: SECOND,
        reason: "a consequence".to_owned(),
    });
    bench.exit(SECOND, Exit::Code(70));
    let actions = bench.taken();
    let reason = "load failed: no database".to_owned();
    let failed = Notice::BootFailed(Fatal::Boot {
        worker: SECOND,
        slot: 1,
        reason,
    });
    assert!(actions.contains(&Action::Log(failed)), "{actions:?}");
    assert!(actions.contains(&Action::Stopping));
    assert!(actions.contains(&stop(FIRST, Level::Quick)));
    let told = actions.iter().map(|action| format!("{action:?}"));
    let told: Vec<_> = told.filter(|text| text.contains("no database")).collect();
    assert_eq!(told.len(), 1, "the reason is told once: {told:?}");
    bench.exit(FIRST, Exit::Code(0));
    assert_eq!(bench.wanted(), [Action::Leave(ExitCode::Software)]);
}

#[test]
fn a_first_fork_that_fails_ends_with_71() {
    let mut core = Core::new(
        Policy {
            workers: 1,
            ..policy()
        },
        1,
    );
    core.handle(Moment::default(), Event::Start);
    let error = "Resource temporarily unavailable".to_owned();
    let actions = core.handle(
        Moment::default(),
        Event::ForkFailed {
            worker: FIRST,
            error,
        },
    );
    assert!(
        actions.contains(&Action::Leave(ExitCode::Os)),
        "{actions:?}"
    );
}

#[test]
fn a_crash_after_a_stable_time_is_replaced_at_once() {
    let mut bench = Bench::ready();
    bench.pass(Duration::from_secs(11), &[FIRST, SECOND]);
    bench.taken();
    bench.exit(FIRST, Exit::Signal(11));
    assert_eq!(bench.wanted(), [fork(THIRD, 0, 1, Cause::Failure)]);
    assert_eq!(
        bench.core.state(),
        ServiceState::Degraded,
        "until it is replaced"
    );
    bench.boot(THIRD);
    assert_eq!(bench.wanted(), [serve(THIRD)]);
    bench.serve(THIRD);
    assert_eq!(bench.core.state(), ServiceState::Ready);
}

#[test]
fn failures_in_a_row_wait_longer_and_longer_and_the_service_is_degraded_meanwhile() {
    let mut bench = Bench::ready();
    let mut delays = Vec::new();
    let mut next = 3;
    bench.exit(FIRST, Exit::Signal(11));
    for _ in 0..6 {
        let notices = bench.notices();
        delays.extend(notices.iter().find_map(|notice| match notice {
            Notice::BackingOff { slot: 0, delay, .. } => Some(*delay),
            _ => None,
        }));
        assert_eq!(bench.core.state(), ServiceState::Degraded);
        assert_eq!(bench.core.serving(), 1, "the healthy one stays");
        bench.pass(*delays.last().unwrap(), &[SECOND]);
        bench.exit(WorkerId(next), Exit::Code(70));
        next += 1;
    }
    for (index, delay) in delays.iter().enumerate() {
        let full = Duration::from_millis(100) * 2_u32.pow(u32::try_from(index).unwrap());
        assert!(
            *delay >= full / 2 && *delay <= full,
            "{index}: {delay:?} of {full:?}"
        );
    }
    let delay = bench.notices().iter().find_map(|notice| match notice {
        Notice::BackingOff { delay, .. } => Some(*delay),
        _ => None,
    });
    bench.pass(delay.unwrap(), &[SECOND]);
    bench.boot(WorkerId(next));
    bench.serve(WorkerId(next));
    assert_eq!(bench.core.state(), ServiceState::Ready);
    assert!(bench.notices().contains(&Notice::Recovered { workers: 2 }));
}

#[test]
fn a_crash_budget_that_is_used_up_degrades_the_service_until_the_window_has_passed() {
    let mut bench = Bench::ready_with(|policy| {
        policy.crash_budget = 2;
        policy.stable_after = Duration::ZERO;
    });
    for worker in [1, 3, 4] {
        bench.exit(WorkerId(worker), Exit::Signal(9));
        let next = WorkerId(if worker == 1 { 3 } else { worker + 1 });
        if worker != 4 {
            bench.boot(next);
            bench.serve(next);
            assert_eq!(bench.core.state(), ServiceState::Ready, "within the budget");
        }
    }
    assert_eq!(bench.core.state(), ServiceState::Degraded);
    bench.pass(Duration::from_secs(30), &[SECOND]);
    bench.boot(WorkerId(5));
    bench.serve(WorkerId(5));
    assert_eq!(
        bench.core.state(),
        ServiceState::Degraded,
        "everybody serves, and it crashed too often"
    );
    bench.pass(Duration::from_secs(31), &[SECOND, WorkerId(5)]);
    assert_eq!(bench.core.state(), ServiceState::Ready);
}

#[test]
fn a_grace_of_zero_kills_at_once() {
    let mut bench = Bench::ready_with(|policy| policy.abort_grace = Duration::ZERO);
    // By the clock it is all one moment.
    bench.pass(Duration::from_secs(6), &[SECOND]);
    let wanted = bench.wanted();
    assert!(matches!(wanted[0], Action::Abort { worker: FIRST, .. }));
    assert_eq!(wanted[1..], [Action::Kill { worker: FIRST }]);
}

#[test]
fn a_silent_executor_is_aborted_then_killed_then_replaced() {
    let mut bench = Bench::ready();
    bench.pass(Duration::from_secs(6), &[SECOND]);
    let abort = Action::Abort {
        worker: FIRST,
        phase: Phase::Serving,
        overdue: Overdue::Heartbeat(Duration::from_secs(6)),
    };
    assert_eq!(bench.wanted(), [abort]);
    bench.pass(Duration::from_secs(1), &[SECOND]);
    assert_eq!(bench.wanted(), []);
    bench.pass(Duration::from_secs(1), &[SECOND]);
    assert_eq!(bench.wanted(), [Action::Kill { worker: FIRST }]);
    bench.exit(FIRST, Exit::Signal(9));
    bench.pass(Duration::from_secs(1), &[SECOND]);
    assert_eq!(bench.wanted(), [fork(THIRD, 0, 1, Cause::Failure)]);
}

#[test]
fn each_phase_has_its_own_limit() {
    let abort_after = |phase: Phase, beats: bool| {
        let mut bench = Bench::new(|policy| {
            policy.workers = 1;
            policy.heartbeat_boot = Some(Duration::from_secs(3));
            policy.startup = Some(Duration::from_secs(8));
            policy.heartbeat_serving = Some(Duration::from_secs(5));
            policy.heartbeat_stopping = Some(Duration::from_secs(7));
            policy.graceful = Some(Duration::from_secs(20));
            policy.cleanup = Some(Duration::from_secs(10));
        });
        let way = [
            Phase::Loading,
            Phase::Starting,
            Phase::Prepared,
            Phase::Serving,
            Phase::Draining,
            Phase::Cleaning,
        ];
        for next in way.into_iter().filter(|next| *next <= phase) {
            if next == Phase::Draining {
                bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
            }
            bench.tell(Event::Entered {
                worker: FIRST,
                phase: next,
            });
        }
        bench.taken();
        let start = bench.now;
        loop {
            bench.pass(
                Duration::from_millis(500),
                if beats { &[FIRST] } else { &[] },
            );
            let overdue = bench.taken().into_iter().find_map(|action| match action {
                Action::Abort {
                    phase: at, overdue, ..
                } => Some((at, overdue.limit_name())),
                _ => None,
            });
            if let Some((at, limit)) = overdue {
                assert_eq!(at, phase);
                return (limit, bench.now.since(start).as_secs());
            }
        }
    };
    assert_eq!(abort_after(Phase::Forked, false), ("heartbeat", 3));
    assert_eq!(abort_after(Phase::Loading, false), ("heartbeat", 3));
    // It beats and does not come to its end: the worker's own limit, the unwinding behind it, and the margin.
    assert_eq!(abort_after(Phase::Loading, true), ("startup", 20));
    assert_eq!(abort_after(Phase::Starting, true), ("startup", 20));
    assert_eq!(abort_after(Phase::Serving, false), ("heartbeat", 5));
    assert_eq!(abort_after(Phase::Draining, false), ("heartbeat", 7));
    assert_eq!(abort_after(Phase::Cleaning, false), ("heartbeat", 7));
    // From the order to stop: both slices, and the margin.
    assert_eq!(abort_after(Phase::Draining, true), ("stop", 32));
    assert_eq!(abort_after(Phase::Cleaning, true), ("stop", 32));
}

#[test]
fn a_healthy_worker_is_not_given_up_for_one_that_is_about_to_be_killed() {
    let mut bench = Bench::ready();
    bench.pass(Duration::from_secs(6), &[SECOND]);
    let wanted = bench.wanted();
    assert!(
        matches!(wanted[..], [Action::Abort { worker: FIRST, .. }]),
        "{wanted:?}"
    );
    bench.tell(Event::Asked(Request::OneLess));
    assert_eq!(bench.wanted(), [], "the second is all there is");
    bench.exit(FIRST, Exit::Signal(6));
    bench.pass(Duration::from_secs(1), &[SECOND]);
    bench.boot(THIRD);
    bench.taken();
    bench.serve(THIRD);
    assert_eq!(bench.wanted(), [stop(SECOND, Level::Graceful)]);
}

#[test]
fn of_a_slot_that_is_given_up_only_the_worker_that_serves_stays_for_want_of_another() {
    let mut bench = Bench::ready();
    bench.tell(Event::Recycle {
        worker: SECOND,
        cause: Recycle::Requests,
    });
    bench.boot(THIRD);
    bench.pass(Duration::from_secs(6), &[SECOND, THIRD]);
    bench.taken();
    bench.tell(Event::Asked(Request::OneLess));
    assert_eq!(bench.wanted(), [stop(THIRD, Level::Graceful)]);
    let leave = bench.core.workers.values().filter(|one| one.is_leaving());
    assert_eq!(leave.count(), 1);
}

#[test]
fn a_drain_that_takes_too_long_is_ended() {
    let mut bench = Bench::ready();
    bench.tell(Event::Asked(Request::OneLess));
    assert_eq!(bench.wanted(), [stop(SECOND, Level::Graceful)]);
    // graceful 15 s, cleanup 5 s, margin 2 s
    bench.pass(Duration::from_secs(21), &[FIRST, SECOND]);
    assert_eq!(bench.wanted(), []);
    bench.pass(Duration::from_secs(1), &[FIRST, SECOND]);
    let wanted = bench.wanted();
    assert!(
        matches!(
            &wanted[..],
            [Action::Abort {
                worker: SECOND,
                overdue: Overdue::Stop(_),
                ..
            }]
        ),
        "{wanted:?}"
    );
}

#[test]
fn nobody_is_killed_for_a_time_in_which_the_arbiter_did_not_run() {
    let mut bench = Bench::ready();
    // Everything was frozen for a minute; nobody has had a chance to beat.
    bench.now = bench.now + Duration::from_secs(60);
    bench.tell(Event::Beats(Vec::new()));
    bench.tell(Event::Tick);
    assert_eq!(bench.wanted(), []);
    bench.pass(Duration::from_secs(6), &[SECOND]);
    let wanted = bench.wanted();
    assert!(
        matches!(&wanted[..], [Action::Abort { worker: FIRST, .. }]),
        "{wanted:?}"
    );
}

#[test]
fn nobody_is_judged_by_beats_that_are_older_than_the_question() {
    let mut bench = Bench::ready();
    bench.now = bench.now + Duration::from_secs(6);
    // Both are due, and something else is heard first.
    bench.tell(Event::Asked(Request::Scale(2)));
    bench.tell(Event::Recycle {
        worker: FIRST,
        cause: Recycle::Requests,
    });
    let wanted = bench.wanted();
    assert!(
        !wanted
            .iter()
            .any(|action| matches!(action, Action::Abort { .. })),
        "{wanted:?}"
    );
    bench.beat_and_tick(&[FIRST, SECOND, THIRD]);
    assert_eq!(bench.wanted(), []);
}

#[test]
fn a_limit_that_is_unlimited_never_ends_anybody() {
    let mut bench = Bench::ready_with(|policy| {
        policy.heartbeat_serving = None;
        policy.heartbeat_stopping = None;
        policy.graceful = None;
    });
    bench.pass(Duration::from_secs(100_000), &[]);
    assert_eq!(bench.wanted(), []);
    bench.tell(Event::Asked(Request::OneLess));
    bench.pass(Duration::from_secs(100_000), &[]);
    assert_eq!(bench.wanted(), [stop(SECOND, Level::Graceful)]);
}

#[test]
fn recycling_prepares_first_and_retires_then() {
    let mut bench = Bench::ready();
    bench.tell(Event::Recycle {
        worker: FIRST,
        cause: Recycle::Requests,
    });
    assert_eq!(
        bench.wanted(),
        [fork(THIRD, 0, 0, Cause::Recycle(Recycle::Requests))]
    );
    bench.boot(THIRD);
    assert_eq!(bench.wanted(), [serve(THIRD)]);
    bench.serve(THIRD);
    assert_eq!(bench.wanted(), [stop(FIRST, Level::Graceful)]);
    assert_eq!(bench.core.serving(), 2);
    bench.exit(FIRST, Exit::Code(0));
    assert_eq!(bench.wanted(), []);
}

#[test]
fn one_worker_is_recycled_at_a_time() {
    let mut bench = Bench::ready();
    bench.tell(Event::Recycle {
        worker: FIRST,
        cause: Recycle::Memory,
    });
    bench.tell(Event::Recycle {
        worker: SECOND,
        cause: Recycle::Memory,
    });
    assert_eq!(
        bench.wanted(),
        [fork(THIRD, 0, 0, Cause::Recycle(Recycle::Memory))]
    );
    bench.boot(THIRD);
    bench.serve(THIRD);
    let wanted = bench.wanted();
    assert!(
        wanted.contains(&fork(WorkerId(4), 1, 0, Cause::Recycle(Recycle::Memory))),
        "{wanted:?}"
    );
}

#[test]
fn a_replacement_that_cannot_start_leaves_the_old_worker_in_place() {
    let mut bench = Bench::ready();
    bench.tell(Event::Recycle {
        worker: FIRST,
        cause: Recycle::Requests,
    });
    bench.exit(THIRD, Exit::Code(70));
    assert_eq!(bench.core.serving(), 2);
    assert_eq!(bench.core.state(), ServiceState::Ready);
    assert!(!bench.taken().contains(&stop(FIRST, Level::Graceful)));
    bench.pass(Duration::from_millis(100), &[FIRST, SECOND]);
    assert_eq!(
        bench.wanted(),
        [fork(WorkerId(4), 0, 1, Cause::Recycle(Recycle::Requests))]
    );
}

#[test]
fn an_old_worker_is_recycled_somewhat_before_its_age_limit() {
    let mut bench = Bench::ready_with(|policy| policy.max_age = Some(Duration::from_secs(100)));
    bench.pass(Duration::from_secs(89), &[FIRST, SECOND]);
    assert_eq!(bench.wanted(), []);
    bench.pass(Duration::from_secs(11), &[FIRST, SECOND]);
    let wanted = bench.wanted();
    assert!(
        matches!(
            &wanted[..],
            [Action::Fork {
                cause: Cause::Recycle(Recycle::Age),
                ..
            }]
        ),
        "{wanted:?}"
    );
}

#[test]
fn a_worker_that_leaves_by_itself_is_replaced_before_it_is_gone() {
    let mut bench = Bench::ready();
    bench.pass(Duration::from_secs(11), &[FIRST, SECOND]);
    bench.taken();
    bench.tell(Event::Failed {
        worker: FIRST,
        reason: "payload 'sampler' ended".to_owned(),
    });
    bench.tell(Event::Entered {
        worker: FIRST,
        phase: Phase::Draining,
    });
    assert_eq!(bench.wanted(), [fork(THIRD, 0, 1, Cause::Failure)]);
    assert_eq!(
        bench.core.serving(),
        1,
        "it does not count as serving without its payload"
    );
    bench.exit(FIRST, Exit::Code(70));
    assert_eq!(bench.wanted(), [], "its end is not counted twice");
}

#[test]
fn each_signal_goes_one_phase_further_and_says_so() {
    let mut bench = Bench::ready();
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    let wanted = bench.taken();
    assert_eq!(
        wanted[0],
        Action::Log(Notice::Stopping {
            level: Level::Graceful,
            restarts: false,
            workers: 2
        })
    );
    assert!(wanted.contains(&Action::Stopping));
    assert!(
        wanted.contains(&stop(FIRST, Level::Graceful))
            && wanted.contains(&stop(SECOND, Level::Graceful))
    );
    bench.pass(Duration::from_secs(1), &[FIRST, SECOND]);
    bench.taken();
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    let hurried = |level| Action::Log(Notice::StopHurried { level, workers: 2 });
    assert_eq!(
        bench.taken(),
        [
            hurried(Level::Quick),
            stop(FIRST, Level::Quick),
            stop(SECOND, Level::Quick)
        ]
    );
    bench.pass(Duration::from_secs(1), &[FIRST, SECOND]);
    bench.taken();
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    assert_eq!(
        bench.taken(),
        [
            hurried(Level::Kill),
            Action::Kill { worker: FIRST },
            Action::Kill { worker: SECOND }
        ]
    );
}

#[test]
fn a_stop_before_a_restart_is_graceful_and_settles_what_it_keeps_at_last() {
    let mut bench = Bench::ready();
    bench.tell(Event::Asked(Request::Restart));
    assert!(bench.core.restarts());
    let wanted = bench.taken();
    assert_eq!(
        wanted[0],
        Action::Log(Notice::Stopping {
            level: Level::Graceful,
            restarts: true,
            workers: 2
        })
    );
    assert!(wanted.contains(&stop(FIRST, Level::Graceful)));
    bench.exit(FIRST, Exit::Code(0));
    assert!(!bench.taken().contains(&Action::Settle));
    bench.exit(SECOND, Exit::Code(0));
    let taken = bench.taken();
    let settled = taken.iter().position(|action| *action == Action::Settle);
    let left = taken
        .iter()
        .position(|action| *action == Action::Leave(ExitCode::Ok));
    assert!(settled.is_some() && settled < left, "{taken:?}");
}

#[test]
fn what_was_first_asked_for_says_whether_the_service_restarts() {
    for (first, second, restarts) in [
        (Request::Stop(Level::Graceful), Request::Restart, false),
        (Request::Restart, Request::Stop(Level::Graceful), true),
    ] {
        let mut bench = Bench::ready();
        bench.tell(Event::Asked(first));
        bench.pass(Duration::from_secs(1), &[FIRST, SECOND]);
        bench.taken();
        bench.tell(Event::Asked(second));
        assert!(bench.taken().contains(&stop(FIRST, Level::Quick)));
        assert_eq!(bench.core.restarts(), restarts);
    }
}

#[test]
fn the_same_signal_sent_twice_by_one_hand_counts_once() {
    let mut bench = Bench::ready();
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    bench.taken();
    // As `timeout` does: to the process, and to its group.
    bench.pass(Duration::from_millis(5), &[FIRST, SECOND]);
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    assert_eq!(bench.wanted(), []);
    // Another signal that asks for more is heard at once.
    bench.tell(Event::Asked(Request::Stop(Level::Quick)));
    assert_eq!(
        bench.wanted(),
        [stop(FIRST, Level::Quick), stop(SECOND, Level::Quick)]
    );
}

/// As a key does that is held down.
#[test]
fn a_signal_that_comes_again_and_again_is_heard_again() {
    let mut bench = Bench::ready();
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    bench.taken();
    for level in [Level::Quick, Level::Kill] {
        for _ in 0..2 {
            bench.pass(Duration::from_millis(40), &[FIRST, SECOND]);
            bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
            assert_eq!(bench.wanted(), []);
        }
        bench.pass(Duration::from_millis(40), &[FIRST, SECOND]);
        bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
        assert_ne!(bench.wanted(), []);
        assert_eq!(bench.core.stop.as_ref().map(|stop| stop.level), Some(level));
    }
}

#[test]
fn a_stop_that_a_worker_ended_badly_is_no_clean_stop() {
    for (exit, code) in [
        (Exit::Code(0), ExitCode::Ok),
        (Exit::Code(70), ExitCode::Software),
        (Exit::Signal(9), ExitCode::Software),
    ] {
        let mut bench = Bench::ready();
        bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
        bench.exit(FIRST, exit);
        bench.exit(SECOND, Exit::Code(0));
        assert_eq!(bench.taken().last(), Some(&Action::Leave(code)), "{exit}");
    }
}

#[test]
fn a_stop_during_the_first_boot_is_a_clean_stop() {
    let mut bench = Bench::new(|_| {});
    bench.tell(Event::Entered {
        worker: FIRST,
        phase: Phase::Loading,
    });
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    bench.exit(FIRST, Exit::Code(0));
    bench.exit(SECOND, Exit::Code(0));
    assert_eq!(bench.taken().last(), Some(&Action::Leave(ExitCode::Ok)));
}

#[test]
fn the_number_of_workers_follows_and_stays_within_its_bounds() {
    let mut bench = Bench::ready();
    bench.tell(Event::Asked(Request::OneMore));
    assert_eq!(bench.wanted(), [fork(THIRD, 2, 0, Cause::Scale)]);
    bench.boot(THIRD);
    bench.serve(THIRD);
    bench.taken();
    bench.tell(Event::Asked(Request::Scale(1)));
    assert_eq!(
        bench.wanted(),
        [stop(SECOND, Level::Graceful), stop(THIRD, Level::Graceful)]
    );
    bench.tell(Event::Asked(Request::OneLess));
    assert_eq!(
        bench.taken(),
        [Action::Log(Notice::SlotCountRefused { wanted: 0 })]
    );
    bench.tell(Event::Asked(Request::Scale(129)));
    assert_eq!(
        bench.taken(),
        [Action::Log(Notice::SlotCountRefused { wanted: 129 })]
    );
}

#[test]
fn the_watchdog_is_fed_while_slots_are_replaced_within_their_limits_and_not_when_all_is_lost() {
    let mut bench = Bench::ready_with(|policy| {
        policy.watchdog = Some(Duration::from_secs(1));
        policy.crash_budget = 1;
    });
    bench.pass(Duration::from_secs(1), &[FIRST, SECOND]);
    assert!(bench.wanted().contains(&Action::Watchdog));
    bench.exit(FIRST, Exit::Signal(11));
    bench.pass(Duration::from_secs(1), &[SECOND]);
    assert!(
        bench.wanted().contains(&Action::Watchdog),
        "one waits, one serves"
    );
    bench.exit(SECOND, Exit::Signal(11));
    bench.taken();
    bench.pass(Duration::from_secs(3), &[]);
    assert!(
        !bench.wanted().contains(&Action::Watchdog),
        "nobody serves, and the budget is used up"
    );
}

#[test]
fn a_used_up_crash_budget_holds_back_what_the_others_can_do_without_and_never_the_last() {
    let mut bench = Bench::ready_with(|policy| {
        policy.crash_budget = 1;
        policy.backoff_initial = Duration::from_millis(100);
        policy.backoff_max = Duration::from_secs(30);
        policy.stable_after = Duration::from_secs(1);
    });
    bench.pass(Duration::from_secs(2), &[FIRST, SECOND]);
    bench.exit(FIRST, Exit::Signal(9));
    let third = forked(&bench.taken());
    bench.boot(third[0]);
    bench.serve(third[0]);
    bench.exit(third[0], Exit::Signal(9));
    bench.taken();
    bench.pass(Duration::from_secs(10), &[SECOND]);
    assert_eq!(forked(&bench.wanted()), [], "one serves: the other waits");
    bench.exit(SECOND, Exit::Signal(9));
    let fourth = forked(&bench.taken());
    assert_eq!(
        fourth.len(),
        1,
        "nobody serves: the stable one comes back at once"
    );
    bench.exit(fourth[0], Exit::Signal(9));
    bench.taken();
    bench.pass(Duration::from_millis(100), &[]);
    assert_eq!(forked(&bench.wanted()).len(), 1, "by its own backoff");
}

#[test]
fn the_watchdog_stays_silent_while_pauses_outgrow_the_crash_window_and_is_fed_again_when_one_serves()
 {
    let mut bench = Bench::ready_with(|policy| {
        policy.watchdog = Some(Duration::from_secs(1));
        policy.crash_budget = 3;
        policy.crash_window = Duration::from_secs(2);
        policy.backoff_initial = Duration::from_secs(8);
        policy.backoff_max = Duration::from_secs(8);
    });
    let mut alive = vec![FIRST, SECOND];
    // Two crashes in eight seconds: never more than the budget in one window, but too many in a row.
    for fed in [true, false, false, false] {
        for worker in alive {
            bench.exit(worker, Exit::Signal(11));
        }
        bench.taken();
        bench.pass(Duration::from_secs(8), &[]);
        let wanted = bench.wanted();
        assert_eq!(wanted.contains(&Action::Watchdog), fed);
        alive = forked(&wanted);
        assert_eq!(alive.len(), 2);
    }
    bench.boot(alive[0]);
    bench.serve(alive[0]);
    bench.taken();
    bench.pass(Duration::from_secs(1), &alive);
    assert!(bench.wanted().contains(&Action::Watchdog), "one serves");
}

fn forked(actions: &[Action]) -> Vec<WorkerId> {
    let forks = actions.iter().filter_map(|action| match action {
        Action::Fork { worker, .. } => Some(*worker),
        _ => None,
    });
    forks.collect()
}

#[test]
fn a_worker_that_does_not_even_die_is_reported_to_the_manager_by_silence() {
    let mut bench = Bench::ready_with(|policy| policy.watchdog = Some(Duration::from_secs(1)));
    bench.pass(Duration::from_secs(8), &[SECOND]);
    assert!(bench.taken().contains(&Action::Kill { worker: FIRST }));
    bench.pass(Duration::from_secs(9), &[SECOND]);
    assert!(bench.taken().contains(&Action::Watchdog));
    bench.pass(Duration::from_secs(5), &[SECOND]);
    bench.taken();
    bench.pass(Duration::from_secs(5), &[SECOND]);
    assert!(!bench.taken().contains(&Action::Watchdog));
}

#[test]
fn long_boots_and_drains_ask_the_manager_for_time() {
    let mut bench = Bench::new(|policy| policy.startup = None);
    let more = Action::ExtendTimeout(Duration::from_secs(30));
    bench.pass(Duration::from_secs(9), &[FIRST, SECOND]);
    assert!(!bench.taken().contains(&more));
    bench.pass(Duration::from_secs(12), &[FIRST, SECOND]);
    assert_eq!(
        bench
            .taken()
            .iter()
            .filter(|action| **action == more)
            .count(),
        2
    );
    for worker in [FIRST, SECOND] {
        bench.boot(worker);
    }
    for worker in [FIRST, SECOND] {
        bench.serve(worker);
    }
    bench.taken();
    bench.pass(Duration::from_secs(60), &[FIRST, SECOND]);
    assert!(!bench.taken().contains(&more), "not while it serves");
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    assert!(bench.taken().contains(&more));
}

#[test]
fn the_manager_is_not_asked_for_time_when_nothing_moves() {
    let mut bench = Bench::ready();
    bench.tell(Event::Asked(Request::Stop(Level::Kill)));
    bench.pass(Duration::from_secs(10), &[]);
    bench.taken();
    bench.pass(Duration::from_secs(60), &[]);
    let asked = bench.taken();
    assert!(
        !asked
            .iter()
            .any(|action| matches!(action, Action::ExtendTimeout(_))),
        "{asked:?}"
    );
}

#[test]
fn a_worker_without_a_channel_is_not_left_alone() {
    let mut bench = Bench::ready();
    bench.tell(Event::ChannelClosed { worker: FIRST });
    bench.pass(Duration::from_secs(2), &[FIRST, SECOND]);
    let wanted = bench.wanted();
    assert!(
        matches!(
            &wanted[..],
            [Action::Abort {
                worker: FIRST,
                overdue: Overdue::Channel(_),
                ..
            }]
        ),
        "{wanted:?}"
    );
}
