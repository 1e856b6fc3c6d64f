//! The one parent process: owns the sockets, forks the workers, talks to the manager, serves no request.

pub(crate) mod core;
