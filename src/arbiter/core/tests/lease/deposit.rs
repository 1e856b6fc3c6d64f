//! What holders leave, and who gets it. Workers as in the tests of leases.

use super::*;

#[test]
fn what_a_holder_has_kept_goes_to_the_next_one_and_the_newest_counts() {
    let mut bench = Bench::leased(&scheduler());
    bench.taken();
    bench.keep(FIRST, 1, 10);
    assert_eq!(bench.taken(), []);
    bench.keep(FIRST, 1, 11);
    assert_eq!(bench.taken(), [discard(10)]);
    for (worker, epoch) in [(SECOND, 1), (FIRST, 0), (FIRST, 2)] {
        bench.keep(worker, epoch, 12);
        assert_eq!(bench.taken(), [discard(12)], "not the holder's");
    }
    bench.exit(FIRST, Exit::Signal(9));
    assert_eq!(bench.grants(), [grant_with(SECOND, 2, 2, 11)]);
    bench.keep(FIRST, 1, 13);
    assert_eq!(bench.taken(), [discard(13)], "too late");
    // The only one that is left keeps nothing, and what was kept stays.
    bench.exit(SECOND, Exit::Signal(9));
    bench.pass(Duration::from_secs(1), &[]);
    bench.come_up(THIRD, &scheduler());
    bench.pass(Duration::from_secs(1), &[THIRD]);
    assert_eq!(bench.grants(), [grant_with(THIRD, 3, 2, 11)]);
}

#[test]
fn what_was_kept_stays_when_nobody_can_run_it_for_a_while() {
    let mut bench = Bench::leased(&scheduler());
    bench.keep(FIRST, 1, 10);
    bench.give_back(FIRST, SCHEDULER, 1, Released::Failed);
    bench.give_back(SECOND, SCHEDULER, 2, Released::Failed);
    bench.exit(FIRST, Exit::Signal(9));
    bench.exit(SECOND, Exit::Signal(9));
    bench.pass(Duration::from_secs(9), &[]);
    bench.come_up(THIRD, &scheduler());
    bench.pass(Duration::from_secs(9), &[THIRD]);
    let actions = bench.taken();
    assert!(
        actions.contains(&grant_with(THIRD, 3, 2, 10)),
        "{actions:?}"
    );
    assert!(!actions.contains(&discard(10)));
}

#[test]
fn what_was_kept_is_dropped_after_the_commit_of_a_generation_that_does_not_know_it() {
    let mut bench = Bench::leased(&scheduler());
    bench.keep(FIRST, 1, 10);
    bench.on_trial(&consumer());
    bench.taken();
    let everybody = [FIRST, SECOND, THIRD, FOURTH];
    bench.give_back(FIRST, SCHEDULER, 1, Released::Failed);
    bench.pass(Duration::from_millis(900), &everybody);
    assert!(!bench.taken().contains(&discard(10)), "on trial");
    bench.pass(Duration::from_millis(200), &everybody);
    assert_eq!(bench.core.generation(), 2);
    bench.exit(FIRST, Exit::Code(0));
    assert!(!bench.taken().contains(&discard(10)), "one is left");
    bench.exit(SECOND, Exit::Code(0));
    assert!(bench.taken().contains(&discard(10)));
}

#[test]
fn what_was_kept_survives_a_rollback() {
    let mut bench = Bench::leased(&scheduler());
    bench.keep(FIRST, 1, 10);
    bench.on_trial(&consumer());
    bench.exit(FOURTH, Exit::Signal(11));
    bench.exit(FIRST, Exit::Signal(11));
    bench.exit(SECOND, Exit::Signal(11));
    bench.change_image();
    bench.tell(Event::Resume);
    bench.pass(Duration::from_secs(1), &[THIRD]);
    let actions = bench.taken();
    assert!(!actions.contains(&discard(10)), "{actions:?}");
    let next = [5, 6].map(WorkerId);
    for worker in next {
        bench.come_up(worker, &scheduler());
    }
    bench.pass(Duration::from_secs(1), &next);
    let actions = bench.taken();
    let is_grant = |action: &&Action| matches!(action, Action::Send { order: Order::Grant { kept: Some(kept), .. }, .. } if *kept == deposit(10));
    assert_eq!(actions.iter().filter(is_grant).count(), 1, "{actions:?}");
}

#[test]
fn each_slot_has_its_own_and_one_that_was_given_up_leaves_nothing() {
    let mut bench = Bench::leased(&consumer());
    bench.keep(FIRST, 1, 10);
    bench.keep(SECOND, 2, 11);
    bench.taken();
    bench.tell(Event::Asked(Request::OneLess));
    bench.give_back(FIRST, 0, 1, Released::Stopped);
    assert!(
        !bench.taken().contains(&discard(11)),
        "it may still be at work"
    );
    bench.give_back(SECOND, 0, 2, Released::Spent);
    let actions = bench.taken();
    assert!(actions.contains(&discard(11)));
    assert!(actions.contains(&grant_with(FIRST, 3, 1, 10)));
    bench.exit(SECOND, Exit::Code(0));
    bench.tell(Event::Asked(Request::OneMore));
    bench.come_up(THIRD, &consumer());
    bench.give_back(FIRST, 0, 3, Released::Stopped);
    let both = [grant_with(FIRST, 4, 2, 10), grant(THIRD, 0, 5, 2)];
    assert_eq!(bench.grants()[1..], both);
}

#[test]
fn what_came_out_of_the_store_goes_to_who_wants_it() {
    let mut bench = Bench::new(|_| {});
    bench.core = Core::new(bench.core.policy.clone(), 7);
    assert!(bench.core.inherit("scheduler", None, deposit(10)));
    assert!(bench.core.inherit("forgotten", None, deposit(11)));
    assert!(bench.core.inherit("scheduler", Some(1), deposit(12)));
    assert!(!bench.core.inherit("scheduler", None, deposit(13)));
    assert_eq!(bench.core.deposits(), 3);
    bench.tell(Event::Start);
    for worker in [FIRST, SECOND] {
        bench.want(worker, &scheduler());
        bench.boot(worker);
    }
    bench.serve(FIRST);
    bench.taken();
    bench.serve(SECOND);
    let actions = bench.taken();
    for expected in [grant_with(FIRST, 1, 2, 10), discard(11), discard(12)] {
        assert!(actions.contains(&expected), "{actions:?}");
    }
    assert_eq!(bench.core.deposits(), 1);
}
