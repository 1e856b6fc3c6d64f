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
        "`load` runs once per worker process, after the fork, inside that worker's runtime. The arbiter never builds an app.",
        &[
            "tests/lifecycle/instance.rs: load_runs_in_the_runtime_that_answers",
            "tests/lifecycle/instance.rs: load_runs_once_in_every_worker_and_never_in_the_arbiter",
            "tests/processes/trace.rs: one_clean_run",
        ],
    ),
    Property(
        2,
        "New → Starting → Serving → Draining → Stopping → Stopped or Failed, monotonic; start and stop at most once; a \
         second stop does nothing.",
        &[
            "tests/lifecycle/rules.rs: each_rule_finds_what_breaks_it",
            "tests/lifecycle/shutdown.rs: a_second_stop_during_the_drain_hurries_and_repeats_nothing",
            "tests/lifecycle/shutdown.rs: a_worker_that_is_told_to_stop_while_it_drains_does_nothing_else",
            "tests/app/teardown.rs: an_app_goes_through_its_states_in_order_and_once",
            "src/app/event.rs: an_app_never_goes_back_and_never_enters_a_state_twice",
            "src/worker/phase.rs: no_phase_leads_back",
            "src/testing.rs: \"compile_fail,E0382\"",
        ],
    ),
    Property(
        3,
        "No app outlives its runtime; tasks, memory and fds that the app owns are released before exit 0.",
        &[
            "tests/lifecycle/rules.rs: each_rule_finds_what_breaks_it",
            "tests/lifecycle/blocking.rs: it_is_awaited_as_long_as_the_cleanup_may_take",
            "tests/lifecycle/blocking.rs: what_load_has_left_behind_is_awaited_when_the_startup_does_not_succeed",
            "tests/lifecycle/blocking.rs: nor_does_that_take_longer_than_the_cleanup",
            "tests/lifecycle/blocking.rs: if_it_takes_longer_the_worker_fails_and_says_why",
            "tests/processes/trace.rs: one_clean_run",
            "tests/examples/sqlite.rs: notes_are_added_listed_and_removed",
            "tests/app/teardown.rs: a_stopped_app_has_released_its_state_its_service_and_its_tasks",
            "tests/app/payloads.rs: an_app_that_is_dropped_takes_its_payloads_with_it",
        ],
    ),
    Property(
        4,
        "A reload always means new processes with the new code, configuration and preload.",
        &[
            "tests/reload/exec.rs: an_upgrade_puts_another_file_into_the_place_of_the_first",
            "tests/reload/triggers.rs: a_signal_reloads",
            "tests/reload/preload.rs: a_reload_runs_it_afresh",
        ],
    ),
    Property(
        5,
        "Nothing can be registered after the app is built: by type.",
        &["src/app/frozen.rs: \"compile_fail,E0599\""],
    ),
    // The way in
    Property(
        6,
        "No request is accepted before every startup step has succeeded. Early connections wait in the backlog; none is \
         refused.",
        &[
            "tests/processes/trace.rs: early_connections_wait_and_are_served",
            "tests/processes/trace.rs: no_worker_serves_before_all_are_prepared",
            "src/worker/server/tests.rs: nothing_is_accepted_before_serve_and_nothing_is_lost",
        ],
    ),
    Property(
        7,
        "When step k fails, panics, times out or is cancelled, steps k-1…1 unwind in reverse order, once each; k's own \
         teardown does not run.",
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
        "A failure between startup and serving unwinds the same way.",
        &[
            "tests/app/startup.rs: a_critical_payload_that_ends_during_the_startup_unwinds_it",
            "tests/app/startup.rs: a_stop_that_comes_with_the_end_of_the_last_step_still_unwinds_that_step",
            "tests/lifecycle/startup.rs: a_worker_that_was_prepared_and_never_served_is_torn_down",
            "tests/reload/workers.rs: one_of_two_fails_while_the_other_is_prepared",
        ],
    ),
    Property(
        9,
        "Startup has its own deadline, independent of the serving heartbeat.",
        &[
            "tests/lifecycle/startup.rs: a_startup_has_its_own_deadline_whatever_the_heartbeat_while_serving_allows",
            "src/arbiter/core/tests.rs: each_phase_has_its_own_limit",
        ],
    ),
    Property(
        10,
        "A stop signal during startup cancels it promptly, unwinds, and counts as a clean stop.",
        &[
            "tests/processes/boot.rs: a_stop_during_the_boot_is_prompt_and_clean",
            "tests/processes/boot.rs: a_stop_before_the_workers_do_anything",
            "tests/app/startup.rs: a_stop_during_the_startup_cancels_it_at_once_and_is_a_clean_stop",
            "tests/processes/preload.rs: a_stop_does_not_wait_for_it",
        ],
    ),
    Property(
        11,
        "The original error is reported once, with its chain of causes: by the worker as the end of its step, and by the \
         arbiter as the reason why there is no service or no new generation, or else of the worker's end.",
        &[
            "tests/app/startup.rs: the_first_error_is_reported_once_with_its_chain_of_causes",
            "tests/processes/boot.rs: a_startup_step_fails",
            "tests/reload/workers.rs: a_startup_step_fails_in_many_lines",
        ],
    ),
    // The teardown
    Property(
        12,
        "One list for everything (steps, contexts, nested apps, payloads), torn down strictly last-in first-out; a nested \
         app before its parent. Before the list, all at once: drain steps, and payloads that stop before the requests.",
        &[
            "tests/lifecycle/shutdown.rs: a_mounted_app_ends_before_its_parent",
            "tests/app/payloads.rs: a_payload_that_stops_before_the_requests_has_ended_before_any_teardown",
            "tests/app/teardown.rs: everything_is_torn_down_last_in_first_out_and_a_mounted_app_before_its_parent",
            "tests/app/mounts.rs: a_mounted_app_lives_at_its_place_in_the_one_list_and_is_named_with_its_path",
            "tests/processes/trace.rs: one_clean_run",
        ],
    ),
    Property(
        13,
        "Every step is attempted whatever the earlier ones did; errors, panics and per-step timeouts are collected in order \
         and make the exit status non-zero.",
        &[
            "tests/lifecycle/shutdown.rs: several_teardowns_that_fail_are_all_attempted_and_told_in_order",
            "tests/app/teardown.rs: every_teardown_is_attempted_and_what_failed_is_collected_in_order",
            "tests/app/startup.rs: what_fails_while_unwinding_is_collected_beside_the_first_error",
            "tests/processes/stop.rs: a_teardown_that_goes_wrong_is_told_and_skips_nothing",
        ],
    ),
    Property(
        14,
        "Teardown runs on every exit path: signal, recycle, arbiter death, payload failure, fatal accept error.",
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
        "A failing shutdown step skips neither the drain nor the cleanup.",
        &[
            "tests/lifecycle/shutdown.rs: a_drain_step_that_fails_skips_neither_the_drain_nor_the_teardown",
            "tests/lifecycle/limits.rs: a_service_that_is_frozen_in_its_cleanup_attempts_the_rest_of_it_afterwards",
            "tests/app/teardown.rs: drain_steps_that_fail_skip_neither_the_other_drain_steps_nor_the_teardown",
        ],
    ),
    // Payloads
    Property(
        16,
        "Every payload runs under the app's supervisor; nothing runs detached.",
        &[
            "tests/lifecycle/payloads.rs: every_payload_is_supervised_and_gone_before_its_end_is_told",
            "tests/lifecycle/payloads.rs: so_is_one_that_ends_badly_or_does_not_stop",
            "src/app/running.rs: a_payload_that_has_lost_its_supervisor_fails_the_app",
            "tests/processes/payloads.rs: one_that_does_not_stop_is_aborted",
            "tests/lifecycle/rules.rs: each_rule_finds_what_breaks_it",
            "tests/app/payloads.rs: an_app_that_is_dropped_takes_its_payloads_with_it",
            "tests/app/teardown.rs: a_stopped_app_has_released_its_state_its_service_and_its_tasks",
        ],
    ),
    Property(
        17,
        "Its end (return, error, panic) is seen at once, logged once, and handled by its declared policy: critical (the \
         default: drain and replace the worker), restart with backoff, or once.",
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
        "A dead critical payload makes the worker unready; never green without its payload.",
        &[
            "tests/lifecycle/shutdown.rs: a_payload_that_is_dead_is_never_hidden_behind_green",
            "tests/lease/green.rs: a_service_whose_exclusive_payload_does_not_run_is_not_green",
            "tests/lease/green.rs: nor_is_it_when_every_worker_serves",
            "tests/lease/green.rs: a_reload_that_cures_it_commits_and_its_generation_starts_anew",
            "tests/processes/payloads.rs: a_critical_one_that_returns_takes_its_worker_along",
            "tests/reload/workers.rs: a_critical_payload_fails_in_the_first_second_of_serving",
        ],
    ),
    Property(
        19,
        "At stop: told to stop through its token, awaited to its deadline, then aborted; none is left when the runtime \
         ends. By default payloads stop after the requests have drained; a payload may ask to be stopped before, and \
         one that needs a lease is, unless it asks to be stopped after.",
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
        "Scope is declared: one per worker; one per slot, exclusive over replacement; or one in the whole service. An \
         exclusive payload never runs twice at the same time, moves on when its holder drains or dies, and its gap is \
         measured.",
        &[
            "tests/processes/trace.rs: one_clean_run",
            "tests/lease/storm.rs: one_in_the_service",
            "tests/lease/storm.rs: one_for_each_slot",
            "tests/lease/moves.rs: it_moves_when_its_holder_is_killed_and_the_gap_is_told",
            "tests/lease/prompt.rs: when_its_holder_is_killed",
            "tests/lease/prompt.rs: when_its_holder_drains",
            "tests/lease/prompt.rs: when_a_reload_is_committed",
            "tests/lease/moves.rs: one_that_is_frozen_keeps_it_until_it_is_dead",
            "tests/lease/moves.rs: a_reload_hands_it_over_when_it_is_committed_and_the_old_one_has_stopped",
            "tests/lease/slots.rs: all_start_anew_when_the_number_of_slots_changes",
            "tests/lease/slots.rs: a_reload_can_make_it_more",
            "tests/lease/slots.rs: a_reload_with_the_same_number_hands_each_share_to_the_next_in_its_slot",
            "tests/systemd/failure.rs: what_a_killed_arbiter_leaves_runs_beside_nothing_that_is_new",
            "tests/systemd/failure.rs: what_a_killed_arbiter_leaves_is_waited_for_where_systemd_does_not_end_it",
            "tests/lease/lives.rs: a_life_waits_with_its_leases_for_the_one_before",
            "tests/lease/lives.rs: one_that_is_frozen_is_waited_for_as_well",
            "tests/systemd/restart.rs: what_a_payload_keeps_goes_on_and_not_over_a_stop",
            "tests/lease/gaps.rs: nobody_runs_it_for_as_long_as_it_takes_to_move_and_no_longer",
            "src/arbiter/core/tests/lease/back.rs: the_gap_of_a_slot_goes_on_while_its_next_worker_boots",
            "src/arbiter/core/tests/lease.rs: the_gap_is_counted_from_what_the_worker_says",
            "src/arbiter/core/simulation.rs: a_million_random_steps_keep_every_promise",
        ],
    ),
    // The stop
    Property(
        21,
        "One absolute deadline for all, with a slice reserved for cleanup that a stuck handler cannot eat; configuration \
         that would exceed the unit's stop timeout is refused by `payload check` with the numbers.",
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
        "Order: stop accepting → what was accepted is served → idle connections handed on or closed → long-lived streams \
         get the drain token → handlers cancelled and awaited → payloads → cleanup.",
        &[
            "tests/service/drain.rs: while_one_worker_drains_the_others_take_what_is_new",
            "tests/processes/stop.rs: a_term_waits_for_requests",
            "tests/handoff/moves.rs: a_slow_response_ends_on_the_old_worker_while_idle_connections_move",
            "tests/lifecycle/shutdown.rs: each_thing_ends_in_its_turn",
            "tests/upgrade/drain.rs: a_stop_is_the_apps_to_announce",
            "tests/service/vitals.rs: every_stream_gets_its_last_word_however_the_service_stops",
            "src/worker/connection/tests/drain.rs: a_connection_just_accepted_may_still_send_its_request",
        ],
    ),
    // An idle worker looks at its listener every half second, for a connection that the kernel has dealt to a dead one
    // (src/worker/accept.rs). The way out does not wait for that.
    Property(
        23,
        "It returns as soon as the work is done; with nothing to do, under 100 ms. Nothing on the way out waits for a poll.",
        &[
            "tests/processes/stop.rs: with_nothing_to_do_it_takes_no_time",
            "tests/service/drain.rs: with_nothing_to_do_it_is_prompt",
            "tests/systemd/stop.rs: stop_with_nothing_to_do_is_prompt",
        ],
    ),
    Property(
        24,
        "A timeout of 0 means at once; unlimited must be written \"unlimited\".",
        &[
            "tests/lifecycle/limits.rs: a_setting_of_zero_is_at_once",
            "tests/lifecycle/limits.rs: a_limit_is_ended_by_zero_and_lifted_only_by_a_word",
            "tests/app/deadlines.rs: a_limit_of_zero_ends_it_at_once",
            "src/worker/connection/tests/timeouts.rs: with_a_keep_alive_timeout_of_zero_each_connection_has_one_request_and_the_time_for_it",
            "src/arbiter/core/tests.rs: a_grace_of_zero_kills_at_once",
            "src/arbiter/core/tests/reload.rs: without_a_trial_the_commit_is_at_once",
            "src/config/tests/zero.rs: each_time_takes_zero_or_says_what_it_takes",
            "src/config/tests/zero.rs: the_shipped_file_says_which_times_take_zero",
            "tests/processes/stop.rs: a_timeout_of_zero_is_at_once",
            "src/arbiter/core/tests.rs: a_limit_that_is_unlimited_never_ends_anybody",
        ],
    ),
    Property(
        25,
        "TERM: graceful. INT, QUIT: quick, cleanup still runs within its slice. A second signal goes on to the next phase \
         and says so; it never skips cleanup silently.",
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
        "The heartbeat covers boot, serving, drain and cleanup, each with its own limit, on one monotonic clock.",
        &[
            "tests/processes/stuck.rs: blocked_in_its_drain",
            "src/sys/clock.rs: \"ClockId::CLOCK_MONOTONIC\"",
            "tests/lifecycle/clock.rs: the_core_is_told_the_time_and_has_no_clock",
            "clippy.toml: \"std::time::SystemTime::now\"",
            "src/arbiter/core/tests.rs: each_phase_has_its_own_limit",
            "tests/processes/stuck.rs: blocked_in_load",
            "tests/processes/stuck.rs: blocked_in_its_startup",
            "tests/processes/stuck.rs: a_blocked_worker_says_where_and_is_replaced",
            "tests/processes/stuck.rs: blocked_in_its_teardown",
        ],
    ),
    Property(
        27,
        "Beats come from the runtime that executes handlers and payloads.",
        &[
            "tests/processes/stuck.rs: blocked_by_its_payload",
            "tests/processes/stuck.rs: a_blocked_worker_says_where_and_is_replaced",
            "tests/service/threads.rs: a_worker_whose_every_thread_is_blocked_is_found_and_replaced",
            "tests/processes/stuck.rs: a_worker_that_is_busy_for_less_than_its_limit_is_left_alone",
        ],
    ),
    Property(
        28,
        "A worker killed for being stuck leaves a diagnosis: phase, how long, backtrace.",
        &[
            "tests/processes/stuck.rs: a_blocked_worker_says_where_and_is_replaced",
            "tests/processes/stuck.rs: a_stopped_worker_is_diagnosed_killed_and_replaced",
        ],
    ),
    Property(
        29,
        "First boot fails: the service ends with its own exit code. Later: backoff and crash budget, state \"degraded\" in \
         STATUS; healthy workers stay.",
        &[
            "tests/processes/boot.rs: load_fails",
            "tests/processes/replacement.rs: a_step_fails",
            "tests/processes/replacement.rs: crashes_beyond_the_budget_degrade_the_service_until_they_are_forgotten",
            "src/arbiter/core/tests.rs: a_first_boot_that_fails_unwinds_the_others_and_ends_with_70_and_the_reason_once",
        ],
    ),
    Property(
        30,
        "Only known children change state; foreign ones are reaped and ignored.",
        &[
            "tests/processes/orphans.rs: a_foreign_child_is_reaped_and_means_nothing",
            "tests/processes/pid_one.rs: it_reaps_orphans",
        ],
    ),
    Property(
        31,
        "No signal is lost between fork and handler.",
        &[
            "tests/lifecycle/instance.rs: a_worker_that_a_signal_meets_at_its_birth_leaves_in_order",
            "tests/processes/boot.rs: a_stop_before_the_workers_do_anything",
            "tests/processes/signals.rs: a_hangup_is_handled",
            "tests/reload/exec.rs: a_stop_during_the_exec_wins",
        ],
    ),
    Property(
        32,
        "READY, RELOADING, STOPPING, WATCHDOG and STATUS follow the true aggregate.",
        &[
            "tests/reload/triggers.rs: whoever_asks_during_a_reload_joins_it",
            "tests/service/notify.rs: ready_only_when_the_last_worker_serves_and_a_long_boot_asks_for_time",
            "tests/service/notify.rs: boot_and_stop_are_told_in_order_on_a_path",
            "tests/service/notify.rs: the_watchdog_is_not_fed_while_nobody_serves_and_every_attempt_crashes",
            "tests/reload/triggers.rs: the_watchdog_is_fed_on",
            "tests/systemd/activation.rs: the_status_line_has_live_counts",
        ],
    ),
    Property(
        33,
        "No worker closes, shuts down or unlinks a listener; over reload and recycling no connection is refused and no \
         request lost.",
        &[
            "tests/lifecycle/instance.rs: a_worker_takes_no_listener_along",
            "tests/processes/crash.rs: no_connection_is_refused_while_workers_are_killed",
            "tests/processes/stop.rs: no_connection_is_refused_while_it_drains",
            "tests/service/recycle.rs: by_requests_under_load",
            "tests/systemd/load.rs: fifty_reloads_lose_and_close_nothing",
        ],
    ),
    Property(
        34,
        "Old workers leave only after their replacements serve.",
        &[
            "tests/service/recycle.rs: by_age_under_load",
            "tests/reload/triggers.rs: both_generations_are_shown_while_it_goes_on",
            "src/arbiter/core/tests.rs: recycling_prepares_first_and_retires_then",
            "src/arbiter/core/tests/reload.rs: what_serves_is_not_ended_when_nothing_else_does",
        ],
    ),
    Property(
        35,
        "The arbiter's death: workers drain and clean up within their deadline.",
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
        "One structured event per transition (worker, slot, generation, cause, how long the phase took). Every start has \
         exactly one end, or the arbiter's record of the kill.",
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
            "tests/service/mount.rs: what_is_below_its_path_reaches_it_and_it_knows_where_it_is",
        ],
    ),
    (
        "an application that runs is frozen",
        &["src/app/frozen.rs: \"compile_fail,E0599\""],
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
    is_included(&root.join(path))
        && found.is_some_and(|at| is_test(at) || is_listed(root, path, name))
}

/// Whether the module is in its parent, and that in its own, up to the root of a test or of the crate.
fn is_included(file: &Path) -> bool {
    let (Some(folder), Some(stem)) = (file.parent(), file.file_stem()) else {
        return false;
    };
    let stem = stem.to_string_lossy();
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    if ["main", "lib"].contains(&&*stem) || folder == targets {
        return true;
    }
    // The file that stands for its folder is a module of the folder above.
    let (folder, name) = match &*stem {
        "mod" => (
            folder.parent(),
            folder.file_name().map(|name| name.to_string_lossy()),
        ),
        _ => (Some(folder), Some(stem)),
    };
    let (Some(folder), Some(name)) = (folder, name) else {
        return false;
    };
    let parents = ["main.rs", "lib.rs", "mod.rs"].map(|parent| folder.join(parent));
    let parents = parents.into_iter().chain([folder.with_extension("rs")]);
    parents.into_iter().any(|parent| {
        let text = fs::read_to_string(&parent).unwrap_or_default();
        let line = format!("mod {name};");
        let has = text
            .lines()
            .any(|own| own == line || own.ends_with(&format!(" {line}")));
        has && is_included(&parent)
    })
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

#[test]
fn a_file_that_no_module_has_holds_no_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, included) in [
        ("tests/config.rs", true),
        ("tests/app/startup.rs", true),
        ("tests/lifecycle/forgotten.rs", false),
        ("src/testing.rs", true),
        ("src/arbiter/core/tests/lease.rs", true),
        ("src/worker/connection/tests/drain.rs", true),
        ("src/worker/connection/tests/forgotten.rs", false),
    ] {
        assert_eq!(is_included(&root.join(file)), included, "{file}");
    }
}
