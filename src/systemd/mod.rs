//! What this process says to the service manager, and what it puts into its file descriptor store.

pub(crate) mod fd_store;
pub(crate) mod notify;
pub(crate) mod unit;
