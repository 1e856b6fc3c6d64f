//! The only unsafe code, and the system calls that matter. Knows nobody else in this crate.
#![allow(unsafe_code)]

pub(crate) mod accept;
pub(crate) mod clock;
pub(crate) mod diagnosis;
pub(crate) mod environment;
pub(crate) mod epoll;
pub(crate) mod exec;
pub(crate) mod fds;
pub(crate) mod memory;
pub(crate) mod passing;
pub(crate) mod process;
pub(crate) mod readiness;
pub(crate) mod records;
pub(crate) mod sealed;
pub(crate) mod signals;
pub(crate) mod title;
