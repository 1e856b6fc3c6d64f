//! How a lease becomes free, what that counts as, and for how long nobody had it. Workers as in the tests of leases.

use super::*;

/// Where the arbiter itself did not run, it is the last sign of the worker that is told.
#[test]
fn the_gap_is_counted_from_a_death_that_was_seen_late() {
    let mut bench = Bench::leased(&scheduler());
    bench.taken();
    let at = bench.now + Duration::from_secs(1);
    bench.now = bench.now + Duration::from_secs(4);
    bench.tell(Event::Exited {
        worker: FIRST,
        exit: Exit::Signal(9),
        at,
    });
    assert_eq!(bench.gap(), Some(Duration::from_secs(3)));
}

/// Both are dead when the first death is told: the second one has never had it.
#[test]
fn a_grant_that_reaches_nobody_is_no_failure_and_goes_on_at_once() {
    let mut bench = Bench::leased(&scheduler());
    bench.tell(Event::Asked(Request::OneMore));
    bench.come_up(THIRD, &scheduler());
    bench.taken();
    bench.exit(FIRST, Exit::Signal(9));
    assert_eq!(bench.grants(), [grant(SECOND, SCHEDULER, 2, 3)]);
    bench.now = bench.now + Duration::from_millis(10);
    bench.undeliver(SECOND, 2);
    let actions = bench.taken();
    assert!(
        actions.contains(&grant(THIRD, SCHEDULER, 3, 3)),
        "{actions:?}"
    );
    bench.actions = actions;
    assert_eq!(bench.gap(), Some(Duration::from_millis(10)), "one gap");
    bench.exit(SECOND, Exit::Signal(9));
    assert_eq!(bench.grants(), []);
    bench.exit(THIRD, Exit::Signal(9));
    let notices = bench.notices();
    let pause = notices.iter().find_map(|notice| match notice {
        Notice::LeasePauses { failures, .. } => Some(*failures),
        _ => None,
    });
    assert_eq!(pause, Some(2), "two have had it");
}

#[test]
fn one_that_cannot_take_it_now_gets_it_later() {
    let mut bench = Bench::new(|policy| policy.workers = 1);
    bench.want(FIRST, &scheduler());
    bench.boot(FIRST);
    bench.serve(FIRST);
    bench.taken();
    bench.give_back(FIRST, SCHEDULER, 1, Released::NotTaken);
    assert_eq!(bench.grants(), [grant(FIRST, SCHEDULER, 2, 1)], "at once");
    bench.give_back(FIRST, SCHEDULER, 2, Released::NotTaken);
    assert_eq!(bench.grants(), [], "it pauses");
    let begun = bench.now;
    let due = bench.core.poll_timeout().unwrap();
    assert!(due <= begun + Duration::from_millis(100));
    bench.pass(Duration::from_millis(100), &[FIRST]);
    let actions = bench.taken();
    assert!(
        actions.contains(&grant(FIRST, SCHEDULER, 3, 1)),
        "{actions:?}"
    );
    bench.actions = actions;
    assert_eq!(bench.gap(), Some(due.since(begun)), "that counts as well");
}

/// A newer program may give it back for a reason that has no name here. The only worker must not lose it by that.
#[test]
fn one_that_comes_back_in_an_unknown_way_is_free_and_counts_as_failed() {
    let mut bench = Bench::new(|policy| policy.workers = 1);
    bench.want(FIRST, &scheduler());
    bench.boot(FIRST);
    bench.serve(FIRST);
    bench.taken();
    bench.give_back(FIRST, SCHEDULER, 1, Released::Unknown);
    assert_eq!(bench.grants(), [grant(FIRST, SCHEDULER, 2, 1)], "at once");
    bench.give_back(FIRST, SCHEDULER, 2, Released::Unknown);
    assert_eq!(bench.grants(), [], "it pauses");
    bench.pass(Duration::from_millis(100), &[FIRST]);
    assert_eq!(bench.grants(), [grant(FIRST, SCHEDULER, 3, 1)]);
}

#[test]
fn one_that_did_not_take_it_has_its_turn_after_all_others() {
    let mut bench = Bench::leased(&scheduler());
    bench.tell(Event::Asked(Request::OneMore));
    bench.come_up(THIRD, &scheduler());
    bench.taken();
    let mut holders = vec![FIRST];
    for epoch in 1..6 {
        bench.give_back(holders[0], SCHEDULER, epoch, Released::NotTaken);
        bench.pass(Duration::from_secs(2), &[FIRST, SECOND, THIRD]);
        let granted = bench.grants().into_iter().map(|action| match action {
            Action::Send { worker, .. } => worker,
            other => panic!("{other:?}"),
        });
        let granted: Vec<_> = granted.collect();
        assert_eq!(granted.len(), 1);
        holders.insert(0, granted[0]);
    }
    holders.reverse();
    let round = [FIRST, SECOND, THIRD];
    assert_eq!(holders, [round, round].concat());
}

/// Two deaths, of which the second is one too many for "at once".
#[test]
fn failures_in_a_row_pause_and_a_good_while_forgives_them() {
    let mut bench = Bench::leased(&scheduler());
    bench.taken();
    bench.exit(FIRST, Exit::Signal(11));
    assert_eq!(bench.grants(), [grant(SECOND, SCHEDULER, 2, 2)], "at once");
    bench.pass(Duration::from_millis(200), &[SECOND]);
    bench.come_up(THIRD, &scheduler());
    bench.taken();
    bench.exit(SECOND, Exit::Signal(11));
    assert_eq!(bench.grants(), []);
    bench.pass(Duration::from_millis(100), &[THIRD]);
    assert_eq!(bench.grants(), [grant(THIRD, SCHEDULER, 3, 2)]);
    bench.pass(Duration::from_millis(200), &[THIRD]);
    bench.come_up(FOURTH, &scheduler());
    bench.pass(Duration::from_secs(11), &[THIRD, FOURTH]);
    bench.taken();
    bench.exit(THIRD, Exit::Signal(11));
    assert_eq!(
        bench.grants(),
        [grant(FOURTH, SCHEDULER, 4, 2)],
        "at once again"
    );
}

/// Each of these takes a worker along, and the next one comes when that has been replaced.
#[test]
fn one_whose_holders_die_now_and_then_moves_at_once_each_time() {
    let mut bench = Bench::leased(&scheduler());
    bench.taken();
    let mut holder = FIRST;
    for (epoch, number) in (2..).zip(3..9) {
        bench.pass(
            Duration::from_secs(8),
            &[FIRST, SECOND, WorkerId(number - 1)],
        );
        bench.taken();
        bench.exit(holder, Exit::Signal(9));
        let granted = bench.grants();
        let other = WorkerId(number - 1);
        assert_eq!(granted, [grant(other, SCHEDULER, epoch, 2)]);
        holder = other;
        bench.pass(Duration::from_secs(1), &[other]);
        bench.come_up(WorkerId(number), &scheduler());
    }
}

/// It would take one worker after the other before the first of them is back.
#[test]
fn a_death_before_the_last_victim_was_replaced_pauses() {
    let mut bench = Bench::leased(&scheduler());
    bench.taken();
    bench.exit(FIRST, Exit::Signal(9));
    bench.pass(Duration::from_secs(8), &[SECOND]);
    bench.taken();
    bench.exit(SECOND, Exit::Signal(9));
    let notices = bench.notices();
    let pauses = |notice: &Notice| matches!(notice, Notice::LeasePauses { failures: 2, .. });
    assert!(notices.iter().any(pauses), "{notices:?}");
}

#[test]
fn the_gap_of_a_slot_goes_on_while_its_next_worker_boots() {
    let mut bench = Bench::leased(&consumer());
    bench.taken();
    bench.exit(FIRST, Exit::Signal(9));
    bench.pass(Duration::from_secs(9), &[SECOND, THIRD]);
    bench.come_up(THIRD, &consumer());
    assert_eq!(bench.gap(), Some(Duration::from_secs(9)));
    let shown = bench.core.leases(bench.now);
    assert_eq!((shown[0].gap, shown[0].grants), (9.0, 2));
}

/// Nobody is left who says that there is such a payload.
#[test]
fn the_gap_of_the_only_worker_goes_on_until_the_next_one_serves() {
    for wants in [scheduler(), consumer()] {
        let mut bench = Bench::new(|policy| policy.workers = 1);
        bench.want(FIRST, &wants);
        bench.boot(FIRST);
        bench.serve(FIRST);
        bench.taken();
        bench.exit(FIRST, Exit::Signal(9));
        bench.pass(Duration::from_secs(9), &[SECOND]);
        assert_eq!(bench.core.leases(bench.now).len(), 1);
        bench.come_up(SECOND, &wants);
        assert_eq!(bench.gap(), Some(Duration::from_secs(9)));
    }
}

/// Its worker is healthy, and has to be replaced before it runs there again.
#[test]
fn the_gap_goes_on_while_it_cannot_be_started_again_in_its_worker() {
    let mut bench = Bench::leased(&consumer());
    bench.tell(Event::Asked(Request::OneMore));
    bench.come_up(THIRD, &consumer());
    bench.give_back(SECOND, 0, 2, Released::Stopped);
    bench.give_back(FIRST, 0, 1, Released::Spent);
    bench.taken();
    bench.pass(Duration::from_secs(7), &[FIRST, SECOND, THIRD, FOURTH]);
    bench.come_up(FOURTH, &consumer());
    assert_eq!(bench.gap(), Some(Duration::from_secs(7)));
}

#[test]
fn what_nobody_misses_is_no_gap() {
    let mut bench = Bench::leased(&scheduler());
    bench.give_back(FIRST, SCHEDULER, 1, Released::Finished);
    bench.pass(Duration::from_secs(60), &[FIRST, SECOND]);
    bench.on_trial(&scheduler());
    bench.pass(Duration::from_secs(2), &[FIRST, SECOND, THIRD, FOURTH]);
    assert_eq!(bench.gap(), Some(Duration::ZERO));
}
