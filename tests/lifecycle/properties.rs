//! What is promised, and the tests that show it: `path: test`, or `path: "text"` where the compiler does the showing.
//! `support/trace.rs` has rules for some of them, by which every service of every test is read besides.

use std::fs;
use std::path::Path;

/// A property, and what shows it.
struct Property(u32, &'static str, &'static [&'static str]);

const PROPERTIES: &[Property] = &[
    // The app in its worker
    Property(
        1,
        "Every worker calls load once, after its fork and in its own runtime; the arbiter has no app.",
        &[
            "tests/lifecycle/instance.rs: load_runs_once_in_every_worker_and_never_in_the_arbiter",
            "tests/processes/trace.rs: one_clean_run",
        ],
    ),
    Property(
        2,
        "States and phases only go forward; an app starts once and stops once.",
        &[
            "tests/app/teardown.rs: an_app_goes_through_its_states_in_order_and_once",
            "src/app/event.rs: an_app_never_goes_back_and_never_enters_a_state_twice",
            "src/worker/phase.rs: no_phase_leads_back",
            "src/testing.rs: \"compile_fail,E0382\"",
        ],
    ),
    Property(
        3,
        "What an app owns is released before its worker ends.",
        &[
            "tests/app/teardown.rs: a_stopped_app_has_released_its_state_its_service_and_its_tasks",
            "tests/app/payloads.rs: an_app_that_is_dropped_takes_its_payloads_with_it",
        ],
    ),
    Property(
        4,
        "A reload makes new processes, of the new program, configuration and preload.",
        &[
            "tests/reload/exec.rs: an_upgrade_puts_another_file_into_the_place_of_the_first",
            "tests/reload/triggers.rs: a_signal_reloads",
            "tests/reload/preload.rs: a_reload_runs_it_afresh",
        ],
    ),
    Property(
        5,
        "What is built takes no more registrations: that does not compile.",
        &["src/app/builder.rs: \"compile_fail,E0599\""],
    ),
    // The way in
    Property(
        6,
        "Nothing is accepted before every step has succeeded; who comes early waits.",
        &[
            "tests/processes/trace.rs: early_connections_wait_and_are_served",
            "tests/processes/trace.rs: no_worker_serves_before_all_are_prepared",
            "src/worker/server/tests.rs: nothing_is_accepted_before_serve_and_nothing_is_lost",
        ],
    ),
    Property(
        7,
        "A step that fails, panics, is too slow or is given up unwinds those before it, and not itself.",
        &[
            "tests/app/startup.rs: a_step_that_fails_unwinds_the_steps_before_it",
            "tests/app/startup.rs: a_step_that_panics_unwinds_the_steps_before_it",
            "tests/app/startup.rs: a_step_that_overruns_its_limit_unwinds_the_steps_before_it",
            "tests/app/startup.rs: a_stop_during_the_startup_cancels_it_at_once_and_is_a_clean_stop",
            "tests/app/mounts.rs: a_mounted_app_that_fails_to_start_unwinds_what_the_parent_had_started",
            "tests/processes/boot.rs: a_startup_step_fails",
            "tests/processes/boot.rs: a_startup_step_hangs",
        ],
    ),
    Property(
        8,
        "So does a failure between the startup and the first request.",
        &[
            "tests/app/startup.rs: a_critical_payload_that_ends_during_the_startup_unwinds_it",
            "tests/app/startup.rs: a_stop_that_comes_with_the_end_of_the_last_step_still_unwinds_that_step",
            "tests/lifecycle/startup.rs: a_worker_that_was_prepared_and_never_served_is_torn_down",
            "tests/reload/workers.rs: one_of_two_fails_while_the_other_is_prepared",
        ],
    ),
    Property(
        9,
        "The startup's deadline is its own, whatever the heartbeat is to be while serving.",
        &[
            "tests/lifecycle/startup.rs: a_startup_has_its_own_deadline_whatever_the_heartbeat_while_serving_allows",
            "src/arbiter/core/tests.rs: each_phase_has_its_own_limit",
        ],
    ),
    Property(
        10,
        "A stop during the startup takes effect at once, unwinds, and is a clean one.",
        &[
            "tests/processes/boot.rs: a_stop_during_the_boot_is_prompt_and_clean",
            "tests/processes/boot.rs: a_stop_before_the_workers_do_anything",
            "tests/app/startup.rs: a_stop_during_the_startup_cancels_it_at_once_and_is_a_clean_stop",
            "tests/processes/preload.rs: a_stop_does_not_wait_for_it",
        ],
    ),
    Property(
        11,
        "The first error is told once, with its causes.",
        &[
            "tests/app/startup.rs: the_first_error_is_reported_once_with_its_chain_of_causes",
            "tests/processes/boot.rs: a_startup_step_fails",
            "tests/reload/workers.rs: a_startup_step_fails_in_many_lines",
        ],
    ),
    // The teardown
    Property(
        12,
        "Steps, contexts, mounted apps and payloads are one list, torn down last-in first-out.",
        &[
            "tests/app/teardown.rs: everything_is_torn_down_last_in_first_out_and_a_mounted_app_before_its_parent",
            "tests/app/mounts.rs: a_mounted_app_lives_at_its_place_in_the_one_list_and_is_named_with_its_path",
            "tests/processes/trace.rs: one_clean_run",
        ],
    ),
    Property(
        13,
        "Every step is attempted; what fails is collected in order and is no clean end.",
        &[
            "tests/app/teardown.rs: every_teardown_is_attempted_and_what_failed_is_collected_in_order",
            "tests/app/startup.rs: what_fails_while_unwinding_is_collected_beside_the_first_error",
            "tests/processes/stop.rs: a_teardown_that_goes_wrong_is_told_and_skips_nothing",
        ],
    ),
    Property(
        14,
        "Whatever ends a worker, its app is torn down.",
        &[
            "tests/lifecycle/ways_out.rs: after_a_stop_graceful_or_quick",
            "tests/lifecycle/ways_out.rs: after_a_reload",
            "tests/lifecycle/ways_out.rs: after_a_reload_that_was_rolled_back",
            "tests/lifecycle/ways_out.rs: after_scaling_down",
            "tests/lifecycle/ways_out.rs: after_recycling",
            "tests/lifecycle/ways_out.rs: after_a_signal_to_the_worker_itself",
            "tests/lifecycle/ways_out.rs: after_the_death_of_a_critical_payload",
            "tests/lifecycle/ways_out.rs: after_the_death_of_the_arbiter",
            "tests/lifecycle/ways_out.rs: after_the_loss_of_its_listener",
        ],
    ),
    Property(
        15,
        "A drain step that fails skips neither the drain nor the teardown.",
        &[
            "tests/app/teardown.rs: drain_steps_that_fail_skip_neither_the_other_drain_steps_nor_the_teardown",
        ],
    ),
    // Payloads
    Property(
        16,
        "Every payload is under the app's supervisor and ends with it.",
        &[
            "tests/app/payloads.rs: an_app_that_is_dropped_takes_its_payloads_with_it",
            "tests/app/teardown.rs: a_stopped_app_has_released_its_state_its_service_and_its_tasks",
        ],
    ),
    Property(
        17,
        "Its end is seen at once, told once, and followed by what its policy says.",
        &[
            "tests/app/payloads.rs: a_critical_payload_that_returns_is_a_failure",
            "tests/app/payloads.rs: a_critical_payload_that_fails_is_a_failure",
            "tests/app/payloads.rs: a_critical_payload_that_panics_is_a_failure",
            "tests/app/payloads.rs: a_restarted_payload_runs_again_with_growing_waits",
            "tests/app/payloads.rs: a_payload_that_runs_once_may_end_and_its_failure_is_reported_but_not_critical",
            "tests/processes/payloads.rs: a_critical_one_that_fails_takes_its_worker_along",
            "tests/processes/payloads.rs: a_restarting_one_is_started_again",
            "tests/processes/payloads.rs: one_that_runs_once_may_end",
        ],
    ),
    Property(
        18,
        "Without its critical payload a worker is not ready.",
        &[
            "tests/lifecycle/shutdown.rs: a_payload_that_is_dead_is_never_hidden_behind_green",
            "tests/processes/payloads.rs: a_critical_one_that_returns_takes_its_worker_along",
            "tests/reload/workers.rs: a_critical_payload_fails_in_the_first_second_of_serving",
        ],
    ),
    Property(
        19,
        "At the stop a payload is told, awaited and then aborted, after the requests unless it asks.",
        &[
            "tests/app/payloads.rs: a_payload_is_awaited_to_its_limit_and_then_aborted",
            "tests/app/payloads.rs: a_payload_stops_after_the_requests_unless_it_asks_to_stop_before",
            "tests/app/payloads.rs: a_payload_that_stops_before_the_requests_has_ended_before_any_teardown",
            "tests/processes/payloads.rs: one_that_does_not_stop_is_aborted",
            "tests/processes/payloads.rs: one_that_blocks_its_thread_at_the_stop_is_ended_with_its_worker",
        ],
    ),
    Property(
        20,
        "One that is alone never runs twice, moves on when its holder goes, and its gap is measured.",
        &[
            "tests/lease/storm.rs: one_in_the_service",
            "tests/lease/storm.rs: one_for_each_slot",
            "tests/lease/moves.rs: it_moves_at_once_when_its_holder_is_killed",
            "tests/lease/moves.rs: one_that_is_frozen_keeps_it_until_it_is_dead",
            "tests/lease/moves.rs: a_reload_hands_it_over_when_it_is_committed_and_the_old_one_has_stopped",
            "tests/lease/slots.rs: all_start_anew_when_the_number_of_slots_changes",
            "src/arbiter/core/tests/lease.rs: the_gap_is_counted_from_what_the_worker_says",
            "src/arbiter/core/simulation.rs: a_million_random_steps_keep_every_promise",
        ],
    ),
    // The stop
    Property(
        21,
        "One deadline with a slice for the cleanup; more than the unit allows is refused with the numbers.",
        &[
            "tests/lifecycle/limits.rs: stuck_requests_and_a_deaf_payload_leave_every_step_its_time",
            "tests/service/drain.rs: the_deadline_cancels_a_handler_and_the_cleanup_still_runs",
            "tests/app/teardown.rs: a_stuck_teardown_leaves_time_to_those_behind_it_and_the_deadline_holds",
            "tests/app/teardown.rs: with_no_time_left_every_teardown_is_still_attempted",
            "tests/config.rs: deadlines_are_compared_with_those_of_the_unit_that_runs_this_program",
            "tests/config.rs: the_shipped_unit_allows_the_defaults_and_the_shipped_configuration",
            "tests/systemd/check.rs: deadlines_that_the_unit_does_not_allow_are_refused",
        ],
    ),
    Property(
        22,
        "Accepting, what was accepted, idle connections, streams, handlers, payloads, cleanup: in this order.",
        &[
            "tests/lifecycle/shutdown.rs: each_thing_ends_in_its_turn",
            "tests/upgrade/drain.rs: a_stop_is_the_apps_to_announce",
            "src/worker/connection/tests/drain.rs: a_connection_just_accepted_may_still_send_its_request",
        ],
    ),
    Property(
        23,
        "It is over when the work is; with nothing to do, within 100 ms.",
        &[
            "tests/processes/stop.rs: with_nothing_to_do_it_takes_no_time",
            "tests/service/drain.rs: with_nothing_to_do_it_is_prompt",
            "tests/systemd/stop.rs: stop_with_nothing_to_do_is_prompt",
        ],
    ),
    Property(
        24,
        "A limit of 0 is at once; only the word \"unlimited\" lifts it.",
        &[
            "tests/lifecycle/limits.rs: a_limit_is_ended_by_zero_and_lifted_only_by_a_word",
            "tests/processes/stop.rs: a_timeout_of_zero_is_at_once",
            "src/arbiter/core/tests.rs: a_limit_that_is_unlimited_never_ends_anybody",
        ],
    ),
    Property(
        25,
        "TERM is graceful, INT and QUIT are quick, a second one goes on to the next phase and says so.",
        &[
            "tests/processes/stop.rs: a_term_waits_for_requests",
            "tests/processes/stop.rs: an_interrupt_is_quick_and_the_cleanup_runs",
            "tests/processes/stop.rs: the_second_signal_cancels_requests_and_the_third_kills",
            "src/arbiter/core/tests.rs: each_signal_goes_one_phase_further_and_says_so",
        ],
    ),
    // Supervision
    Property(
        26,
        "The heartbeat covers boot, serving, drain and cleanup, each with its own limit.",
        &[
            "src/arbiter/core/tests.rs: each_phase_has_its_own_limit",
            "tests/processes/stuck.rs: blocked_in_load",
            "tests/processes/stuck.rs: blocked_in_its_startup",
            "tests/processes/stuck.rs: a_blocked_worker_says_where_and_is_replaced",
            "tests/processes/stuck.rs: blocked_in_its_teardown",
        ],
    ),
    Property(
        27,
        "It comes from the runtime that runs handlers and payloads.",
        &[
            "tests/processes/stuck.rs: a_blocked_worker_says_where_and_is_replaced",
            "tests/service/threads.rs: a_worker_whose_every_thread_is_blocked_is_found_and_replaced",
            "tests/processes/stuck.rs: a_worker_that_is_busy_for_less_than_its_limit_is_left_alone",
        ],
    ),
    Property(
        28,
        "A worker that is killed for being stuck leaves a diagnosis.",
        &[
            "tests/processes/stuck.rs: a_blocked_worker_says_where_and_is_replaced",
            "tests/processes/stuck.rs: a_stopped_worker_is_diagnosed_killed_and_replaced",
        ],
    ),
    Property(
        29,
        "A first boot that fails ends the service; later there are pauses, a budget, and \"degraded\".",
        &[
            "tests/processes/boot.rs: load_fails",
            "tests/processes/replacement.rs: a_step_fails",
            "tests/processes/replacement.rs: crashes_beyond_the_budget_degrade_the_service_until_they_are_forgotten",
            "src/arbiter/core/tests.rs: a_first_boot_that_fails_unwinds_the_others_and_ends_with_70_and_the_reason_once",
        ],
    ),
    Property(
        30,
        "Foreign children are reaped and mean nothing.",
        &[
            "tests/processes/orphans.rs: a_foreign_child_is_reaped_and_means_nothing",
            "tests/processes/pid_one.rs: it_reaps_orphans",
        ],
    ),
    Property(
        31,
        "No signal is lost between the fork and its handler.",
        &[
            "tests/lifecycle/instance.rs: a_worker_that_a_signal_meets_at_its_birth_leaves_in_order",
            "tests/processes/boot.rs: a_stop_before_the_workers_do_anything",
            "tests/processes/signals.rs: a_hangup_is_handled",
            "tests/reload/exec.rs: a_stop_during_the_exec_wins",
        ],
    ),
    Property(
        32,
        "What the manager hears follows the truth about all workers.",
        &[
            "tests/service/notify.rs: ready_only_when_the_last_worker_serves_and_a_long_boot_asks_for_time",
            "tests/service/notify.rs: boot_and_stop_are_told_in_order_on_a_path",
            "tests/service/notify.rs: the_watchdog_is_not_fed_while_nobody_serves_and_every_attempt_crashes",
            "tests/reload/triggers.rs: the_watchdog_is_fed_on",
            "tests/systemd/activation.rs: the_status_line_has_live_counts",
        ],
    ),
    Property(
        33,
        "No worker closes or unlinks a listener, and nobody is refused.",
        &[
            "tests/service/status.rs: a_worker_never_removes_the_socket",
            "tests/processes/crash.rs: no_connection_is_refused_while_workers_are_killed",
            "tests/processes/stop.rs: no_connection_is_refused_while_it_drains",
            "tests/service/recycle.rs: by_requests_under_load",
            "tests/systemd/load.rs: fifty_reloads_lose_and_close_nothing",
        ],
    ),
    Property(
        34,
        "Old workers leave when their replacements serve.",
        &[
            "tests/service/recycle.rs: by_age_under_load",
            "tests/reload/triggers.rs: both_generations_are_shown_while_it_goes_on",
            "src/arbiter/core/tests.rs: recycling_prepares_first_and_retires_then",
            "src/arbiter/core/tests/reload.rs: what_serves_is_not_ended_when_nothing_else_does",
        ],
    ),
    Property(
        35,
        "Without their arbiter workers drain and clean up, within their deadline.",
        &[
            "tests/processes/crash.rs: without_its_arbiter_a_worker_drains_and_leaves",
            "tests/processes/crash.rs: without_its_arbiter_a_blocked_worker_is_ended_by_its_keeper",
            "tests/processes/crash.rs: without_its_arbiter_a_starting_worker_leaves",
            "tests/lease/moves.rs: workers_that_lose_their_arbiter_stop_it",
        ],
    ),
    // The trace
    Property(
        36,
        "One event for each transition; each start has one end, or the record of a kill.",
        &[
            "tests/processes/trace.rs: what_each_event_says",
            "tests/app/teardown.rs: every_step_that_begins_ends_once_in_the_trace",
            "tests/lifecycle/rules.rs: each_rule_finds_what_breaks_it",
            "tests/systemd/journal.rs: lifecycle_events_have_fields",
        ],
    ),
];

/// What Gunicorn's and aiohttp's own tests ask of them, by behaviour.
const PORTED: &[(&str, &[&str])] = &[
    (
        "a startup that fails half-way cleans up only what was entered",
        &[
            "tests/app/startup.rs: a_step_that_fails_unwinds_the_steps_before_it",
            "tests/processes/boot.rs: a_startup_step_fails",
        ],
    ),
    (
        "several failing teardowns are all attempted and reported in order",
        &[
            "tests/app/teardown.rs: every_teardown_is_attempted_and_what_failed_is_collected_in_order",
        ],
    ),
    (
        "sub-applications start after and end before what their parent had before them",
        &[
            "tests/app/mounts.rs: a_mounted_app_lives_at_its_place_in_the_one_list_and_is_named_with_its_path",
        ],
    ),
    (
        "a sub-application has its own state and sees its own paths",
        &[
            "tests/app/mounts.rs: each_app_has_its_own_state",
            "tests/app/mounts.rs: a_request_goes_to_the_longest_path_that_it_is_below",
        ],
    ),
    (
        "an application that runs is frozen",
        &["src/app/builder.rs: \"compile_fail,E0599\""],
    ),
    (
        "a signal during the startup ends it",
        &["tests/processes/boot.rs: a_stop_during_the_boot_is_prompt_and_clean"],
    ),
    (
        "a worker that does not boot ends the service, and does not come again and again",
        &["tests/processes/boot.rs: load_fails"],
    ),
    (
        "a handler finishes within the deadline",
        &["tests/processes/stop.rs: a_term_waits_for_requests"],
    ),
    (
        "after the deadline it is cancelled and awaited",
        &[
            "tests/lifecycle/shutdown.rs: each_thing_ends_in_its_turn",
            "src/worker/connection/tests/drain.rs: cancel_drops_handlers_and_leaves_no_task",
        ],
    ),
    (
        "idle connections are closed at the shutdown",
        &[
            "tests/lifecycle/shutdown.rs: each_thing_ends_in_its_turn",
            "src/worker/connection/tests/drain.rs: idle_connections_close_at_once",
        ],
    ),
    (
        "a WebSocket is told that its server goes away",
        &[
            "tests/upgrade/drain.rs: a_stop_is_the_apps_to_announce",
            "tests/upgrade/deadline.rs: an_idle_one_gets_1001_and_its_client_can_answer",
        ],
    ),
    (
        "a worker that hangs is killed after its timeout",
        &["tests/processes/stuck.rs: a_blocked_worker_says_where_and_is_replaced"],
    ),
    (
        "workers are added and taken away by TTIN and TTOU",
        &["tests/service/scale.rs: one_more_and_one_less"],
    ),
    (
        "max_requests recycles with jitter",
        &["tests/service/recycle.rs: by_requests_under_load"],
    ),
    (
        "a worker whose parent is gone leaves",
        &["tests/processes/crash.rs: without_its_arbiter_a_worker_drains_and_leaves"],
    ),
];

#[test]
fn every_property_has_a_test_that_exists() {
    let numbers: Vec<u32> = PROPERTIES.iter().map(|property| property.0).collect();
    assert_eq!(numbers, (1..=36).collect::<Vec<_>>());
    let properties = PROPERTIES
        .iter()
        .map(|Property(_, text, tests)| (*text, *tests));
    let missing: Vec<String> = properties
        .chain(PORTED.iter().copied())
        .flat_map(|(text, tests)| {
            assert!(!tests.is_empty(), "nothing shows it: {text}");
            tests.iter().filter(|test| !exists(test))
        })
        .map(|test| (*test).to_owned())
        .collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

/// Whether the file has that text, or a function of that name which is a test.
fn exists(test: &str) -> bool {
    let (path, name) = test.split_once(": ").expect("path: test");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(path)).unwrap_or_default();
    if let Some(literal) = name.strip_prefix('"') {
        return text.contains(literal.trim_end_matches('"'));
    }
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let function = format!("fn {name}(");
    let is_test = |at: usize| {
        let above = lines[..at]
            .iter()
            .rev()
            .take_while(|line| line.starts_with("#["));
        above
            .into_iter()
            .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    };
    let found = lines.iter().position(|line| line.contains(&function));
    found.is_some_and(|at| is_test(at) || is_listed(root, path, name))
}

/// The tests under a real systemd are functions in a list.
fn is_listed(root: &Path, path: &str, name: &str) -> bool {
    let module = path
        .strip_prefix("tests/systemd/")
        .and_then(|file| file.strip_suffix(".rs"));
    let list = fs::read_to_string(root.join("tests/systemd/main.rs")).unwrap_or_default();
    module.is_some_and(|module| list.contains(&format!("{module}::{name},")))
}

#[test]
fn a_test_that_is_none_is_not_taken_for_one() {
    for wrong in [
        "tests/app/startup.rs: unwinds",
        "tests/app/startup.rs: no_such_test",
        "tests/no/such/file.rs: unwinds",
        "tests/systemd/check.rs: no_such_test",
        "src/app/builder.rs: \"no such text\"",
    ] {
        assert!(!exists(wrong), "{wrong}");
    }
}
