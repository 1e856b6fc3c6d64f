//! New workers that fail: the old generation has served all the while, and serves on.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::stage::{OLD, Stage, program_of};
use crate::support::http::try_get;
use crate::support::service::{Quiet as _, Service, Setup, number, signal_to, wait_for_end_of};
use crate::support::status::workers_of;

#[test]
fn load_fails() {
    fails(
        "load = 'fail'",
        "load failed: read the table: no such table",
    );
}

#[test]
fn load_panics() {
    fails("load = 'panic'", "load panicked: asked to panic");
}

#[test]
fn load_hangs() {
    fails_in_time(
        "load = 'hang'",
        "startup = '2s'",
        "load did not end within 2s",
    );
}

#[test]
fn load_blocks_its_thread() {
    fails_in_time(
        "load = 'block'",
        "heartbeat_boot = '2s'",
        "no heartbeat for ",
    );
}

#[test]
fn a_startup_step_fails_in_many_lines() {
    let failure = "startup_failure = \"no database:\\n  it is gone\\n\"";
    fails(failure, "no database:; it is gone");
}

#[test]
fn a_startup_step_panics() {
    fails("startup = 'panic'", "asked to panic");
}

#[test]
fn a_startup_step_hangs() {
    fails_in_time(
        "startup = 'hang'",
        "startup = '2s'",
        "startup step 'three' did not end within 2s",
    );
}

#[test]
fn one_of_two_fails_while_the_other_is_prepared() {
    fails(
        "startup_delay = 0.3\nstartup = 'fail'\nslot = 1",
        "the new worker of slot 1 failed",
    );
}

#[track_caller]
fn fails(app: &str, reason: &str) {
    let stage = Stage::set();
    stage.service.configure(&(new() + app));
    stage.rolls_back(reason);
}

#[track_caller]
fn fails_in_time(app: &str, limit: &str, reason: &str) {
    let stage = Stage::set();
    let limits = format!("[timeouts]\n{limit}\nabort_grace = '100ms'\n[reload]");
    stage
        .service
        .configure(&(new().replace("[reload]", &limits) + app));
    stage.rolls_back(reason);
}

#[test]
fn one_dies_between_prepared_and_serve() {
    let stage = Stage::set();
    let gate = stage.service.folder().join("gate");
    let app = format!("gate = '{}'\nslot = 1", gate.display());
    stage.service.configure(&(new() + &app));
    let reload = stage.service.reload_command().spawn_quiet();
    let prepared = new_worker(&stage.service, "prepared");
    signal_to(prepared, Signal::SIGKILL);
    let output = reload.wait_with_output().unwrap();
    stage.rolled_back(&output, "killed by SIGKILL while prepared");
    stage.recovers();
}

#[test]
fn one_dies_in_its_first_second_of_serving() {
    let mut stage = Stage::set();
    stage.service.configure(&new().replace("200ms", "20s"));
    // The crash itself loses what that worker is answering.
    stage.calm();
    let reload = stage.service.reload_command().spawn_quiet();
    let serving = new_worker(&stage.service, "serving");
    signal_to(serving, Signal::SIGKILL);
    let output = reload.wait_with_output().unwrap();
    stage.press();
    stage.rolled_back(&output, "killed by SIGKILL while serving");
    stage.recovers();
}

#[test]
fn a_critical_payload_fails_in_the_first_second_of_serving() {
    let stage = Stage::set();
    let go = stage.service.folder().join("go");
    let app = format!("payload = 'fail'\ngo = '{}'\nslot = 1", go.display());
    stage
        .service
        .configure(&(new().replace("200ms", "20s") + &app));
    let reload = stage.service.reload_command().spawn_quiet();
    stage
        .service
        .status_where("both new workers serve", |status| {
            let new = |worker: &&Value| worker["generation"] == 2 && worker["phase"] == "serving";
            workers_of(status).iter().filter(new).count() == 2
        });
    stage.service.write("go", "");
    let output = reload.wait_with_output().unwrap();
    stage.rolled_back(&output, "no such queue");
    std::fs::remove_file(go).unwrap();
    stage.recovers();
}

/// What the new image cannot fork is forked by the old one, after the way back.
#[test]
fn an_old_worker_that_crashes_meanwhile_is_replaced_by_its_own_kind_after_a_rollback() {
    let mut stage = Stage::set();
    let gate = stage.service.folder().join("gate");
    let app = format!("gate = '{}'\nstartup = 'fail'", gate.display());
    stage.service.configure(&(new() + &app));
    stage.calm();
    let reload = stage.service.reload_command().spawn_quiet();
    new_worker(&stage.service, "starting");
    let [victim, other] = stage.old_workers()[..] else {
        panic!("two workers");
    };
    signal_to(victim, Signal::SIGKILL);
    wait_for_end_of(victim);
    stage.press();
    assert_eq!(stage.word(), "old", "the other one serves");
    stage.service.write("gate", "");
    let output = reload.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(70));
    stage.hear_reload();
    stage.service.wait_until_serving(2);
    let status = stage.service.status();
    let workers = workers_of(&status);
    assert!(
        workers.iter().all(|one| one["generation"] == 1),
        "{status:#}"
    );
    assert_eq!(number(&workers[1]["pid"]), other);
    assert_eq!(program_of(number(&workers[0]["pid"])), program_of(other));
    assert_eq!(stage.word(), "old");
    std::fs::remove_file(gate).unwrap();
    stage.recovers();
}

/// The same, and the new generation is good.
#[test]
fn an_old_worker_that_crashes_meanwhile_does_not_keep_the_new_ones_from_serving() {
    let mut stage = Stage::set();
    let gate = stage.service.folder().join("gate");
    let app = format!("gate = '{}'", gate.display());
    stage.service.configure(&(new() + &app));
    stage.calm();
    let reload = stage.service.reload_command().spawn_quiet();
    new_worker(&stage.service, "starting");
    let victims = stage.old_workers().to_vec();
    for victim in victims {
        signal_to(victim, Signal::SIGKILL);
        wait_for_end_of(victim);
    }
    // Nobody serves: who connects now waits.
    stage.press();
    stage.service.write("gate", "");
    assert!(reload.wait_with_output().unwrap().status.success());
    stage.hear_reload();
    assert_eq!(stage.word(), "new");
    stage.service.wait_until_serving(2);
    stage.ends();
}

#[test]
fn a_limit_of_requests_that_is_reached_in_the_trial_counts_after_it() {
    const MOST: u32 = 5;
    let mut stage = Stage::of(Setup::new(OLD).installed());
    let limit = format!("[recycle]\nmax_requests = {MOST}\n[reload]");
    stage.service.configure(&new().replace("[reload]", &limit));
    assert!(stage.service.reload().status.success());
    stage
        .service
        .event_where("recycle", |event| event["payload_generation"] == 2);
    // As long as they are asked, none of them stays.
    stage.calm();
    stage.service.status_where("two that stay", |status| {
        let stays = |one: &Value| one["phase"] == "serving" && number(&one["requests"]) < MOST;
        workers_of(status).len() == 2 && workers_of(status).iter().all(stays)
    });
    stage.service.configure(&new());
    stage.hear_reload();
    stage.succeeds();
}

/// The way back leads to the same program at other addresses.
#[test]
fn a_stuck_worker_of_the_old_generation_is_diagnosed_after_a_rollback() {
    let old = OLD.replace(
        "[reload]",
        "[timeouts]\nheartbeat_serving = '5s'\nabort_grace = '20s'\n[reload]",
    );
    let mut stage = Stage::of(Setup::new(&old).installed());
    stage.service.configure(&(new() + "load = 'fail'"));
    let output = stage.service.reload();
    stage.rolled_back(&output, "no such table");
    stage.calm();
    let _ = try_get(stage.service.addresses()[0], "/block?ms=600000");
    let stuck = stage.service.event("worker-stuck");
    assert_eq!(stuck["payload_generation"], 1);
    stage.service.event_where("worker-trace", |event| {
        event.text("backtrace").contains("probe::hold_the_thread")
    });
    stage.service.wait_until_serving(2);
    stage.recovers();
}

fn new() -> String {
    OLD.replace("old", "new")
}

/// The pid of a worker of the second generation, as soon as there is one in this phase.
#[track_caller]
fn new_worker(service: &Service, phase: &str) -> u32 {
    // It has beaten there: so it has told the arbiter, which the scoreboard says before.
    let has_told = |worker: &Value| worker["since"].as_f64() > worker["heartbeat"].as_f64();
    let right =
        |worker: &&Value| worker["generation"] == 2 && worker["phase"] == phase && has_told(worker);
    let status = service.status_where(&format!("a new worker is {phase}"), |status| {
        workers_of(status).iter().any(|worker| right(&worker))
    });
    let worker = workers_of(&status).iter().find(right).unwrap();
    number(&worker["pid"])
}
