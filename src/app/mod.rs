//! What an author builds: a service, lifecycle steps and payloads. Knows no process.

pub(crate) mod service;
