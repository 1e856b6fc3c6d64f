//! payload under a real systemd: each test boots a Debian of its own (see `machine.rs`), once with systemd 252
//! and once with 257.
//!
//! Runs as root on Debian; the roots are made by `base.sh` at the first run. Elsewhere the tests say that they
//! were skipped; with `CI` in the environment that is a failure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod base;
mod cgroup;
mod machine;
mod service;
mod trial;

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
    trial::it_boots,
    trial::it_fails,
}

fn on(suite: base::Suite, test: fn(&machine::Machine)) {
    if let Some(machine) = machine::Machine::boot(suite) {
        test(&machine);
    }
}
