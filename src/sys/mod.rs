//! The only unsafe code, and the system calls that matter. Knows nobody else in this crate.
#![allow(unsafe_code)]

pub(crate) mod accept;
pub(crate) mod clock;
pub(crate) mod epoll;
pub(crate) mod memory;
