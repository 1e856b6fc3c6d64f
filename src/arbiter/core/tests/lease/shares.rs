//! A change of the number of slots, where a share cannot be started again in its worker.

use super::*;

const FIFTH: WorkerId = WorkerId(5);

/// It can be started once in each worker.
fn once() -> Vec<Want> {
    Want::of(&["consumer".to_owned()], &[Scope::Slot], &[0])
}

fn scaled(wants: &[Want]) -> Bench {
    let mut bench = Bench::leased(wants);
    bench.tell(Event::Asked(Request::OneMore));
    bench.taken();
    bench.come_up(THIRD, wants);
    bench
}

fn forks(bench: &mut Bench) -> Vec<Action> {
    let mut actions = bench.taken();
    actions.retain(|action| matches!(action, Action::Fork { .. } | Action::Send { .. }));
    actions
}

#[test]
fn all_run_on_until_everybody_has_a_successor_and_then_start_together() {
    let mut bench = scaled(&once());
    let slots = Cause::Recycle(Recycle::Slots);
    let both = [fork(FOURTH, 0, 0, slots), fork(FIFTH, 1, 0, slots)];
    assert_eq!(forks(&mut bench), [&[serve(THIRD)][..], &both].concat());
    bench.want(FOURTH, &once());
    bench.boot(FOURTH);
    bench.pass(
        Duration::from_secs(1),
        &[FIRST, SECOND, THIRD, FOURTH, FIFTH],
    );
    assert_eq!(forks(&mut bench), [], "the other one is not prepared");
    bench.want(FIFTH, &once());
    bench.boot(FIFTH);
    let now = [
        serve(FOURTH),
        serve(FIFTH),
        revoke(FIRST, 0, 1),
        revoke(SECOND, 0, 2),
    ];
    assert_eq!(forks(&mut bench), now);
    bench.give_back(FIRST, 0, 1, Released::Spent);
    bench.give_back(SECOND, 0, 2, Released::Spent);
    assert_eq!(bench.grants(), [grant(THIRD, 0, 3, 3)]);
    bench.serve(FOURTH);
    bench.serve(FIFTH);
    let all = [grant(FOURTH, 0, 4, 3), grant(FIFTH, 0, 5, 3)];
    assert_eq!(bench.grants(), all);
}

#[test]
fn a_slot_that_is_given_up_keeps_its_share_until_the_others_are_prepared() {
    let mut bench = Bench::new(|policy| policy.workers = 3);
    let first = [FIRST, SECOND, THIRD];
    for worker in first {
        bench.want(worker, &once());
        bench.boot(worker);
    }
    for worker in first {
        bench.serve(worker);
    }
    bench.taken();
    bench.tell(Event::Asked(Request::OneLess));
    let slots = Cause::Recycle(Recycle::Slots);
    let both = [fork(FOURTH, 0, 0, slots), fork(FIFTH, 1, 0, slots)];
    assert_eq!(forks(&mut bench), both, "nobody is told to leave");
    for worker in [FOURTH, FIFTH] {
        bench.want(worker, &once());
        bench.boot(worker);
    }
    let actions = forks(&mut bench);
    let now = [
        serve(FOURTH),
        serve(FIFTH),
        stop(THIRD, Level::Graceful),
        revoke(FIRST, 0, 1),
        revoke(SECOND, 0, 2),
    ];
    assert_eq!(actions, now);
}

/// Its successor serves at once: nobody is there who could run the share meanwhile.
#[test]
fn one_that_dies_before_is_replaced_without_waiting_for_the_others() {
    let mut bench = scaled(&once());
    bench.want(FOURTH, &once());
    bench.boot(FOURTH);
    bench.taken();
    bench.exit(FIRST, Exit::Signal(9));
    assert_eq!(forks(&mut bench), [serve(FOURTH)]);
    bench.serve(FOURTH);
    assert_eq!(bench.grants(), [grant(FOURTH, 0, 3, 2)]);
}

#[test]
fn a_number_that_is_taken_back_changes_nothing_for_the_shares() {
    let mut bench = scaled(&once());
    bench.taken();
    bench.tell(Event::Asked(Request::OneLess));
    let taken = bench.grants();
    assert_eq!(taken, [], "two share as before");
}
