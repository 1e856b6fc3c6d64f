//! Disks and network interfaces: counters of bytes by device.

use std::collections::BTreeMap;

/// Bytes since the device appeared: read and written, or received and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::vitals) struct Bytes {
    pub(in crate::vitals) inward: u64,
    pub(in crate::vitals) outward: u64,
}

/// The counters of every device, by name.
pub(in crate::vitals) type Devices = BTreeMap<String, Bytes>;

/// What passed through all devices between two readings.
///
/// A device that was not there before counts from now on. A counter that went back (the device was
/// replaced, or a 32-bit counter wrapped) counts nothing this once: too little beats a spike that never
/// was.
pub(in crate::vitals) fn passed(now: &Devices, earlier: &Devices) -> Bytes {
    let mut sum = Bytes::default();
    for (name, now) in now {
        if let Some(earlier) = earlier.get(name) {
            let inward = now.inward.saturating_sub(earlier.inward);
            let outward = now.outward.saturating_sub(earlier.outward);
            sum.inward = sum.inward.saturating_add(inward);
            sum.outward = sum.outward.saturating_add(outward);
        }
    }
    sum
}

/// /proc/diskstats counts in these, whatever the device's own block size is.
const SECTOR: u64 = 512;

/// Devices that sit on other devices or in memory: their bytes are counted below, or reach no disk.
const STACKED: [&str; 10] = [
    "bcache", "dm-", "drbd", "fd", "loop", "md", "ram", "sr", "zd", "zram",
];

/// Reads /proc/diskstats: the whole devices that stand for themselves. `None` when there is none, as in
/// most containers.
pub(in crate::vitals) fn disks(diskstats: &str) -> Option<Devices> {
    let mut disks = Devices::new();
    for line in diskstats.lines() {
        let mut fields = line.split_ascii_whitespace().skip(2);
        let Some(name) = fields.next() else { continue };
        if STACKED.iter().any(|kind| is_numbered(name, kind)) || is_partition(name, &disks) {
            continue;
        }
        let mut field = |skip: usize| fields.nth(skip)?.parse::<u64>().ok();
        // reads, merged, SECTORS READ, ms, writes, merged, SECTORS WRITTEN
        let (Some(read), Some(written)) = (field(2), field(3)) else {
            continue;
        };
        let bytes = Bytes {
            inward: read.saturating_mul(SECTOR),
            outward: written.saturating_mul(SECTOR),
        };
        disks.insert(name.to_owned(), bytes);
    }
    (!disks.is_empty()).then_some(disks)
}

fn is_numbered(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind)
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The kernel lists a disk before its partitions: `sda1` of `sda`, `nvme0n1p1` of `nvme0n1`.
fn is_partition(name: &str, disks: &Devices) -> bool {
    let disk = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if disk.len() == name.len() {
        return false;
    }
    let numbered = disk
        .strip_suffix('p')
        .filter(|disk| disk.ends_with(|c: char| c.is_ascii_digit()));
    disks.contains_key(disk) || numbered.is_some_and(|disk| disks.contains_key(disk))
}

/// Reads /proc/net/dev: every interface but the loopback.
pub(in crate::vitals) fn interfaces(dev: &str) -> Option<Devices> {
    let mut interfaces = Devices::new();
    for line in dev.lines() {
        // The two lines of headings have no colon. A name may be followed by its number at once.
        let Some((name, counters)) = line.rsplit_once(':') else {
            continue;
        };
        let mut counters = counters.split_ascii_whitespace();
        let (Some(Ok(inward)), Some(Ok(outward))) = (
            counters.next().map(str::parse),
            counters.nth(7).map(str::parse),
        ) else {
            return None;
        };
        if name.trim() != "lo" {
            interfaces.insert(name.trim().to_owned(), Bytes { inward, outward });
        }
    }
    (!interfaces.is_empty()).then_some(interfaces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(devices: &Devices) -> Vec<&str> {
        devices.keys().map(String::as_str).collect()
    }

    #[test]
    fn only_whole_devices_that_stand_for_themselves_count() {
        let text = "   7       0 loop0 9 9 9 9 9 9 9 9 9 9 9\n\
             254       0 vda 35755 9424 6507314 51984 8664 36174 11409696 77671 0 18228 130501 4687 14 438344 809 859 35\n\
             254       1 vda1 35755 9424 6507314 51984 8664 36174 11409696 77671 0 18228 130501\n\
             259       0 nvme0n1 1 2 3 4 5 6 7 8 0 9 10\n\
             259       1 nvme0n1p1 1 2 3 4 5 6 7 8 0 9 10\n\
             253       0 zram0 1 1 1 1 1 1 1 1 1 1 1\n\
             252       0 dm-0 1 1 1 1 1 1 1 1 1 1 1\n\
               9     127 md127 1 1 1 1 1 1 1 1 1 1 1\n\
              11       0 sr0 0 0 0 0 0 0 0 0 0 0 0\n\
             179       0 mmcblk0 1 1 2 1 1 1 2 1 1 1 1\n\
             179       1 mmcblk0p1 1 1 2 1 1 1 2 1 1 1 1\n";
        let disks = disks(text).unwrap();
        assert_eq!(names(&disks), ["mmcblk0", "nvme0n1", "vda"]);
        assert_eq!(
            disks["vda"],
            Bytes {
                inward: 6_507_314 * 512,
                outward: 11_409_696 * 512
            }
        );
        assert_eq!(
            disks["nvme0n1"],
            Bytes {
                inward: 3 * 512,
                outward: 7 * 512
            }
        );
    }

    #[test]
    fn a_partition_that_stands_alone_is_its_own_disk() {
        // As some virtual machines have it.
        assert_eq!(
            names(&disks(" 202 1 xvda1 1 1 2 1 1 1 2 1 1 1 1\n").unwrap()),
            ["xvda1"]
        );
    }

    #[test]
    fn a_container_without_disks_has_none() {
        assert_eq!(disks(""), None);
        assert_eq!(disks("   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0\n"), None);
        assert_eq!(disks("   8       0 sda 1 1\n"), None);
    }

    const DEV: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
        lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0          0\n  \
        eth0:235897317   11215    0    0    0     0          0         0   914024    9410    0    0    0     0       0          0\n";

    #[test]
    fn interfaces_without_the_loopback() {
        let interfaces = interfaces(DEV).unwrap();
        assert_eq!(names(&interfaces), ["eth0"]);
        assert_eq!(
            interfaces["eth0"],
            Bytes {
                inward: 235_897_317,
                outward: 914_024
            }
        );
    }

    #[test]
    fn a_private_network_has_only_the_loopback() {
        let private: Vec<&str> = DEV.lines().take(3).collect();
        assert_eq!(interfaces(&private.join("\n")), None);
        assert_eq!(interfaces(""), None);
        assert_eq!(interfaces("eth0: x\n"), None);
    }

    #[test]
    fn an_alias_keeps_its_colon() {
        let line = "eth0:1: 5 0 0 0 0 0 0 0 6 0 0 0 0 0 0 0\n";
        assert_eq!(names(&interfaces(line).unwrap()), ["eth0:1"]);
    }

    #[test]
    fn a_reset_or_new_counter_makes_no_spike() {
        let bytes = |inward, outward| Bytes { inward, outward };
        let earlier = Devices::from([
            ("a".to_owned(), bytes(1000, 500)),
            ("b".to_owned(), bytes(7, 7)),
        ]);
        let now = Devices::from([
            ("a".to_owned(), bytes(10, 600)),
            ("c".to_owned(), bytes(1_000_000, 1_000_000)),
        ]);
        assert_eq!(passed(&now, &earlier), bytes(0, 100));
    }
}
