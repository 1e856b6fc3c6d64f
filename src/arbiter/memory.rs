//! How much memory each worker uses.

use std::fs;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::core::Event;
use super::seats::Children;
use crate::ipc::orders::Recycle;
use crate::moment::Moment;
use crate::worker::phase::Phase;

/// A worker is not recycled for its memory before it has served this long: with a limit below what the app needs
/// at least, workers would be replaced without end.
const SETTLED: Duration = Duration::from_secs(10);

/// Writes every worker's proportional set size to the scoreboard.
pub(super) fn measure(children: &Children) {
    for (_, child) in children.iter() {
        if let Some(bytes) = proportional(child.pid).or_else(|| resident(child.pid)) {
            children.seat(child).memory.store(bytes, Relaxed);
        }
    }
}

/// The serving workers that use more than `limit` bytes.
pub(super) fn over(children: &Children, limit: u64, now: Moment) -> Vec<Event> {
    children
        .iter()
        .filter(|(_, child)| {
            let seat = children.seat(child);
            let since = Moment::from_nanos(seat.phase_since.load(Relaxed));
            seat.phase() == Some(Phase::Serving)
                && now.since(since) >= SETTLED
                && seat.memory.load(Relaxed) > limit
        })
        .map(|(worker, _)| Event::Recycle {
            worker,
            cause: Recycle::Memory,
        })
        .collect()
}

/// proc_pid_smaps(5): what is shared counts by its share, so a fork is not charged for its parent's pages.
fn proportional(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    pss(&text)
}

/// Where smaps may not be read: proc_pid_status(5), VmRSS.
fn resident(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    kilobytes(&text, "VmRSS:")
}

fn pss(text: &str) -> Option<u64> {
    kilobytes(text, "Pss:")
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rollup_is_in_kilobytes() {
        let text = "55e0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:     1234 kB\nPss:      567 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(pss(text), Some(567 * 1024));
        assert_eq!(pss("nothing"), None);
        assert_eq!(
            kilobytes("VmRSS:\t 99999999999999999999 kB", "VmRSS:"),
            None
        );
    }

    #[test]
    fn this_process_can_be_measured() {
        assert!(resident(std::process::id()).is_some_and(|bytes| bytes > 100_000));
    }
}
