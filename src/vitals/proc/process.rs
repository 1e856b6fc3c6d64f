//! One process: /proc/PID/stat and its memory.

use super::kibibytes;

/// Clock ticks per second in /proc/PID/stat: USER_HZ, 100 on every architecture that Rust's Linux
/// targets have.
pub(in crate::vitals) const USER_HZ: f64 = 100.0;

/// CPU time of a process that is told from a later one with the same pid by its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vitals) struct Spent {
    /// Clock ticks in user and kernel mode, all threads.
    pub(in crate::vitals) ticks: u64,
    /// Clock ticks from boot to its start.
    pub(in crate::vitals) started: u64,
}

/// Reads /proc/PID/stat.
pub(in crate::vitals) fn spent(stat: &str) -> Option<Spent> {
    // The name is in parentheses and may itself hold spaces and parentheses; nothing after it does.
    let (_, fields) = stat.rsplit_once(')')?;
    // The first field here is number 3 of proc(5), state.
    let mut fields = fields.split_ascii_whitespace();
    let user: u64 = fields.nth(14 - 3)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let started = fields.nth(22 - 16)?.parse().ok()?;
    Some(Spent {
        ticks: user.saturating_add(system),
        started,
    })
}

/// Bytes of proportional set size, from /proc/PID/smaps_rollup.
pub(in crate::vitals) fn proportional(smaps_rollup: &str) -> Option<u64> {
    kibibytes(smaps_rollup, "Pss")
}

/// Bytes of resident set size, from /proc/PID/status.
pub(in crate::vitals) fn resident(status: &str) -> Option<u64> {
    kibibytes(status, "VmRSS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "8900 (a) (b) S 9) S 1 8900 8900 0 -1 4194304 120 0 0 0 37 5 0 0 20 0 1 0 137264 3133440 502 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0\n";
        assert_eq!(
            spent(stat),
            Some(Spent {
                ticks: 42,
                started: 137_264
            })
        );
    }

    #[test]
    fn a_cut_line_is_not_read() {
        assert_eq!(spent("8900 (payload) S 1 2 3"), None);
        assert_eq!(spent(""), None);
    }

    #[test]
    fn memory_of_a_process() {
        let rollup = "55b1df838000-7fff64a1a000 ---p 00000000 00:00 0                          [rollup]\n\
            Rss:                2008 kB\nPss:                 499 kB\nPss_Dirty:           144 kB\n";
        assert_eq!(proportional(rollup), Some(499 * 1024));
        assert_eq!(
            resident("VmPeak:\t 100 kB\nVmRSS:\t    2008 kB\n"),
            Some(2008 * 1024)
        );
        assert_eq!(
            resident("Name:\tkthreadd\n"),
            None,
            "a kernel thread has no memory of its own"
        );
    }
}
