//! The reload, one decision at a time. Workers 1 and 2 serve before it, 3 and 4 are the next generation.

use super::*;
use crate::arbiter::core::actions::Image;
use crate::arbiter::core::reload::Trigger;

const FOURTH: WorkerId = WorkerId(4);
const ONE: Trigger = Trigger(1);
const TWO: Trigger = Trigger(2);

impl Bench {
    fn ask(&mut self, trigger: Trigger) {
        self.tell(Event::Asked(Request::Reload(trigger)));
    }

    /// The other image adopts what this one knows; through the format, as it will.
    fn move_to(&mut self, image: Image, policy: Policy, event: Event) {
        assert_eq!(self.core.leaves_for(), Some(image));
        let text = serde_json::to_string(&self.core.save()).unwrap();
        let saved = serde_json::from_str(&text).unwrap();
        self.core = Core::adopt(policy, 7, saved, 0, self.now);
        self.tell(event);
    }

    fn resume(&mut self, image: Image) {
        let policy = self.core.policy.clone();
        self.move_to(image, policy, Event::Resume);
    }

    /// Two workers serve, and two of the next generation are on their way.
    fn preparing() -> Self {
        Self::preparing_with(|_| {}, |_| {})
    }

    fn preparing_with(old: impl FnOnce(&mut Policy), new: impl FnOnce(&mut Policy)) -> Self {
        let mut bench = Self::ready_with(old);
        bench.ask(ONE);
        bench.tell(Event::Preflighted(Ok(())));
        let mut policy = bench.core.policy.clone();
        new(&mut policy);
        bench.taken();
        bench.move_to(Image::Next, policy, Event::Resume);
        bench
    }

    /// They serve, and the old ones too.
    fn trial() -> Self {
        Self::trial_with(|_| {}, |_| {})
    }

    fn trial_with(old: impl FnOnce(&mut Policy), new: impl FnOnce(&mut Policy)) -> Self {
        let mut bench = Self::preparing_with(old, new);
        for worker in [THIRD, FOURTH] {
            bench.boot(worker);
        }
        for worker in [THIRD, FOURTH] {
            bench.serve(worker);
        }
        bench.taken();
        bench
    }

    fn drain(&mut self, worker: WorkerId) {
        let phase = Phase::Draining;
        self.tell(Event::Entered { worker, phase });
    }

    /// The answer that went out, which must be one.
    #[track_caller]
    fn answer(&mut self) -> Result<u32, String> {
        let answers: Vec<_> = self
            .taken()
            .into_iter()
            .filter_map(|action| match action {
                Action::Answer { outcome, .. } => Some(outcome),
                _ => None,
            })
            .collect();
        let [answer] = &answers[..] else {
            panic!("one answer, and not {answers:?}");
        };
        answer.clone()
    }
}

fn new_fork(worker: WorkerId, slot: u16) -> Action {
    Action::Fork {
        worker,
        slot,
        generation: 2,
        restarts: 0,
        cause: Cause::Reload,
    }
}

fn answer(trigger: Trigger, outcome: Result<u32, &str>) -> Action {
    let outcome = outcome.map_err(str::to_owned);
    Action::Answer { trigger, outcome }
}

#[test]
fn it_checks_changes_images_prepares_tries_commits_and_answers() {
    let mut bench = Bench::ready();
    bench.ask(ONE);
    assert_eq!(bench.wanted(), [Action::Reloading, Action::Preflight]);
    assert_eq!(bench.core.state(), ServiceState::Reloading);
    assert_eq!(bench.core.leaves_for(), None);
    bench.tell(Event::Preflighted(Ok(())));
    assert_eq!(bench.wanted(), []);

    bench.resume(Image::Next);
    assert_eq!(bench.wanted(), [new_fork(THIRD, 0), new_fork(FOURTH, 1)]);
    bench.boot(THIRD);
    assert_eq!(bench.wanted(), [], "all together");
    bench.boot(FOURTH);
    assert_eq!(bench.wanted(), [serve(THIRD), serve(FOURTH)]);
    bench.serve(THIRD);
    bench.pass(Duration::from_secs(2), &[FIRST, SECOND, THIRD, FOURTH]);
    assert_eq!(bench.wanted(), [], "the trial begins when all serve");
    bench.serve(FOURTH);
    bench.pass(Duration::from_millis(900), &[FIRST, SECOND, THIRD, FOURTH]);
    assert_eq!(bench.wanted(), []);
    assert_eq!(bench.core.generation(), 1);

    bench.pass(Duration::from_millis(100), &[FIRST, SECOND, THIRD, FOURTH]);
    let (one, two) = (stop(FIRST, Level::Graceful), stop(SECOND, Level::Graceful));
    assert_eq!(bench.wanted(), [Action::Release, one, two]);
    assert_eq!(bench.core.generation(), 2);
    bench.drain(FIRST);
    assert_eq!(bench.wanted(), [], "the other one may still accept");
    bench.exit(SECOND, Exit::Code(0));
    assert_eq!(bench.wanted(), [Action::Ready, answer(ONE, Ok(2))]);
    assert_eq!(bench.core.state(), ServiceState::Ready);
}

#[test]
fn an_old_worker_that_hears_nothing_delays_the_answer_for_a_second() {
    let mut bench = Bench::trial();
    bench.pass(Duration::from_secs(1), &[FIRST, SECOND, THIRD, FOURTH]);
    bench.taken();
    bench.pass(Duration::from_millis(900), &[THIRD, FOURTH]);
    assert_eq!(bench.wanted(), []);
    bench.pass(Duration::from_millis(100), &[THIRD, FOURTH]);
    assert_eq!(bench.answer(), Ok(2));
}

#[test]
fn without_a_trial_the_commit_is_at_once() {
    let mut bench = Bench::preparing_with(|_| {}, |policy| policy.trial = Duration::ZERO);
    bench.boot(THIRD);
    bench.boot(FOURTH);
    bench.serve(THIRD);
    bench.taken();
    bench.serve(FOURTH);
    assert!(bench.wanted().contains(&Action::Release));
}

#[test]
fn a_check_that_fails_changes_nothing_and_is_remembered_until_a_reload_works() {
    let mut bench = Bench::ready();
    bench.ask(ONE);
    bench.taken();
    bench.tell(Event::Preflighted(Err("line 1:\n  not  this\n".to_owned())));
    let reason = "line 1:; not  this";
    assert_eq!(bench.wanted(), [Action::Ready, answer(ONE, Err(reason))]);
    assert_eq!(bench.core.reload_failure(), Some(reason));
    assert_eq!(bench.core.state(), ServiceState::Ready);
    assert_eq!(bench.core.generation(), 1);

    bench.ask(TWO);
    bench.tell(Event::Preflighted(Ok(())));
    bench.resume(Image::Next);
    assert_eq!(bench.core.reload_failure(), Some(reason), "over the exec");
    for worker in [THIRD, FOURTH] {
        bench.boot(worker);
    }
    for worker in [THIRD, FOURTH] {
        bench.serve(worker);
    }
    bench.pass(Duration::from_secs(2), &[FIRST, SECOND, THIRD, FOURTH]);
    assert_eq!(bench.core.reload_failure(), None);
}

#[test]
fn a_check_that_takes_too_long_is_ended() {
    let mut bench = Bench::ready();
    bench.ask(ONE);
    bench.taken();
    bench.pass(Duration::from_secs(10), &[FIRST, SECOND]);
    let reason = "the new binary did not finish its check within 10s; raise reload.preflight if its preload needs longer";
    let wanted = [
        Action::EndPreflight,
        Action::Ready,
        answer(ONE, Err(reason)),
    ];
    assert_eq!(bench.wanted(), wanted);
    // It had ended on its own a moment before it was killed.
    bench.tell(Event::Preflighted(Ok(())));
    assert_eq!(bench.core.leaves_for(), None);
}

#[test]
fn an_exec_that_fails_leaves_everything_as_it_was() {
    let mut bench = Bench::ready();
    bench.ask(ONE);
    bench.tell(Event::Preflighted(Ok(())));
    bench.taken();
    let error = "no memory".to_owned();
    bench.tell(Event::ExecFailed { error });
    let reason = "the new binary could not take over: no memory";
    let wanted = [Action::Release, Action::Ready, answer(ONE, Err(reason))];
    assert_eq!(bench.wanted(), wanted);
    assert_eq!(bench.core.leaves_for(), None);
}

#[test]
fn what_is_heard_before_the_exec_counts() {
    let mut bench = Bench::ready();
    bench.ask(ONE);
    bench.tell(Event::Preflighted(Ok(())));
    bench.ask(TWO);
    bench.exit(FIRST, Exit::Signal(11));
    bench.taken();
    assert_eq!(bench.core.leaves_for(), Some(Image::Next));
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    assert_eq!(bench.core.leaves_for(), None, "a stop wins");
    let told = "the service was told to stop";
    let wanted = bench.wanted();
    assert_eq!(
        wanted[..3],
        [
            Action::Ready,
            answer(ONE, Err(told)),
            answer(TWO, Err(told))
        ]
    );
    bench.exit(SECOND, Exit::Code(0));
    assert_eq!(bench.taken().last(), Some(&Action::Leave(ExitCode::Ok)));
}

#[test]
fn a_new_worker_that_fails_takes_its_generation_along_and_the_old_image_answers() {
    let mut bench = Bench::preparing();
    bench.boot(THIRD);
    bench.taken();
    let reason = "load failed: no database".to_owned();
    bench.tell(Event::Failed {
        worker: FOURTH,
        reason,
    });
    bench.exit(FOURTH, Exit::Code(70));
    assert_eq!(bench.wanted(), [stop(THIRD, Level::Quick)]);
    bench.resume(Image::Last);
    let reason = "the new worker of slot 1 failed: load failed: no database";
    let wanted = [Action::Release, Action::Ready, answer(ONE, Err(reason))];
    assert_eq!(bench.wanted(), wanted);
    bench.exit(THIRD, Exit::Code(0));
    assert_eq!(bench.wanted(), [], "it was told to");
    assert_eq!(bench.core.serving(), 2);
    assert_eq!(bench.core.generation(), 1);

    // The number of the generation that failed is not used again.
    bench.ask(TWO);
    bench.tell(Event::Preflighted(Ok(())));
    bench.taken();
    bench.resume(Image::Next);
    let generations: Vec<u32> = bench
        .wanted()
        .iter()
        .filter_map(|action| match action {
            Action::Fork { generation, .. } => Some(*generation),
            _ => None,
        })
        .collect();
    assert_eq!(generations, [3, 3]);
}

#[test]
fn a_process_that_the_system_refuses_is_a_failure_of_the_reload_only() {
    let mut bench = Bench::ready();
    bench.ask(ONE);
    bench.tell(Event::Preflighted(Ok(())));
    let saved = bench.core.save();
    bench.core = Core::adopt(bench.core.policy.clone(), 7, saved, 0, bench.now);
    bench.core.handle(bench.now, Event::Resume);
    let error = "EAGAIN".to_owned();
    let worker = THIRD;
    let (now, forked) = (
        bench.now,
        Event::Forked {
            worker: FOURTH,
            pid: 4,
        },
    );
    bench.core.handle(now, Event::ForkFailed { worker, error });
    bench.core.handle(now, forked);
    assert_eq!(bench.core.leaves_for(), Some(Image::Last));
    assert_eq!(bench.core.serving(), 2);
}

#[test]
fn in_the_trial_the_others_finish_what_they_have() {
    let mut bench = Bench::trial();
    bench.exit(THIRD, Exit::Signal(11));
    assert_eq!(bench.wanted(), [stop(FOURTH, Level::Graceful)]);
    bench.resume(Image::Last);
    let failed = bench.answer().unwrap_err();
    assert!(
        failed.contains("killed by SIGSEGV while serving"),
        "{failed}"
    );
    assert_eq!(bench.core.serving(), 2);
}

#[test]
fn a_member_that_begins_to_leave_by_itself_ends_the_trial_before_it_is_gone() {
    let mut bench = Bench::trial();
    let reason = "payload 'queue' ended".to_owned();
    bench.tell(Event::Failed {
        worker: THIRD,
        reason,
    });
    bench.taken();
    bench.drain(THIRD);
    assert_eq!(bench.core.leaves_for(), Some(Image::Last));
    // What it has, it finishes or hands on.
    let graceful = [THIRD, FOURTH].map(|id| stop(id, Level::Graceful));
    assert_eq!(bench.wanted(), graceful);
}

#[test]
fn a_member_that_was_told_to_serve_and_has_not_said_so_finishes_what_it_has() {
    let mut bench = Bench::preparing();
    for id in [THIRD, FOURTH] {
        bench.boot(id);
    }
    bench.taken();
    bench.exit(THIRD, Exit::Signal(11));
    assert_eq!(bench.wanted(), [stop(FOURTH, Level::Graceful)]);
}

#[test]
fn a_stuck_member_ends_the_reload_at_once() {
    let mut bench = Bench::trial_with(|_| {}, |policy| policy.trial = Duration::from_secs(60));
    bench.pass(Duration::from_secs(6), &[FIRST, SECOND, FOURTH]);
    assert!(matches!(
        bench.wanted()[..],
        [Action::Abort { .. }, Action::Send { .. }, ..]
    ));
    bench.resume(Image::Last);
    let failed = bench.answer().unwrap_err();
    assert!(
        failed.ends_with("no heartbeat for 6.0 s while serving"),
        "{failed}"
    );
}

#[test]
fn what_serves_is_not_ended_when_nothing_else_does() {
    let mut bench = Bench::trial();
    bench.exit(FIRST, Exit::Signal(9));
    bench.exit(SECOND, Exit::Signal(9));
    bench.taken();
    bench.exit(THIRD, Exit::Signal(9));
    assert_eq!(bench.wanted(), [], "the fourth is all there is");
    bench.resume(Image::Last);
    bench.taken();
    bench.pass(Duration::from_millis(100), &[FOURTH]);
    // In whichever slot the wait is over first.
    let fifth = WorkerId(5);
    let old = |action: &Action| matches!(action, Action::Fork { worker, generation: 1, .. } if *worker == fifth);
    assert!(bench.wanted().iter().any(old));
    bench.boot(fifth);
    bench.taken();
    bench.serve(fifth);
    assert!(bench.wanted().contains(&stop(FOURTH, Level::Graceful)));
}

#[test]
fn a_way_back_that_fails_goes_on_with_what_there_is() {
    let mut bench = Bench::preparing();
    bench.exit(FOURTH, Exit::Code(70));
    bench.exit(FIRST, Exit::Signal(9));
    bench.taken();
    let error = "no memory".to_owned();
    bench.tell(Event::ExecFailed { error });
    let wanted = bench.wanted();
    assert!(
        !wanted.contains(&Action::Release),
        "the old ones need it: {wanted:?}"
    );
    let generations = |action: &Action| match action {
        Action::Fork { generation, .. } => Some(*generation),
        _ => None,
    };
    bench.pass(Duration::from_secs(1), &[SECOND]);
    let forks: Vec<_> = bench.taken().iter().filter_map(generations).collect();
    assert_eq!(forks, [2], "new code is better than nobody");
    let failure = bench.core.reload_failure().unwrap();
    assert!(
        failure.contains("the way back to the old binary failed"),
        "{failure}"
    );
}

#[test]
fn while_another_image_prepares_an_old_slot_stays_empty_and_is_filled_after_a_rollback() {
    let mut bench = Bench::preparing();
    bench.taken();
    bench.exit(FIRST, Exit::Signal(11));
    bench.pass(Duration::from_secs(5), &[SECOND, THIRD, FOURTH]);
    assert_eq!(bench.wanted(), []);
    assert_eq!(bench.core.state(), ServiceState::Reloading);
    bench.exit(THIRD, Exit::Code(70));
    bench.taken();
    bench.resume(Image::Last);
    let fifth = WorkerId(5);
    assert!(bench.wanted().contains(&fork(fifth, 0, 1, Cause::Failure)));
}

#[test]
fn a_slot_that_waits_after_failures_is_filled_by_the_new_generation() {
    let mut bench = Bench::ready();
    bench.exit(FIRST, Exit::Signal(11));
    assert_eq!(bench.core.state(), ServiceState::Degraded);
    bench.ask(ONE);
    bench.tell(Event::Preflighted(Ok(())));
    bench.resume(Image::Next);
    for worker in [THIRD, FOURTH] {
        bench.boot(worker);
    }
    for worker in [THIRD, FOURTH] {
        bench.serve(worker);
    }
    bench.pass(Duration::from_secs(1), &[SECOND, THIRD, FOURTH]);
    bench.drain(SECOND);
    assert_eq!(bench.core.state(), ServiceState::Ready);
    bench.taken();
    bench.pass(Duration::from_secs(60), &[THIRD, FOURTH]);
    assert!(
        !bench
            .wanted()
            .iter()
            .any(|action| matches!(action, Action::Fork { .. }))
    );
}

#[test]
fn a_replacement_that_was_on_its_way_takes_over_or_goes_with_its_generation() {
    let mut bench = Bench::ready();
    bench.tell(Event::Recycle {
        worker: FIRST,
        cause: Recycle::Requests,
    });
    bench.ask(ONE);
    bench.tell(Event::Preflighted(Ok(())));
    bench.taken();
    bench.resume(Image::Next);
    // The third is the replacement, so these are the new ones.
    let (fourth, fifth) = (FOURTH, WorkerId(5));
    assert_eq!(bench.wanted(), [new_fork(fourth, 0), new_fork(fifth, 1)]);
    bench.boot(THIRD);
    bench.serve(THIRD);
    assert_eq!(bench.wanted(), [serve(THIRD), stop(FIRST, Level::Graceful)]);
    for worker in [fourth, fifth] {
        bench.boot(worker);
    }
    for worker in [fourth, fifth] {
        bench.serve(worker);
    }
    bench.taken();
    bench.pass(
        Duration::from_secs(1),
        &[FIRST, SECOND, THIRD, fourth, fifth],
    );
    let (three, two) = (stop(THIRD, Level::Graceful), stop(SECOND, Level::Graceful));
    assert_eq!(bench.wanted(), [Action::Release, three, two]);
}

#[test]
fn limits_are_those_of_the_configuration_that_a_worker_was_forked_with() {
    let shorter = |policy: &mut Policy| {
        policy.heartbeat_serving = Some(Duration::from_secs(1));
        policy.graceful = Some(Duration::from_secs(1));
        policy.trial = Duration::from_secs(4);
    };
    let mut bench = Bench::trial_with(|_| {}, shorter);
    bench.pass(Duration::from_millis(500), &[FIRST, SECOND, THIRD, FOURTH]);
    // The old ones beat once a second, which was enough for their limit.
    for _ in 0..4 {
        bench.pass(Duration::from_millis(900), &[THIRD, FOURTH]);
    }
    bench.drain(FIRST);
    bench.drain(SECOND);
    assert_eq!(bench.answer(), Ok(2));
    // graceful 15 s, cleanup 5 s, margin 2 s, as they know it.
    for _ in 0..42 {
        bench.pass(Duration::from_millis(500), &[FIRST, SECOND, THIRD, FOURTH]);
    }
    assert_eq!(bench.wanted(), []);
}

#[test]
fn a_limit_that_is_reached_in_the_trial_counts_after_it() {
    let mut bench = Bench::trial();
    let cause = Recycle::Requests;
    bench.tell(Event::Recycle {
        worker: THIRD,
        cause,
    });
    assert_eq!(bench.wanted(), []);
    bench.pass(Duration::from_secs(1), &[FIRST, SECOND, THIRD, FOURTH]);
    let wanted = bench.wanted();
    let recycles = |action: &Action| {
        matches!(
            action,
            Action::Fork {
                slot: 0,
                generation: 2,
                cause: Cause::Recycle(_),
                ..
            }
        )
    };
    assert!(wanted.iter().any(recycles), "{wanted:?}");
}

#[test]
fn their_number_is_that_of_the_file_when_it_changes() {
    let mut bench = Bench::preparing_with(|_| {}, |policy| policy.workers = 3);
    assert_eq!(bench.wanted().len(), 3);
    assert_eq!((bench.core.workers_of(1), bench.core.workers_of(2)), (2, 3));
    assert_eq!(bench.core.target(), 2, "until the commit");
}

#[test]
fn their_number_is_the_operators_when_the_file_says_nothing_new() {
    let mut bench = Bench::ready();
    bench.tell(Event::Asked(Request::OneLess));
    bench.ask(ONE);
    bench.tell(Event::Preflighted(Ok(())));
    bench.taken();
    bench.resume(Image::Next);
    assert_eq!(bench.wanted(), [new_fork(THIRD, 0)]);
}

#[test]
fn a_change_of_their_number_waits_for_the_end() {
    let mut bench = Bench::trial();
    bench.tell(Event::Asked(Request::OneMore));
    bench.tell(Event::Asked(Request::OneMore));
    assert_eq!(bench.wanted(), []);
    bench.pass(Duration::from_secs(1), &[FIRST, SECOND, THIRD, FOURTH]);
    bench.taken();
    bench.drain(FIRST);
    bench.drain(SECOND);
    assert_eq!(bench.core.target(), 4);
}

#[test]
fn further_triggers_join_and_the_manager_hears_a_new_moment_for_each() {
    let mut bench = Bench::preparing();
    bench.taken();
    bench.ask(TWO);
    assert_eq!(bench.wanted(), [Action::Reloading]);
    bench.exit(THIRD, Exit::Code(70));
    bench.taken();
    bench.resume(Image::Last);
    let answers = |action: &&Action| matches!(action, Action::Answer { .. });
    assert_eq!(bench.taken().iter().filter(answers).count(), 2);
}

#[test]
fn a_stop_after_the_commit_does_not_take_it_back() {
    let mut bench = Bench::trial();
    bench.pass(Duration::from_secs(1), &[FIRST, SECOND, THIRD, FOURTH]);
    bench.taken();
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    assert_eq!(bench.answer(), Ok(2));
}

#[test]
fn a_stop_ends_the_check() {
    let mut bench = Bench::ready();
    bench.ask(ONE);
    bench.taken();
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    assert_eq!(bench.wanted()[0], Action::EndPreflight);
    bench.ask(TWO);
    assert_eq!(bench.answer(), Err("the service is stopping".to_owned()));
}

#[test]
fn it_waits_for_the_first_ready_and_fails_with_the_boot() {
    let mut bench = Bench::new(|_| {});
    bench.ask(ONE);
    bench.taken();
    bench.boot(FIRST);
    bench.boot(SECOND);
    bench.serve(FIRST);
    bench.taken();
    bench.serve(SECOND);
    let wanted = [Action::Ready, Action::Reloading, Action::Preflight];
    assert_eq!(bench.wanted(), wanted);

    let mut bench = Bench::new(|_| {});
    bench.ask(ONE);
    bench.exit(FIRST, Exit::Code(70));
    assert_eq!(bench.answer(), Err("the service cannot start".to_owned()));
}

#[test]
fn a_long_one_asks_the_manager_for_time() {
    let mut bench = Bench::preparing_with(|_| {}, |policy| policy.startup = None);
    bench.taken();
    bench.pass(Duration::from_secs(25), &[FIRST, SECOND, THIRD, FOURTH]);
    let more = Action::ExtendTimeout(Duration::from_secs(30));
    let asked = bench
        .taken()
        .iter()
        .filter(|action| **action == more)
        .count();
    assert_eq!(asked, 2);
}
