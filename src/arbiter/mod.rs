//! The one parent process: owns the sockets, forks the workers, talks to the manager, serves no request.
//!
//! [`core`] decides, [`shell`] does.

mod balance;
pub(crate) mod core;
mod diagnose;
mod handoff;
mod intake;
mod journal;
mod memory;
mod seats;
pub(crate) mod shell;
pub(crate) mod view;

pub(crate) use shell::{Equipment, Outcome, Shell};
