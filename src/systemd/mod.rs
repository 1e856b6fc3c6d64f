//! What this process says to the service manager.

pub(crate) mod notify;
