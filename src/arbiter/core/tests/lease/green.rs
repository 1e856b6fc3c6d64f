//! The service is never shown green while nobody runs a payload of which there is one. Workers as in the tests of leases.

use super::*;

const BOTH: [WorkerId; 2] = [FIRST, SECOND];
const EVERYBODY: [WorkerId; 4] = [FIRST, SECOND, THIRD, FOURTH];

/// What was said about the service: `true` for degraded, with the failures of a payload.
fn told(bench: &mut Bench) -> Vec<(bool, u32)> {
    let told = bench
        .notices()
        .into_iter()
        .filter_map(|notice| match notice {
            Notice::Degraded { failing, .. } => Some((true, failing.map_or(0, |it| it.1))),
            Notice::Recovered { .. } => Some((false, 0)),
            _ => None,
        });
    told.collect()
}

/// Two workers that serve and want this; the first one has had it and failed so often in a row that it pauses.
fn pausing(wants: &[Want]) -> Bench {
    let mut bench = Bench::leased(wants);
    bench.taken();
    bench.fail();
    assert_eq!(bench.core.state(), ServiceState::Ready, "it moves at once");
    bench.fail();
    assert_eq!(bench.core.state(), ServiceState::Degraded);
    bench
}

impl Bench {
    /// Whoever has the first lease gives it back as failed, and serves on.
    fn fail(&mut self) {
        let leases = self.core.leases(self.now);
        let holder = leases[0].holder.as_ref().expect("nobody has it");
        let (slot, epoch) = (holder.slot as usize, holder.epoch);
        let worker = self.core.slots[slot].serving.unwrap();
        self.give_back(worker, 0, epoch, Released::Unknown);
    }

    /// To the end of its pause.
    fn wait_for_it(&mut self, alive: &[WorkerId]) {
        let lease = &self.core.leases(self.now)[0];
        let left = lease.again_in.expect("it does not pause");
        self.pass(Duration::from_secs_f64(left), alive);
        assert!(self.core.leases(self.now)[0].holder.is_some());
    }
}

#[test]
fn a_payload_that_fails_wherever_it_is_degrades_the_service_until_somebody_keeps_it() {
    for wants in [scheduler(), consumer()] {
        let mut bench = pausing(&wants);
        assert_eq!(bench.core.serving(), 2, "everybody serves");
        assert_eq!(told(&mut bench), [(true, 2)]);
        for failures in 3..6 {
            bench.wait_for_it(&BOTH);
            let failing = bench.core.failing().unwrap();
            assert!(failing.is_held && failing.failures == failures - 1);
            assert_eq!(bench.core.state(), ServiceState::Degraded, "it is tried");
            bench.fail();
            let failing = bench.core.failing().unwrap();
            assert!(failing.retry_at.is_some_and(|at| at > bench.now));
        }
        bench.wait_for_it(&BOTH);
        assert_eq!(told(&mut bench), [], "all of it is one trouble");
        // Ten times the pause that a sixth failure would cause, and a beat.
        let due = Duration::from_millis(100 * 16 * 10);
        assert!(due > bench.core.policy.stable_after);
        let due = bench.core.policy.stable_after;
        bench.pass(due - Duration::from_millis(1), &BOTH);
        assert_eq!(bench.core.state(), ServiceState::Degraded);
        bench.pass(Duration::from_millis(1), &BOTH);
        assert_eq!(bench.core.state(), ServiceState::Ready);
        assert_eq!(told(&mut bench), [(false, 0)]);
        bench.fail();
        assert_eq!(bench.core.state(), ServiceState::Ready, "the first one");
    }
}

#[test]
fn the_time_that_proves_it_is_ten_times_the_pause_where_that_is_short() {
    let mut bench = pausing(&scheduler());
    bench.wait_for_it(&BOTH);
    let due = bench.now + Duration::from_secs(2);
    assert_eq!(bench.core.poll_timeout(), Some(due), "it wakes up for it");
    bench.pass(Duration::from_millis(1_999), &BOTH);
    assert_eq!(bench.core.state(), ServiceState::Degraded);
    bench.pass(Duration::from_millis(1), &BOTH);
    assert_eq!(bench.core.state(), ServiceState::Ready);
}

/// Its worker is stuck before it has done anything.
#[test]
fn a_holder_that_gives_no_sign_of_life_proves_nothing() {
    let mut bench = pausing(&scheduler());
    bench.wait_for_it(&BOTH);
    bench.taken();
    bench.pass(Duration::from_secs(5), &[SECOND]);
    assert_eq!(bench.core.state(), ServiceState::Degraded);
    assert_eq!(bench.core.leases(bench.now)[0].failures, 2);
    let soon = bench.now + Duration::from_secs(1);
    assert!(bench.core.poll_timeout().is_some_and(|at| at <= soon));
    bench.pass(Duration::from_millis(900), &BOTH);
    assert_eq!(bench.core.state(), ServiceState::Ready, "it was busy");
    assert_eq!(told(&mut bench), [(false, 0)]);
}

/// The first thing that is seen of it is that its worker leaves.
#[test]
fn what_is_left_when_everybody_serves_again_is_said() {
    let mut bench = Bench::leased(&scheduler());
    bench.taken();
    bench.exit(FIRST, Exit::Signal(11));
    bench.pass(Duration::from_millis(200), &[SECOND]);
    bench.come_up(THIRD, &scheduler());
    assert_eq!(told(&mut bench), [(true, 0), (false, 0)]);
    bench.tell(Event::Entered {
        worker: SECOND,
        phase: Phase::Draining,
    });
    assert_eq!(told(&mut bench), [(true, 0)], "not every worker serves");
    bench.give_back(SECOND, 0, 2, Released::Failed);
    assert_eq!(told(&mut bench), [(true, 2)], "nor does anybody run it");
    bench.exit(SECOND, Exit::Code(70));
    bench.pass(Duration::from_millis(1), &[THIRD]);
    assert_eq!(told(&mut bench), []);
}

#[test]
fn one_that_is_done_is_missed_by_nobody() {
    let mut bench = pausing(&scheduler());
    bench.wait_for_it(&BOTH);
    let epoch = bench.core.leases(bench.now)[0]
        .holder
        .as_ref()
        .unwrap()
        .epoch;
    let slot = bench.core.leases(bench.now)[0]
        .holder
        .as_ref()
        .unwrap()
        .slot;
    bench.taken();
    let worker = BOTH[slot as usize];
    bench.give_back(worker, 0, epoch, Released::Finished);
    assert_eq!(bench.core.state(), ServiceState::Ready);
    assert_eq!(told(&mut bench), [(false, 0)]);
}

#[test]
fn a_slot_that_is_given_up_has_no_payload_that_is_missed() {
    let mut bench = Bench::leased(&consumer());
    bench.taken();
    for _ in 0..2 {
        let leases = bench.core.leases(bench.now);
        let epoch = leases[1].holder.as_ref().unwrap().epoch;
        bench.give_back(SECOND, 0, epoch, Released::Unknown);
    }
    assert_eq!(bench.core.state(), ServiceState::Degraded);
    bench.tell(Event::Asked(Request::OneLess));
    assert_eq!(bench.core.state(), ServiceState::Ready);
}

/// With the cure, and with new code that has no such payload.
#[test]
fn a_reload_of_a_degraded_service_commits_and_new_code_starts_anew() {
    for wants in [scheduler(), vec![]] {
        let mut bench = pausing(&scheduler());
        bench.on_trial(&wants);
        bench.taken();
        assert_eq!(bench.core.state(), ServiceState::Reloading);
        bench.pass(Duration::from_millis(900), &EVERYBODY);
        bench.pass(Duration::from_millis(200), &EVERYBODY);
        for worker in BOTH {
            bench.exit(worker, Exit::Code(0));
        }
        assert_eq!(bench.core.generation(), 2);
        assert_eq!(bench.core.reload_failure(), None);
        assert_eq!(bench.core.state(), ServiceState::Ready);
        assert_eq!(told(&mut bench), [(false, 0)]);
    }
}

#[test]
fn a_reload_that_is_rolled_back_leaves_the_service_as_degraded_as_it_was() {
    let mut bench = pausing(&scheduler());
    bench.taken();
    bench.on_trial(&scheduler());
    bench.exit(FOURTH, Exit::Signal(11));
    bench.change_image();
    bench.tell(Event::Resume);
    assert_eq!(bench.core.state(), ServiceState::Degraded);
    assert!(bench.core.reload_failure().is_some());
    assert_eq!(told(&mut bench), [], "it has been said");
}

/// The old code has a share for each slot, and the first one's pauses. Of the new code one has no such payload, and one has
/// it in another scope.
#[test]
fn where_two_apps_serve_side_by_side_nobody_misses_what_has_no_place() {
    for (leaves, new) in [
        (FIRST, vec![]),
        (SECOND, wants(&[("consumer", Scope::Service)])),
    ] {
        let mut bench = pausing(&consumer());
        // So that the pause is longer than a boot.
        for _ in 0..3 {
            bench.wait_for_it(&BOTH);
            bench.fail();
        }
        bench.on_trial(&new);
        bench.exit(FOURTH, Exit::Signal(11));
        bench.tell(Event::ExecFailed {
            error: "no file".to_owned(),
        });
        bench.exit(leaves, Exit::Signal(11));
        let (next, both) = (WorkerId(5), [FIRST, SECOND, THIRD, WorkerId(5)]);
        bench.pass(Duration::from_millis(100), &both);
        bench.come_up(next, &new);
        bench.exit(THIRD, Exit::Code(0));
        bench.pass(Duration::from_secs(20), &both);
        assert_eq!(bench.core.serving(), 2);
        assert_eq!(bench.core.state(), ServiceState::Ready, "{leaves}");
    }
}
