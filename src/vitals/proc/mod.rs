//! What the kernel says in /proc, as pure functions over text.
//!
//! A hardened unit or a container hides much of it (ProcSubset=pid, ProtectProc=invisible, no PSI), so
//! every function answers `None` for a text that is not there or not as proc(5) describes it.

pub(super) mod devices;
pub(super) mod machine;
pub(super) mod process;

/// Where the texts come from: the running kernel, or a test.
pub(super) trait Source {
    /// The whole file, or `None` when it is not there, not readable or not UTF-8.
    fn read(&self, path: &str) -> Option<String>;
}

/// The running kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel;

impl Source for Kernel {
    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(path).ok()
    }
}

/// The number of a line `Name:   123 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        let number: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
        number.checked_mul(1024)
    })
}

#[cfg(test)]
mod tests {
    use super::kibibytes;

    #[test]
    fn a_line_is_found_by_its_whole_name() {
        let text = "Pss_Dirty:           144 kB\nPss:                 499 kB\n";
        assert_eq!(kibibytes(text, "Pss"), Some(499 * 1024));
        assert_eq!(kibibytes(text, "Rss"), None);
    }

    #[test]
    fn a_number_without_its_unit_or_beyond_all_memory_is_not_believed() {
        assert_eq!(kibibytes("Pss: 499\n", "Pss"), None);
        assert_eq!(kibibytes("Pss: 18446744073709551615 kB\n", "Pss"), None);
    }
}
