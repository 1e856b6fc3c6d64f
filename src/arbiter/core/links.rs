//! Who may give its connections to whom when it leaves: which links there have to be.
//!
//! As long as anybody serves, each worker that leaves has a link to somebody who serves. Nobody is told to leave
//! before that is so for all who left earlier and counted on it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Core, WorkerId};
use crate::status::ServiceState;
use crate::worker::phase::Phase;

/// More heirs than this share the connections of one worker no better.
const MAX_HEIRS: usize = 8;

/// The links that there are, as far as leaving is concerned.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// Those that leave, with everybody that they were ever linked to.
    heirs: BTreeMap<WorkerId, BTreeSet<WorkerId>>,
    /// Those that know that the service stops.
    ended: BTreeSet<WorkerId>,
}

/// What the scoreboard says of a worker. It may be ahead of what the core has heard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) phase: Phase,
    pub(crate) connections: u64,
}

/// What a worker that leaves has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tie {
    /// This one takes over.
    Heir { from: WorkerId, to: WorkerId },
    /// The service stops, and no worker takes over.
    End { from: WorkerId },
}

impl Links {
    /// Call it when anything has changed, and before an order to leave goes out. `seen` knows every worker that has a
    /// process.
    pub(crate) fn update(
        &mut self,
        core: &Core,
        seen: impl Fn(WorkerId) -> Option<Seen>,
    ) -> Vec<Tie> {
        self.heirs.retain(|id, _| core.workers.contains_key(id));
        self.ended.retain(|id| core.workers.contains_key(id));
        let stops = core.state() == ServiceState::Stopping;
        let candidates = candidates(core, &seen);
        let mut ties = Vec::new();
        for (id, worker) in &core.workers {
            let leaves = seen(*id).is_some_and(|seen| match seen.phase {
                Phase::Serving => worker.is_leaving(),
                Phase::Draining => true,
                // Before, there are no connections. Afterwards there are none either.
                _ => false,
            });
            if leaves && stops {
                if self.ended.insert(*id) {
                    ties.push(Tie::End { from: *id });
                }
            } else if leaves {
                let heirs = self.heirs.entry(*id).or_default();
                let new = missing(heirs, &candidates, *id, worker.slot);
                heirs.extend(&new);
                ties.extend(new.into_iter().map(|to| Tie::Heir { from: *id, to }));
            }
        }
        ties
    }
}

/// A worker that serves and stays.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: WorkerId,
    slot: u16,
    connections: u64,
}

fn candidates(core: &Core, seen: impl Fn(WorkerId) -> Option<Seen>) -> Vec<Candidate> {
    let serving = core.serving_workers().filter_map(|(id, slot)| {
        let seen = seen(id).filter(|seen| seen.phase == Phase::Serving)?;
        Some(Candidate {
            id,
            slot,
            connections: seen.connections,
        })
    });
    serving.collect()
}

/// Whom the worker is to be linked to in addition: the next one of its slot first, then those with the fewest
/// connections.
fn missing(
    heirs: &BTreeSet<WorkerId>,
    candidates: &[Candidate],
    id: WorkerId,
    slot: u16,
) -> Vec<WorkerId> {
    let (there, mut others): (Vec<&Candidate>, Vec<&Candidate>) = candidates
        .iter()
        .filter(|one| one.id != id)
        .partition(|one| heirs.contains(&one.id));
    others.sort_by_key(|one| (one.slot != slot, one.connections, one.id));
    let count = MAX_HEIRS.saturating_sub(there.len());
    others.into_iter().take(count).map(|one| one.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heirs_are_the_successor_and_those_with_the_fewest_connections() {
        let candidates: Vec<Candidate> = (1..=20)
            .map(|id| Candidate {
                id: WorkerId(u64::from(id)),
                slot: id,
                connections: u64::from(100 - id),
            })
            .collect();
        let leaving = WorkerId(30);
        let heirs = missing(&BTreeSet::new(), &candidates, leaving, 13);
        assert_eq!(heirs, [13, 20, 19, 18, 17, 16, 15, 14].map(WorkerId));
        // As many as are gone come in addition.
        let had: BTreeSet<_> = heirs.into_iter().collect();
        let left: Vec<Candidate> = candidates
            .into_iter()
            .filter(|one| ![13, 20].contains(&one.slot))
            .collect();
        let more = missing(&had, &left, leaving, 13);
        assert_eq!(more, [12, 11].map(WorkerId));
    }

    #[test]
    fn nobody_is_an_own_heir() {
        let own = Candidate {
            id: WorkerId(1),
            slot: 0,
            connections: 0,
        };
        assert_eq!(missing(&BTreeSet::new(), &[own], WorkerId(1), 0), []);
    }
}
