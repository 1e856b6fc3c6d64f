//! How the arbiter and its workers talk: a typed channel each, and one scoreboard for all.

pub(crate) mod bulletin;
pub(crate) mod channel;
pub(crate) mod failures;
pub(crate) mod orders;
pub(crate) mod parcel;
pub(crate) mod reading;
pub(crate) mod scoreboard;
#[cfg(test)]
mod version_1;
