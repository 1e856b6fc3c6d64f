//! A forked child: one runtime, one app.

pub(crate) mod phase;
