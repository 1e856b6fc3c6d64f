//! What one look at the machine found: the JSON of `/api/vitals`.
//!
//! Sizes are bytes, rates are bytes per second, times are seconds, shares are 0 to 1. A value that the
//! kernel does not show to this process (a hardened unit, a container) or that needs an earlier sample to
//! compare with is `null`.

use serde::{Deserialize, Serialize};

/// The machine at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Seconds since 1970, to the millisecond.
    pub(crate) time: f64,
    pub(crate) cpu: Option<Cpu>,
    pub(crate) memory: Option<Memory>,
    pub(crate) pressure: Pressure,
    /// Load averages of 1, 5 and 15 minutes.
    pub(crate) load: Option<[f64; 3]>,
    /// All whole disks together.
    pub(crate) disk: Option<Disk>,
    /// All interfaces but the loopback together.
    pub(crate) network: Option<Network>,
    /// Seconds since the machine booted.
    pub(crate) uptime: Option<f64>,
    /// What this service itself uses: the arbiter and all workers together.
    pub(crate) service: Footprint,
}

/// CPU time since the last sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cpu {
    /// The share of all CPUs' time that was not idle.
    pub(crate) busy: f64,
    /// The same of each CPU, by its number; `null` for one that is or was offline.
    pub(crate) cores: Vec<Option<f64>>,
}

/// The machine's memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    /// What could not be given to a new program: total less available.
    pub(crate) used: u64,
    /// The kernel's estimate of what a new program could have without swapping.
    pub(crate) available: u64,
    /// 0 without swap.
    pub(crate) swap_total: u64,
    pub(crate) swap_used: u64,
}

/// Pressure stall information: the share of the last 10 seconds in which some task waited for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pressure {
    pub(crate) cpu: Option<f64>,
    pub(crate) memory: Option<f64>,
    pub(crate) io: Option<f64>,
}

/// Bytes per second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Disk {
    pub(crate) read: f64,
    pub(crate) written: f64,
}

/// Bytes per second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Network {
    pub(crate) received: f64,
    pub(crate) sent: f64,
}

/// What one or more processes use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Footprint {
    /// CPU time per second: 1 is one CPU, busy all the time.
    pub(crate) cpu: Option<f64>,
    /// Bytes: proportional set size where it may be read, else resident set size.
    pub(crate) memory: Option<u64>,
}

/// One process of this service, as of the last sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// The worker's slot; `null` is the arbiter.
    pub(crate) slot: Option<u32>,
    #[serde(flatten)]
    pub(crate) uses: Footprint,
}
