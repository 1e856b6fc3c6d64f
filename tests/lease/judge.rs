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

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// `word pid slot slots epoch count milliseconds`
fn forged(lines: &[&str]) -> String {
    let line = |line: &&str| format!("{line}000000\n");
    lines.iter().map(line).collect()
}

#[track_caller]
fn refused(lines: &[&str], by_slot: bool, why: &str) {
    let outcome = read(&forged(lines), by_slot);
    let error = outcome.expect_err("it is wrong");
    assert!(error.contains(why), "{error}");
}

#[test]
fn two_writers_are_found() {
    let good = [
        "begin 7 0 2 1 1 10",
        "tick 7 0 2 1 2 20",
        "begin 8 1 2 2 3 30",
    ];
    assert_eq!(read(&forged(&good), false).unwrap().len(), 2);
    let back = [good[0], good[1], "begin 8 1 2 2 3 15"];
    refused(&back, false, "two at the same time");
    // Nobody else has counted on, and the first one writes again.
    let both = [good[0], good[1], good[2], "tick 7 0 2 1 4 40"];
    refused(&both, false, "two at the same time");
    refused(&[good[0], "begin 8 1 2 2 1 30"], false, "two count");
    refused(&[good[0], "clash 8 1 2 2 2 30"], false, "two hold the lock");
    refused(
        &[good[0], "begin 8 1 2 1 2 30"],
        false,
        "epochs do not rise",
    );
    refused(&[good[0], "tick 8 1 2 1 2 30"], false, "it never began");
    let after = [good[0], "end 7 0 2 1 2 20", "tick 7 0 2 1 3 30"];
    refused(&after, false, "it had ended");
    refused(&[good[0], "lost 8 1 2 2 2 30"], false, "kept last");
    refused(&[good[0], "tick 7 0 2 1 2"], false, "no line");
}

#[test]
fn two_of_a_slot_are_found_and_those_who_share_by_other_numbers() {
    let good = [
        "begin 7 0 2 1 1 10",
        "begin 8 1 2 2 1 11",
        "tick 7 0 2 1 2 20",
    ];
    assert_eq!(read(&forged(&good), true).unwrap().len(), 2);
    let same = [good[0], good[1], good[2], "begin 9 0 2 3 3 15"];
    refused(&same, true, "two at the same time");
    let other = [good[0], good[1], good[2], "begin 9 2 3 3 1 15"];
    refused(&other, true, "two at the same time");
}

#[test]
fn silence_is_found_before_the_first_between_two_within_one_and_after_the_last() {
    let lines = [
        "begin 7 0 1 1 1 30",
        "tick 7 0 1 1 2 32",
        "tick 7 0 1 1 3 52",
        "begin 8 0 1 2 4 92",
        "tick 8 0 1 2 5 95",
    ];
    let stints = read(&forged(&lines), false).unwrap();
    let spans = |from: u64, to: u64| {
        let all = silences(&stints, false, millis(from), millis(to));
        let next = |one: &Silence| one.next.as_ref().map(|next| next.epoch);
        let spans = all.iter().map(|one| (one.span().as_millis(), next(one)));
        spans.collect::<Vec<_>>()
    };
    let all = [
        (20, Some(1)),
        (20, None),
        (40, Some(2)),
        (3, None),
        (55, None),
    ];
    assert_eq!(spans(10, 150), all);
    assert_eq!(spans(200, 300), [(100, None)], "nobody wrote at all");
    assert_eq!(spans(40, 60), [(12, None), (8, None)], "of a part");
}

#[test]
fn silence_is_found_in_each_share_as_long_as_there_is_one() {
    let lines = [
        "begin 7 0 2 1 1 10",
        "begin 8 1 2 2 1 10",
        "tick 7 0 2 1 2 50",
        // The second share is gone.
        "begin 7 0 1 3 3 60",
        "tick 7 0 1 3 4 99",
        // And here again, and nobody has it.
        "begin 9 0 2 4 5 100",
        "tick 9 0 2 4 6 130",
    ];
    let stints = read(&forged(&lines), true).unwrap();
    let all = silences(&stints, true, millis(10), millis(130));
    let of = |from: u64, to: u64| {
        let is_it = |one: &Silence| (one.from, one.to) == (millis(from), millis(to));
        all.iter().any(|one| is_it(one))
    };
    assert!(of(50, 60) && of(99, 100), "the first one changes: {all:?}");
    assert!(of(10, 60), "the second one stops to be written: {all:?}");
    assert!(of(100, 130), "it is not written any more: {all:?}");
    assert!(
        !all.iter()
            .any(|one| one.from == millis(60) && one.to > millis(99))
    );
}
