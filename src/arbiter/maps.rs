//! Where files are mapped in a process, proc_pid_maps(5).
//!
//! A worker that another image of the arbiter has forked has the same code at other addresses, if it is the same
//! code at all.

use std::fs;

/// The mappings of files of one process, in the order of their addresses.
#[derive(Debug, Default)]
pub(super) struct Maps(Vec<Mapping>);

#[derive(Debug)]
struct Mapping {
    start: u64,
    end: u64,
    /// In the file.
    offset: u64,
    device: String,
    inode: u64,
}

impl Maps {
    /// Empty where they cannot be read: then nothing is found in them.
    pub(super) fn of(pid: u32) -> Self {
        fs::read_to_string(format!("/proc/{pid}/maps"))
            .map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(Mapping::parse).collect())
    }

    /// The address at which this process has what is at `address` in the other one.
    pub(super) fn translate(&self, other: &Self, address: u64) -> Option<u64> {
        let there = other.0.iter().find(|mapping| mapping.has(address))?;
        let offset = address - there.start + there.offset;
        self.0.iter().find_map(|here| {
            let same = here.device == there.device && here.inode == there.inode;
            let address = here.start + offset.checked_sub(here.offset)?;
            (same && here.has(address)).then_some(address)
        })
    }
}

impl Mapping {
    /// `None` for what is no file.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
        let mapping = Self {
            start: hexadecimal(start)?,
            end: hexadecimal(end)?,
            offset: hexadecimal(words.nth(1)?)?,
            device: words.next()?.to_owned(),
            inode: words.next()?.parse().ok()?,
        };
        (mapping.inode != 0).then_some(mapping)
    }

    fn has(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "\
10000-20000 r--p 00000000 fd:01 77   /usr/bin/app
20000-30000 r-xp 00010000 fd:01 77   /usr/bin/app
90000-91000 r-xp 00000000 00:00 0    [vdso]
";

    #[test]
    fn an_address_is_found_by_its_place_in_the_file() {
        let here = Maps::parse(HERE);
        let there = Maps::parse("7000000-7010000 r-xp 00010000 fd:01 77 /usr/bin/app (deleted)\n");
        assert_eq!(here.translate(&there, 0x700_1234), Some(0x2_1234));
        assert_eq!(here.translate(&here, 0x2_1234), Some(0x2_1234));
    }

    #[test]
    fn what_is_of_another_file_or_of_none_is_not_found() {
        let here = Maps::parse(HERE);
        let other = Maps::parse("7000000-7010000 r-xp 00010000 fd:01 78 /usr/bin/app\n");
        assert_eq!(here.translate(&other, 0x700_1234), None);
        assert_eq!(here.translate(&here, 0x9_0010), None);
        assert_eq!(here.translate(&Maps::default(), 0x2_1234), None);
    }

    #[test]
    fn this_process_finds_its_own_code() {
        let own = Maps::of(std::process::id());
        let address = this_process_finds_its_own_code as *const () as u64;
        assert_eq!(own.translate(&own, address), Some(address));
    }
}
