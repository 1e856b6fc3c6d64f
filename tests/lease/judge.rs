//! What writers have written, judged: whether two ever wrote at the same time, and when nobody did.

use std::collections::BTreeMap;
use std::time::Duration;

/// One writer, from its first line to its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stint {
    pub(crate) pid: u32,
    pub(crate) slot: u32,
    pub(crate) slots: u32,
    pub(crate) epoch: u64,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    /// The longest time between two of its lines, and when it began.
    pub(crate) pause: Duration,
    pub(crate) paused_at: Duration,
    /// It was told to stop and did.
    pub(crate) ended: bool,
    /// It found nothing kept, although there was a writer before it.
    pub(crate) bare: bool,
}

/// Everybody who ever wrote, in the order of their first lines. Fails where two wrote at the same time. `by_slot`: each
/// slot has a writer of its own.
pub(crate) fn read(text: &str, by_slot: bool) -> Result<Vec<Stint>, String> {
    // The last line may still be on its way.
    let text = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let mut stints: Vec<Stint> = Vec::new();
    let mut counts = BTreeMap::<u64, u64>::new();
    for line in text.lines() {
        let fail = |what: &str, stints: &[Stint]| Err(format!("{what}: {line}\n{stints:#?}"));
        let mut fields = line.split(' ');
        let word = fields.next().unwrap_or_default();
        let numbers: Result<Vec<u64>, _> = fields.map(str::parse).collect();
        let Ok(&[pid, slot, slots, epoch, count, time]) = numbers.as_deref() else {
            return fail("no line of the ledger", &stints);
        };
        let time = Duration::from_nanos(time);
        match word {
            "clash" => return fail("two hold the lock", &stints),
            "lost" => return fail("it was not what was kept last", &stints),
            _ => {}
        }
        let last = counts.entry(if by_slot { slot } else { 0 }).or_default();
        if count != *last + 1 {
            return fail("two count", &stints);
        }
        *last = count;
        if word == "begin" || word == "bare" {
            stints.push(Stint {
                pid: narrow(pid),
                slot: narrow(slot),
                slots: narrow(slots),
                epoch,
                from: time,
                to: time,
                pause: Duration::ZERO,
                paused_at: time,
                ended: false,
                bare: word == "bare",
            });
            continue;
        }
        let mut writers = stints.iter_mut().rev();
        let is_it = |stint: &&mut Stint| stint.epoch == epoch && stint.pid == narrow(pid);
        let Some(stint) = writers.find(is_it) else {
            return fail("it never began", &stints);
        };
        if stint.ended {
            return fail("it had ended", &stints);
        }
        let pause = time.saturating_sub(stint.to);
        if pause > stint.pause {
            (stint.pause, stint.paused_at) = (pause, stint.to);
        }
        stint.to = time;
        stint.ended = word == "end";
    }
    check(&stints, by_slot)?;
    Ok(stints)
}

/// Nobody overlaps with anybody: in the whole service, or within a slot and between different numbers of slots.
fn check(stints: &[Stint], by_slot: bool) -> Result<(), String> {
    for (index, later) in stints.iter().enumerate() {
        for earlier in &stints[..index] {
            let apart = by_slot && later.slot != earlier.slot && later.slots == earlier.slots;
            if !apart && earlier.to > later.from {
                return Err(format!("two at the same time: {earlier:?} {later:?}"));
            }
            let same = later.epoch == earlier.epoch && later.pid == earlier.pid;
            if !apart && !same && later.epoch <= earlier.epoch {
                return Err(format!("epochs do not rise: {earlier:?} {later:?}"));
            }
        }
    }
    Ok(())
}

/// Nobody wrote, and somebody should have.
#[derive(Clone, Debug)]
pub(crate) struct Silence {
    /// The slot, or 0 where there is one writer in the service.
    pub(crate) share: u32,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    /// Who wrote before it, and who begins after it.
    pub(crate) before: Option<Stint>,
    pub(crate) next: Option<Stint>,
}

impl Silence {
    pub(crate) fn span(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    /// The work was shared anew.
    pub(crate) fn is_shared_anew(&self) -> bool {
        let slots = [&self.before, &self.next].map(|one| one.as_ref().map(|one| one.slots));
        slots[0] != slots[1]
    }
}

/// When nobody wrote in this part of a life of the service, for each share by itself. Somebody has to write it from the
/// first moment to the last: as many shares as the last one to begin says that there are.
pub(crate) fn silences(
    stints: &[Stint],
    by_slot: bool,
    from: Duration,
    to: Duration,
) -> Vec<Silence> {
    let its = |stint: &&Stint| stint.to >= from && stint.from <= to;
    let stints: Vec<&Stint> = stints.iter().filter(its).collect();
    let most = stints.iter().map(|stint| stint.slots).max();
    let shares = if by_slot { most.unwrap_or(1) } else { 1 };
    let mut all = Vec::new();
    for share in 0..shares {
        let of_share = |stint: &&&Stint| !by_slot || stint.slot == share;
        let writers: Vec<&Stint> = stints.iter().filter(of_share).copied().collect();
        let counts = |stint: &Stint| !by_slot || share < stint.slots;
        // From one change of the number of shares to the next.
        let first = stints.first();
        let mut since = first.is_none_or(|first| counts(first)).then_some(from);
        for stint in &stints {
            match since {
                None if counts(stint) => since = Some(stint.from.max(from)),
                Some(begun) if !counts(stint) => {
                    all.extend(between(share, &writers, begun, stint.from.max(from)));
                    since = None;
                }
                _ => {}
            }
        }
        if let Some(begun) = since {
            all.extend(between(share, &writers, begun, to));
        }
    }
    all
}

/// When none of them wrote.
fn between(share: u32, writers: &[&Stint], from: Duration, to: Duration) -> Vec<Silence> {
    let silence = |from, to, before: Option<&Stint>, next: Option<&Stint>| Silence {
        share,
        from,
        to,
        before: before.cloned(),
        next: next.cloned(),
    };
    let (mut all, mut since, mut before) = (Vec::new(), from, None);
    for writer in writers.iter().copied() {
        if writer.to < from || writer.from > to {
            continue;
        }
        if writer.from > since {
            all.push(silence(since, writer.from, before, Some(writer)));
        }
        before = Some(writer);
        since = since.max(writer.to);
        let paused = writer.paused_at.max(from);
        let again = (writer.paused_at + writer.pause).min(to);
        if paused < again {
            all.push(silence(paused, again, before, None));
        }
    }
    if since < to {
        all.push(silence(since, to, before, None));
    }
    all
}

/// The longest time in which nobody wrote, between two writers or while one did not come to it.
pub(crate) fn silence(stints: &[Stint]) -> Duration {
    let pauses = stints.iter().map(|stint| stint.pause);
    pauses.chain(gaps(stints)).max().unwrap_or_default()
}

/// For how long nobody wrote between each two that followed each other.
pub(crate) fn gaps(stints: &[Stint]) -> Vec<Duration> {
    let pairs = stints.windows(2);
    pairs
        .map(|pair| pair[1].from.saturating_sub(pair[0].to))
        .collect()
}

fn narrow(number: u64) -> u32 {
    number.try_into().expect("a small number")
}
