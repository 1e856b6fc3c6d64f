//! payload under a real systemd: each test boots a Debian of its own (see `machine.rs`), once with systemd 252
//! and once with 257.
//!
//! Runs as root on Debian; the roots are made by `base.sh` at the first run. Elsewhere the tests say that they
//! were skipped; with `CI` in the environment that is a failure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod activation;
mod base;
mod cgroup;
mod check;
mod failure;
mod idle_exit;
mod journal;
#[allow(dead_code, reason = "what other tests use of it")]
#[path = "../lease/judge.rs"]
mod judge;
mod load;
mod machine;
mod own;
mod preload;
mod reload;
mod restart;
mod service;
mod stop;
mod turn;
mod units;

/// Each listed function becomes one test per suite.
macro_rules! on_both_suites {
    ($($module:ident :: $test:ident,)*) => {
        mod bookworm {
            $(#[test]
            fn $test() {
                crate::on(crate::base::Suite::Bookworm, crate::$module::$test);
            })*
        }
        mod trixie {
            $(#[test]
            fn $test() {
                crate::on(crate::base::Suite::Trixie, crate::$module::$test);
            })*
        }
    };
}

on_both_suites! {
    activation::the_first_connection_starts_the_service,
    activation::start_returns_when_every_worker_serves,
    activation::the_status_line_has_live_counts,
    check::deadlines_that_the_unit_does_not_allow_are_refused,
    failure::a_stopped_arbiter_is_replaced_by_the_watchdog,
    failure::a_killed_arbiter_comes_back,
    failure::what_a_killed_arbiter_leaves_runs_beside_nothing_that_is_new,
    failure::what_a_killed_arbiter_leaves_is_waited_for_where_systemd_does_not_end_it,
    failure::a_crash_loop_keeps_the_socket,
    failure::wrong_configuration_is_not_restarted,
    failure::a_client_outlives_wrong_configuration,
    idle_exit::it_leaves_when_idle_and_loses_nobody,
    journal::lifecycle_events_have_fields,
    journal::a_stopped_journal_slows_nothing,
    load::fifty_reloads_lose_and_close_nothing,
    load::fifty_restarts_lose_and_close_nothing,
    own::the_shipped_service_is_installed_and_used_as_the_readme_says,
    own::it_goes_with_the_shipped_units,
    preload::a_long_preload_outlasts_the_limits,
    reload::reload_takes_over_or_says_why_not,
    reload::an_upgrade_is_a_new_file_and_a_reload,
    reload::a_drop_in_for_notify_reload_works,
    restart::restarts_under_load_close_nothing,
    restart::what_the_store_does_not_take_is_closed_and_counted,
    restart::a_stop_closes_and_empties_the_store,
    restart::a_restart_that_fails_keeps_its_connections,
    restart::a_killed_arbiter_refuses_nobody,
    restart::what_a_payload_keeps_goes_on_and_not_over_a_stop,
    stop::stop_drains_and_leaves_nothing,
    stop::stop_with_nothing_to_do_is_prompt,
    units::the_units_are_in_order,
    units::the_service_works_hardened,
}

fn on(suite: base::Suite, test: fn(&machine::Machine)) {
    if let Some(machine) = machine::Machine::boot(suite) {
        test(&machine);
    }
}
