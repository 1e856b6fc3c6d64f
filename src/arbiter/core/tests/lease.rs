//! Who gets a lease and when. Workers 1 and 2 serve before a reload, 3 and 4 are the next generation.

mod back;
mod deposit;
mod green;
mod shares;

use super::*;
use crate::arbiter::core::lease::Want;
use crate::arbiter::core::reload::Trigger;
use crate::arbiter::core::saved::Saved;
use crate::lease::{Deposit, Grant, Released};
use crate::status::Scope;

const FOURTH: WorkerId = WorkerId(4);
/// The number of each payload is its place among those that are wanted.
const SCHEDULER: u32 = 0;

fn wants(scopes: &[(&str, Scope)]) -> Vec<Want> {
    let names: Vec<_> = scopes.iter().map(|(name, _)| (*name).to_owned()).collect();
    let scopes: Vec<_> = scopes.iter().map(|(_, scope)| *scope).collect();
    Want::of(&names, &scopes, &[])
}

fn scheduler() -> Vec<Want> {
    wants(&[("scheduler", Scope::Service)])
}

fn consumer() -> Vec<Want> {
    wants(&[("consumer", Scope::Slot)])
}

fn grant(worker: WorkerId, payload: u32, epoch: u64, slots: u16) -> Action {
    Action::Send {
        worker,
        order: Order::Grant {
            payload,
            grant: Grant { epoch, slots },
            kept: None,
        },
    }
}

/// The same with what was kept.
fn grant_with(worker: WorkerId, epoch: u64, slots: u16, number: u64) -> Action {
    let order = Order::Grant {
        payload: 0,
        grant: Grant { epoch, slots },
        kept: Some(deposit(number)),
    };
    Action::Send { worker, order }
}

fn deposit(number: u64) -> Deposit {
    Deposit { number, length: 3 }
}

fn discard(deposit: u64) -> Action {
    Action::Discard { deposit }
}

fn revoke(worker: WorkerId, payload: u32, epoch: u64) -> Action {
    Action::Send {
        worker,
        order: Order::Revoke { payload, epoch },
    }
}

impl Bench {
    /// Two workers that serve and want this.
    fn leased(wants: &[Want]) -> Self {
        let mut bench = Self::new(|_| {});
        for worker in [FIRST, SECOND] {
            bench.want(worker, wants);
            bench.boot(worker);
        }
        bench.serve(FIRST);
        bench.taken();
        bench.serve(SECOND);
        bench
    }

    fn want(&mut self, worker: WorkerId, wants: &[Want]) {
        let wants = wants.to_vec();
        self.tell(Event::Wants { worker, wants });
    }

    fn come_up(&mut self, worker: WorkerId, wants: &[Want]) {
        self.want(worker, wants);
        self.boot(worker);
        self.serve(worker);
    }

    fn give_back(&mut self, worker: WorkerId, payload: u32, epoch: u64, how: Released) {
        self.tell(Event::Released {
            worker,
            payload,
            epoch,
            how,
            at: self.now,
        });
    }

    fn undeliver(&mut self, worker: WorkerId, epoch: u64) {
        self.tell(Event::Undelivered {
            worker,
            payload: SCHEDULER,
            epoch,
        });
    }

    /// How long nobody had what was granted last.
    fn gap(&mut self) -> Option<Duration> {
        let notices = self.notices().into_iter().rev();
        let mut gaps = notices.filter_map(|notice| match notice {
            Notice::LeaseGranted { gap, .. } => Some(gap),
            _ => None,
        });
        gaps.next()
    }

    fn keep(&mut self, worker: WorkerId, epoch: u64, number: u64) {
        self.tell(Event::Kept {
            worker,
            payload: 0,
            epoch,
            deposit: deposit(number),
        });
    }

    fn change_image(&mut self) {
        let text = serde_json::to_string(&self.core.save()).unwrap();
        let saved = serde_json::from_str(&text).unwrap();
        self.core = Core::adopt(self.core.policy.clone(), 7, saved, 0, self.now);
    }

    /// The next generation, of which everybody wants this, serves on trial.
    fn on_trial(&mut self, wants: &[Want]) {
        self.tell(Event::Asked(Request::Reload(Trigger(1))));
        self.tell(Event::Preflighted(Ok(())));
        self.change_image();
        self.tell(Event::Resume);
        for worker in [THIRD, FOURTH] {
            self.want(worker, wants);
            self.boot(worker);
        }
        for worker in [THIRD, FOURTH] {
            self.serve(worker);
        }
    }

    fn grants(&mut self) -> Vec<Action> {
        let is_grant = |action: &Action| {
            let order = match action {
                Action::Send { order, .. } => order,
                _ => return false,
            };
            matches!(order, Order::Grant { .. } | Order::Revoke { .. })
        };
        self.taken().into_iter().filter(is_grant).collect()
    }
}

#[test]
fn nobody_has_one_before_the_service_is_ready() {
    let mut bench = Bench::new(|_| {});
    for worker in [FIRST, SECOND] {
        bench.want(worker, &scheduler());
        bench.boot(worker);
    }
    bench.serve(FIRST);
    assert_eq!(bench.grants(), []);
    bench.serve(SECOND);
    assert_eq!(bench.grants(), [grant(FIRST, SCHEDULER, 1, 2)]);
}

#[test]
fn several_are_spread_over_the_workers() {
    let names = ["a", "b", "c", "d"].map(|name| (name, Scope::Service));
    let mut bench = Bench::leased(&wants(&names));
    let workers: Vec<_> = bench
        .grants()
        .into_iter()
        .map(|action| match action {
            Action::Send { worker, .. } => worker,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(workers, [FIRST, SECOND, FIRST, SECOND]);
}

#[test]
fn one_that_is_stuck_holds_it_until_it_was_reaped() {
    let mut bench = Bench::leased(&scheduler());
    bench.taken();
    bench.pass(Duration::from_secs(20), &[SECOND]);
    let actions = bench.taken();
    assert!(actions.contains(&Action::Kill { worker: FIRST }));
    let granted = |action: &Action| matches!(action, Action::Log(Notice::LeaseGranted { .. }));
    assert!(!actions.iter().any(granted), "it may run yet");
    bench.exit(FIRST, Exit::Signal(9));
    let actions = bench.taken();
    assert!(actions.contains(&grant(SECOND, SCHEDULER, 2, 2)));
    let gap = actions.iter().find_map(|action| match action {
        Action::Log(Notice::LeaseGranted { gap, .. }) => Some(*gap),
        _ => None,
    });
    assert_eq!(gap, Some(Duration::from_secs(20)), "since its last beat");
}

/// Reload after reload would leave the lease with it for ever.
#[test]
fn one_that_is_stuck_gets_no_more_time_by_another_image() {
    let mut bench = Bench::leased(&scheduler());
    for _ in 0..4 {
        bench.pass(Duration::from_millis(1_400), &[SECOND]);
        bench.change_image();
        bench.tell(Event::Resume);
    }
    bench.taken();
    bench.pass(Duration::from_millis(500), &[SECOND]);
    let aborted =
        |action: &Action| matches!(action, Action::Abort { worker, .. } if *worker == FIRST);
    assert!(bench.taken().iter().any(aborted), "its 6 s are over");
}

#[test]
fn a_closed_channel_and_an_order_to_stop_are_no_end() {
    let mut bench = Bench::leased(&scheduler());
    bench.taken();
    bench.tell(Event::ChannelClosed { worker: FIRST });
    assert_eq!(bench.grants(), []);
    let mut bench = Bench::leased(&scheduler());
    bench.tell(Event::Asked(Request::OneLess));
    bench.tell(Event::Asked(Request::OneMore));
    bench.taken();
    bench.tell(Event::Entered {
        worker: FIRST,
        phase: Phase::Draining,
    });
    assert_eq!(bench.grants(), []);
    bench.give_back(FIRST, SCHEDULER, 1, Released::Spent);
    assert_eq!(bench.grants().len(), 0, "nobody else stays");
}

#[test]
fn what_is_said_about_another_grant_is_ignored() {
    let mut bench = Bench::leased(&scheduler());
    bench.taken();
    for (worker, payload, epoch) in [(SECOND, 0, 1), (FIRST, 1, 1), (FIRST, 0, 0), (FIRST, 0, 2)] {
        bench.give_back(worker, payload, epoch, Released::Stopped);
        assert_eq!(bench.taken(), []);
    }
}

#[test]
fn a_reload_moves_it_at_the_commit_when_the_old_one_has_given_it_back() {
    let mut bench = Bench::leased(&scheduler());
    bench.taken();
    bench.on_trial(&scheduler());
    let everybody = [FIRST, SECOND, THIRD, FOURTH];
    bench.pass(Duration::from_millis(900), &everybody);
    assert_eq!(bench.grants(), [], "on trial");
    bench.pass(Duration::from_millis(200), &everybody);
    assert_eq!(bench.core.generation(), 2);
    assert_eq!(bench.grants(), [], "the old one was told to leave");
    bench.give_back(FIRST, SCHEDULER, 1, Released::Spent);
    assert_eq!(bench.grants(), [grant(THIRD, SCHEDULER, 2, 2)]);
}

#[test]
fn the_gap_is_counted_from_what_the_worker_says() {
    let mut bench = Bench::leased(&scheduler());
    bench.taken();
    bench.tell(Event::Entered {
        worker: FIRST,
        phase: Phase::Draining,
    });
    let at = bench.now + Duration::from_millis(10);
    bench.now = bench.now + Duration::from_millis(50);
    bench.tell(Event::Released {
        worker: FIRST,
        payload: SCHEDULER,
        epoch: 1,
        how: Released::Spent,
        at,
    });
    let gap = bench.notices().iter().find_map(|notice| match notice {
        Notice::LeaseGranted { gap, .. } => Some(*gap),
        _ => None,
    });
    assert_eq!(gap, Some(Duration::from_millis(40)));
}

#[test]
fn a_trial_gets_nothing_that_the_old_generation_does_not_know_either() {
    let mut bench = Bench::leased(&[]);
    bench.on_trial(&scheduler());
    let everybody = [FIRST, SECOND, THIRD, FOURTH];
    bench.pass(Duration::from_millis(900), &everybody);
    assert_eq!(bench.grants(), [], "it could still be rolled back");
    bench.pass(Duration::from_millis(200), &everybody);
    assert_eq!(bench.grants(), [grant(THIRD, SCHEDULER, 1, 2)]);
}

#[test]
fn a_rollback_takes_nothing_from_the_old_generation() {
    let mut bench = Bench::leased(&scheduler());
    bench.taken();
    bench.on_trial(&scheduler());
    bench.exit(FOURTH, Exit::Signal(11));
    bench.change_image();
    bench.tell(Event::Resume);
    bench.tell(Event::Entered {
        worker: THIRD,
        phase: Phase::Draining,
    });
    bench.exit(THIRD, Exit::Code(0));
    assert_eq!(bench.grants(), []);
    bench.exit(FIRST, Exit::Signal(11));
    assert_eq!(
        bench.grants(),
        [grant(SECOND, SCHEDULER, 2, 2)],
        "epochs go on"
    );
}

#[test]
fn a_critical_one_that_failed_does_not_go_back_to_the_same_worker() {
    let mut bench = Bench::leased(&scheduler());
    bench.taken();
    bench.give_back(FIRST, SCHEDULER, 1, Released::Failed);
    assert_eq!(bench.grants(), [grant(SECOND, SCHEDULER, 2, 2)]);
    bench.give_back(SECOND, SCHEDULER, 2, Released::Failed);
    bench.pass(Duration::from_secs(1), &[FIRST, SECOND]);
    assert_eq!(bench.grants(), [], "both are about to leave");
}

#[test]
fn one_that_is_finished_waits_for_the_next_generation() {
    let mut bench = Bench::leased(&scheduler());
    bench.taken();
    bench.give_back(FIRST, SCHEDULER, 1, Released::Finished);
    bench.exit(FIRST, Exit::Signal(11));
    bench.pass(Duration::from_millis(200), &[SECOND]);
    bench.come_up(THIRD, &scheduler());
    assert_eq!(bench.grants(), []);
    assert!(bench.core.leases(bench.now)[0].finished);
    let mut bench = Bench::leased(&scheduler());
    bench.give_back(FIRST, SCHEDULER, 1, Released::Finished);
    bench.taken();
    bench.on_trial(&scheduler());
    bench.pass(Duration::from_secs(2), &[FIRST, SECOND, THIRD, FOURTH]);
    assert_eq!(bench.grants(), [grant(THIRD, SCHEDULER, 2, 2)]);
}

#[test]
fn a_slots_own_worker_has_it_and_its_successor_when_it_was_given_back() {
    let mut bench = Bench::leased(&consumer());
    let both = [grant(FIRST, 0, 1, 2), grant(SECOND, 0, 2, 2)];
    assert_eq!(bench.grants(), both);
    bench.tell(Event::Recycle {
        worker: SECOND,
        cause: Recycle::Requests,
    });
    bench.come_up(THIRD, &consumer());
    let actions = bench.taken();
    assert!(actions.contains(&stop(SECOND, Level::Graceful)));
    bench.give_back(SECOND, 0, 2, Released::Spent);
    assert_eq!(bench.grants(), [grant(THIRD, 0, 3, 2)]);
    bench.exit(FIRST, Exit::Signal(11));
    assert_eq!(bench.grants(), [], "it is not another slot's");
}

#[test]
fn shares_are_dealt_anew_when_everybody_serves_and_everybody_has_given_back() {
    let mut bench = Bench::leased(&consumer());
    bench.tell(Event::Asked(Request::OneMore));
    bench.taken();
    bench.want(THIRD, &consumer());
    bench.boot(THIRD);
    assert_eq!(bench.grants(), [], "two share until the third serves");
    bench.serve(THIRD);
    assert_eq!(bench.grants(), [revoke(FIRST, 0, 1), revoke(SECOND, 0, 2)]);
    bench.give_back(FIRST, 0, 1, Released::Stopped);
    assert_eq!(bench.grants(), []);
    bench.give_back(SECOND, 0, 2, Released::Stopped);
    let all = [
        grant(FIRST, 0, 3, 3),
        grant(SECOND, 0, 4, 3),
        grant(THIRD, 0, 5, 3),
    ];
    assert_eq!(bench.grants(), all);
}

#[test]
fn a_worker_that_cannot_start_it_again_is_replaced() {
    let mut bench = Bench::leased(&consumer());
    bench.tell(Event::Asked(Request::OneMore));
    bench.come_up(THIRD, &consumer());
    bench.give_back(FIRST, 0, 1, Released::Stopped);
    bench.taken();
    bench.give_back(SECOND, 0, 2, Released::Spent);
    let actions = bench.taken();
    assert!(actions.contains(&fork(FOURTH, 1, 0, Cause::Recycle(Recycle::Slots))));
    assert!(actions.contains(&grant(FIRST, 0, 3, 3)));
    bench.come_up(FOURTH, &consumer());
    assert_eq!(bench.grants(), [grant(FOURTH, 0, 5, 3)]);
}

/// Its share stands still.
#[test]
fn one_that_waits_for_its_turn_to_be_recycled_does_not_wait_for_that() {
    let mut bench = Bench::leased(&consumer());
    for worker in [FIRST, SECOND] {
        let cause = Recycle::Requests;
        bench.tell(Event::Recycle { worker, cause });
    }
    let one = fork(THIRD, 0, 0, Cause::Recycle(Recycle::Requests));
    assert!(bench.taken().contains(&one), "one after the other");
    bench.tell(Event::Asked(Request::OneMore));
    bench.come_up(FOURTH, &consumer());
    bench.taken();
    bench.give_back(SECOND, 0, 2, Released::Spent);
    let slots = Cause::Recycle(Recycle::Slots);
    let actions = bench.taken();
    assert!(
        actions.contains(&fork(WorkerId(5), 1, 0, slots)),
        "{actions:?}"
    );
}

#[test]
fn nothing_is_granted_any_more_when_the_service_stops() {
    let mut bench = Bench::leased(&scheduler());
    bench.tell(Event::Asked(Request::Stop(Level::Graceful)));
    bench.taken();
    bench.give_back(FIRST, SCHEDULER, 1, Released::Spent);
    bench.exit(FIRST, Exit::Code(0));
    assert_eq!(bench.grants(), []);
}

/// An older program knows nothing of leases; its workers want none.
#[test]
fn a_state_without_leases_can_be_taken_over() {
    let mut bench = Bench::leased(&scheduler());
    let mut state = serde_json::to_value(bench.core.save()).unwrap();
    assert!(state.as_object_mut().unwrap().remove("leases").is_some());
    let saved: Saved = serde_json::from_value(state).unwrap();
    // What an image before that one has granted is not known any more: only the clock is.
    let clock = 1_000_000;
    bench.core = Core::adopt(bench.core.policy.clone(), 7, saved, clock, bench.now);
    assert_eq!(bench.core.leases(bench.now), []);
    bench.exit(FIRST, Exit::Signal(9));
    bench.pass(Duration::from_secs(1), &[SECOND]);
    bench.taken();
    bench.come_up(THIRD, &scheduler());
    assert_eq!(bench.grants(), [grant(THIRD, SCHEDULER, clock + 1, 2)]);
}
