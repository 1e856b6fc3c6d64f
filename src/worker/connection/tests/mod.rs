//! Connections as a client sees them, over pipes and with a clock that can be paused.

mod batch;
mod drain;
mod events;
mod failures;
mod http1;
mod http2;
mod timeouts;
mod upgrade;
