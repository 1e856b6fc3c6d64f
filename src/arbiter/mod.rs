//! The one parent process: owns the sockets, forks the workers, talks to the manager, serves no request.
//!
//! [`core`] decides, [`shell`] does.

mod balance;
mod claim;
pub(crate) mod core;
mod diagnose;
mod handoff;
mod hearing;
mod image;
mod intake;
mod journal;
mod kept;
mod maps;
mod memory;
mod news;
mod post;
pub(crate) mod preparation;
mod reload;
mod seats;
pub(crate) mod shell;
mod state;
mod store;
pub(crate) mod view;

pub(crate) use image::Images;
pub(crate) use reload::NewImage;
pub(crate) use shell::{Equipment, Outcome, Shell};
pub(crate) use state::{Arrival, Inherited, Program, arrival};
pub(crate) use store::Store;
