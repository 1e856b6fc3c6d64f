//! The machine as a whole: /proc/stat, meminfo, pressure, loadavg and uptime.

use super::kibibytes;

/// Time that a CPU, or all of them, has spent since boot, in clock ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::vitals) struct Ticks {
    pub(in crate::vitals) busy: u64,
    pub(in crate::vitals) idle: u64,
}

impl Ticks {
    /// The busy share of the time between two readings, 0 to 1. `None` when no time has passed, or the
    /// counters went back: a CPU that was unplugged and came back starts anew.
    pub(in crate::vitals) fn share_since(self, earlier: Ticks) -> Option<f64> {
        let busy = self.busy.checked_sub(earlier.busy)?;
        // iowait is part of idle and may go back a little, see proc(5).
        let idle = self.idle.saturating_sub(earlier.idle);
        let all = busy.checked_add(idle)?;
        (all > 0).then(|| busy as f64 / all as f64)
    }
}

/// The `cpu` lines of /proc/stat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::vitals) struct Cpus {
    pub(in crate::vitals) total: Ticks,
    /// By the CPU's number; a CPU that is offline has no line and is `None`.
    pub(in crate::vitals) cores: Vec<Option<Ticks>>,
}

/// More CPUs than any kernel is built for; a number beyond it is not a CPU's.
const CORES: usize = 8192;

/// Reads /proc/stat.
pub(in crate::vitals) fn cpus(stat: &str) -> Option<Cpus> {
    let mut total = None;
    let mut cores = Vec::new();
    // The cpu lines come first; the rest, with its thousands of interrupts, is not looked at.
    for line in stat.lines().take_while(|line| line.starts_with("cpu")) {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next()?;
        let ticks = ticks(fields)?;
        match name.strip_prefix("cpu") {
            Some("") => total = Some(ticks),
            Some(number) => {
                let number: usize = number.parse().ok().filter(|number| *number < CORES)?;
                if cores.len() <= number {
                    cores.resize(number + 1, None);
                }
                cores[number] = Some(ticks);
            }
            None => {}
        }
    }
    Some(Cpus {
        total: total?,
        cores,
    })
}

/// user nice system idle iowait irq softirq steal; guest time, which follows, is in user already.
fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> Option<Ticks> {
    let mut ticks = Ticks::default();
    let mut count = 0;
    for (at, field) in fields.take(8).enumerate() {
        let value: u64 = field.parse().ok()?;
        let part = if matches!(at, 3 | 4) {
            &mut ticks.idle
        } else {
            &mut ticks.busy
        };
        *part = part.saturating_add(value);
        count += 1;
    }
    (count >= 4).then_some(ticks)
}

/// /proc/meminfo, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vitals) struct Memory {
    pub(in crate::vitals) total: u64,
    pub(in crate::vitals) available: u64,
    /// 0 and 0 on a machine without swap.
    pub(in crate::vitals) swap_total: u64,
    pub(in crate::vitals) swap_free: u64,
}

/// Reads /proc/meminfo.
pub(in crate::vitals) fn memory(meminfo: &str) -> Option<Memory> {
    Some(Memory {
        total: kibibytes(meminfo, "MemTotal")?,
        available: kibibytes(meminfo, "MemAvailable")?,
        swap_total: kibibytes(meminfo, "SwapTotal").unwrap_or(0),
        swap_free: kibibytes(meminfo, "SwapFree").unwrap_or(0),
    })
}

/// The share of the last 10 seconds in which some task waited, 0 to 1, from a file of /proc/pressure.
pub(in crate::vitals) fn pressure(file: &str) -> Option<f64> {
    let some = file.lines().find_map(|line| line.strip_prefix("some "))?;
    let average = some
        .split_ascii_whitespace()
        .find_map(|field| field.strip_prefix("avg10="))?;
    number(average).map(|percent| percent / 100.0)
}

/// The load averages of 1, 5 and 15 minutes, from /proc/loadavg.
pub(in crate::vitals) fn load(loadavg: &str) -> Option<[f64; 3]> {
    let mut fields = loadavg.split_ascii_whitespace().map(number);
    Some([fields.next()??, fields.next()??, fields.next()??])
}

/// Seconds since boot, from /proc/uptime.
pub(in crate::vitals) fn uptime(file: &str) -> Option<f64> {
    number(file.split_ascii_whitespace().next()?)
}

/// A number that JSON can carry and that cannot be negative here.
fn number(text: &str) -> Option<f64> {
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  23049 10 4210 244478 1593 0 94 1349 500 0\n\
        cpu0 11556 10 2286 122141 671 0 25 703 500 0\n\
        cpu2 11493 0 1923 122336 922 0 69 646 0 0\n\
        intr 265617 0 0 0\nctxt 370808\nbtime 1763800000\n";

    #[test]
    fn guest_time_is_not_counted_twice() {
        let cpus = cpus(STAT).unwrap();
        assert_eq!(cpus.total.busy, 23049 + 10 + 4210 + 94 + 1349);
        assert_eq!(cpus.total.idle, 244_478 + 1593);
    }

    #[test]
    fn a_cpu_that_is_offline_leaves_a_gap_and_keeps_the_numbers_of_the_others() {
        let cpus = cpus(STAT).unwrap();
        assert_eq!(cpus.cores.len(), 3);
        assert!(cpus.cores[0].is_some() && cpus.cores[1].is_none());
        assert_eq!(cpus.cores[2].unwrap().idle, 122_336 + 922);
    }

    #[test]
    fn an_old_kernel_has_fewer_columns() {
        assert_eq!(
            cpus("cpu 1 2 3 4\n").unwrap().total,
            Ticks { busy: 6, idle: 4 }
        );
        assert_eq!(cpus("cpu 1 2 3\n"), None);
    }

    #[test]
    fn what_is_not_a_stat_file_is_not_read() {
        assert_eq!(cpus(""), None);
        assert_eq!(cpus("intr 1 2 3\n"), None);
        assert_eq!(cpus("cpu a b c d\n"), None);
        assert_eq!(cpus("cpu 1 2 3 4\ncpu99999999 1 2 3 4\n"), None);
    }

    #[test]
    fn a_share_is_of_the_time_between_two_readings() {
        let earlier = Ticks {
            busy: 100,
            idle: 900,
        };
        let later = Ticks {
            busy: 150,
            idle: 1050,
        };
        assert_eq!(later.share_since(earlier), Some(0.25));
        assert_eq!(earlier.share_since(earlier), None, "no time has passed");
        assert_eq!(earlier.share_since(later), None, "the counters were reset");
    }

    #[test]
    fn iowait_that_goes_back_does_not_spoil_a_share() {
        let earlier = Ticks {
            busy: 100,
            idle: 900,
        };
        let later = Ticks {
            busy: 110,
            idle: 899,
        };
        assert_eq!(later.share_since(earlier), Some(1.0));
    }

    #[test]
    fn memory_without_swap() {
        let text = "MemTotal:       24684092 kB\nMemFree:        22531196 kB\n\
            MemAvailable:   24037776 kB\nSwapTotal:             0 kB\nHugePages_Total:       0\n";
        let memory = memory(text).unwrap();
        assert_eq!(memory.total, 24_684_092 * 1024);
        assert_eq!(memory.available, 24_037_776 * 1024);
        assert_eq!((memory.swap_total, memory.swap_free), (0, 0));
    }

    #[test]
    fn memory_needs_to_know_what_is_available() {
        assert_eq!(memory("MemTotal: 100 kB\nMemFree: 50 kB\n"), None);
    }

    #[test]
    fn pressure_is_a_share() {
        let text = "some avg10=52.25 avg60=22.57 avg300=5.80 total=25908176\n\
            full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(pressure(text), Some(0.5225));
    }

    #[test]
    fn pressure_that_is_off_or_only_full_is_none() {
        assert_eq!(pressure(""), None);
        assert_eq!(
            pressure("full avg10=1.00 avg60=0.00 avg300=0.00 total=0\n"),
            None
        );
        assert_eq!(pressure("some avg10=nan avg60=0.00\n"), None);
    }

    #[test]
    fn load_and_uptime() {
        assert_eq!(
            load("1.32 0.41 0.20 4/112 8900\n"),
            Some([1.32, 0.41, 0.20])
        );
        assert_eq!(load("1.32 0.41\n"), None);
        assert_eq!(uptime("1372.64 2444.78\n"), Some(1372.64));
        assert_eq!(uptime(""), None);
    }
}
