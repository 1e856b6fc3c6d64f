//! What the service says about itself: `payload status --json`, the vitals page, an app's own view.
//!
//! Keys are part of the interface. Times are seconds as numbers, sizes bytes.

use serde::{Deserialize, Serialize};

/// How many payloads an app may have: the state of each is shown.
pub(crate) const PAYLOADS: usize = 32;
/// How many bytes the name of each may have, with the path where its app is mounted.
pub(crate) const PAYLOAD_NAME: usize = 128;

/// What the whole service is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
#[repr(u8)]
pub enum ServiceState {
    /// Not every worker serves yet, for the first time.
    Booting = 1,
    /// Every worker that should serve does.
    Ready = 2,
    /// Some slot has no serving worker, or crashes too often; or nobody runs a payload of scope `slot` or `service`
    /// since it has failed in worker after worker, or since processes of an earlier life may still run it.
    Degraded = 3,
    /// On the way out.
    Stopping = 4,
    /// A new generation is being made; the old one serves.
    Reloading = 5,
}

/// The state of a supervised background task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
#[repr(u8)]
pub enum PayloadState {
    /// Registered, not started yet.
    Waiting = 1,
    /// Running.
    Running = 2,
    /// Ended, and will be started again after its backoff.
    Restarting = 3,
    /// Ended as it should: a `once` payload that is done, or one that was told to stop.
    Done = 4,
    /// Ended as it should not.
    Failed = 5,
}

/// Where a background task runs.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Scope {
    /// In every worker, for as long as its app lives.
    #[default]
    Worker,
    /// Once for each slot, by a lease: also while a worker is replaced or the service is reloaded, there are never
    /// two for one slot, and all that run agree on the number of slots.
    Slot,
    /// Once in the whole service, by a lease.
    Service,
}

/// The service as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// The arbiter process.
    pub arbiter: Arbiter,
    /// One entry per worker process, by slot; a slot that is being replaced has two.
    pub workers: Vec<Worker>,
    /// The listening sockets. A worker sees those that it has itself.
    pub sockets: Vec<Socket>,
    /// Who runs the payloads that need a lease.
    #[serde(default)]
    pub leases: Vec<Lease>,
}

/// The one parent process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Arbiter {
    /// Process id.
    pub pid: u32,
    /// What the service is doing.
    pub state: ServiceState,
    /// The generation that serves.
    pub generation: u32,
    /// Seconds since the arbiter started.
    pub uptime: f64,
    /// How many workers should serve.
    pub workers: u32,
    /// The version of payload.
    pub version: String,
    /// The line that systemd shows. A worker sees it without the live counts.
    pub status: String,
    /// Log records of the arbiter that were dropped because nobody took them.
    pub log_drops: u64,
}

/// One worker process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Worker {
    /// Its number, which no other worker has as long as the service runs.
    #[serde(default)]
    pub worker: u64,
    /// The stable place that it fills.
    pub slot: u32,
    /// Process id.
    pub pid: u32,
    /// The generation it belongs to.
    pub generation: u32,
    /// Where it is in its life: `forked`, `loading`, `starting`, `prepared`, `serving`, `draining`,
    /// `cleaning`, `exited`, `failed`.
    pub phase: String,
    /// Seconds in this phase.
    pub since: f64,
    /// Seconds since its last heartbeat.
    pub heartbeat: f64,
    /// Open connections.
    pub connections: u64,
    /// Requests whose response is not finished.
    pub in_flight: u64,
    /// What its app has declared busy.
    #[serde(default)]
    pub busy: u64,
    /// Requests that ended.
    pub requests: u64,
    /// Connections accepted in all.
    pub accepted: u64,
    /// Connections handed on to other workers, open.
    pub given: u64,
    /// Connections taken over from other workers.
    pub received: u64,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Calls of `load` in this process.
    pub loads: u32,
    /// Startups of an app in this process.
    pub starts: u32,
    /// Teardowns of an app in this process.
    pub stops: u32,
    /// How often this slot's worker was replaced after a failure.
    pub restarts: u32,
    /// Bytes of proportional set size, 0 when not measured yet.
    pub memory: u64,
    /// Counts of requests by time: entry `b` took less than 2^b microseconds.
    pub latency: Vec<u64>,
    /// Log records of this worker that were dropped because nobody took them.
    pub log_drops: u64,
    /// Its app's background tasks.
    pub payloads: Vec<Payload>,
}

/// One background task in one worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Payload {
    /// As its author named it.
    pub name: String,
    /// Where it runs. One that needs a lease is `waiting` in each worker that has not got it.
    #[serde(default)]
    pub scope: Scope,
    /// What it is doing.
    pub state: PayloadState,
    /// How often it was started again.
    pub restarts: u32,
    /// How it has failed last in this worker, where that is known.
    #[serde(default)]
    pub last_failure: Option<LastFailure>,
}

/// The last failure of a background task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastFailure {
    /// As the log has it: `failed: connection refused`, `panicked: …`, `returned although …`.
    pub reason: String,
    /// Seconds since then.
    pub ago: f64,
}

/// The right to run one payload of scope `slot` or `service`, which at most one worker has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Lease {
    /// The payload's name.
    pub payload: String,
    /// Its scope.
    pub scope: Scope,
    /// The slot whose lease it is; none where the scope is `service`.
    pub slot: Option<u32>,
    /// Who has it now.
    pub holder: Option<Holder>,
    /// Its payload was a `once` that has ended: nobody gets it before the next generation.
    pub finished: bool,
    /// How often it was granted since the service started.
    pub grants: u64,
    /// For how many seconds nobody had it before it was last granted, whatever the reason: from the last sign of its
    /// last holder, and as long as the app had such a payload. 0 if it was granted for the first time at once.
    pub gap: f64,
    /// How often whoever had it has failed or died, in a row: it counts until one has had it for a while, 10 s at most.
    /// From 2 on the service is degraded. JSON has no such key while it is 0.
    #[serde(default, skip_serializing_if = "is_none_at_all")]
    pub failures: u32,
    /// In how many seconds it is granted again, while it pauses after failures. JSON has no such key otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_in: Option<f64>,
}

/// The worker that has a lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Holder {
    /// Its slot.
    pub slot: u32,
    /// Its process id.
    pub pid: u32,
    /// Its generation.
    pub generation: u32,
    /// The grant's number: it rises with every grant of any lease.
    pub epoch: u64,
    /// Seconds since it was granted.
    pub since: f64,
    /// It was told to give it back, and has not yet.
    pub leaving: bool,
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Socket {
    /// From the socket unit's FileDescriptorName=, or made up.
    pub name: String,
    /// As the kernel says it.
    pub address: String,
    /// `passed` or `bound`.
    pub origin: String,
}

fn is_none_at_all(count: &u32) -> bool {
    *count == 0
}
