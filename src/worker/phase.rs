//! A worker's life as one table.
//!
//! ```text
//! Forked → Loading → Starting → Prepared → Serving → Draining → Cleaning → Exited
//!                                                                       ↘ Failed
//! ```
//! Monotonic: a worker may skip phases on its way out, and never goes back.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub(crate) enum Phase {
    /// The process exists; its runtime is being built.
    Forked = 1,
    /// The author's `load` runs.
    Loading = 2,
    /// The app's startup steps run.
    Starting = 3,
    /// Everything is up; it waits for the arbiter's Serve and accepts nothing.
    Prepared = 4,
    /// It accepts connections.
    Serving = 5,
    /// It takes nothing new and finishes what it has.
    Draining = 6,
    /// Payloads stop and teardown runs.
    Cleaning = 7,
    /// Over, well.
    Exited = 8,
    /// Over, with a failure.
    Failed = 9,
}

impl Phase {
    pub(crate) const ALL: [Phase; 9] = [
        Phase::Forked,
        Phase::Loading,
        Phase::Starting,
        Phase::Prepared,
        Phase::Serving,
        Phase::Draining,
        Phase::Cleaning,
        Phase::Exited,
        Phase::Failed,
    ];

    /// The phases that may follow. This table is the only place that says so.
    pub(crate) const fn successors(self) -> &'static [Phase] {
        use Phase::{
            Cleaning, Draining, Exited, Failed, Forked, Loading, Prepared, Serving, Starting,
        };
        match self {
            Forked => &[Loading, Exited, Failed],
            Loading => &[Starting, Cleaning, Exited, Failed],
            Starting => &[Prepared, Cleaning, Failed],
            Prepared => &[Serving, Cleaning, Failed],
            Serving => &[Draining, Failed],
            Draining => &[Cleaning, Failed],
            Cleaning => &[Exited, Failed],
            Exited | Failed => &[],
        }
    }

    pub(crate) fn may_become(self, next: Phase) -> bool {
        self.successors().contains(&next)
    }

    /// Before the first accept: `load`, startup steps and the wait for Serve.
    pub(crate) fn is_boot(self) -> bool {
        self < Phase::Serving
    }

    /// The word for logs, status and JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Phase::Forked => "forked",
            Phase::Loading => "loading",
            Phase::Starting => "starting",
            Phase::Prepared => "prepared",
            Phase::Serving => "serving",
            Phase::Draining => "draining",
            Phase::Cleaning => "cleaning",
            Phase::Exited => "exited",
            Phase::Failed => "failed",
        }
    }

    pub(crate) fn from_u8(value: u8) -> Option<Phase> {
        Phase::ALL.into_iter().find(|phase| *phase as u8 == value)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_transitions() {
        let mut table = String::new();
        for from in Phase::ALL {
            let row: Vec<&str> = Phase::ALL
                .iter()
                .map(|to| if from.may_become(*to) { to.name() } else { "-" })
                .collect();
            table.push_str(&format!("{:>9}: {}\n", from.name(), row.join(" ")));
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn no_phase_leads_back() {
        for from in Phase::ALL {
            for to in from.successors() {
                assert!(*to > from, "{from} must not become {to}");
            }
        }
    }
}
