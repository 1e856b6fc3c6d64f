//! The command line that `ps` and `systemctl status` show, told apart by role.
//!
//! The kernel reads /proc/PID/cmdline out of the process's own memory, between the addresses that
//! /proc/self/stat calls arg_start and arg_end, and goes on into the environment behind it when the last
//! byte of the arguments is not NUL, proc_pid_cmdline(5). So a title is written there.

use std::ffi::OsString;
use std::sync::OnceLock;

struct Area {
    start: usize,
    length: usize,
}

static AREA: OnceLock<Option<Area>> = OnceLock::new();

/// Finds the room for titles. Call once, early, while the process has one thread, and hand in nothing that
/// still points into the original arguments: they will be overwritten.
///
/// Only the arguments' own bytes are used, never the environment's, which libc still points to.
pub(crate) fn prepare() {
    AREA.get_or_init(find);
}

/// Shows `title` in place of the command line, cut to the room there is.
pub(crate) fn set(title: &str) {
    let Some(Some(area)) = AREA.get() else { return };
    let text = title.as_bytes();
    // The last byte stays NUL: else the kernel would read on into the environment.
    let length = text.len().min(area.length.saturating_sub(1));
    let start = area.start as *mut u8;
    // SAFETY: `find` took the range from the kernel's own record of where this process's arguments lie: it
    // is mapped, writable (it is on the initial stack), `area.length` bytes long, and nothing in Rust
    // borrows it: std::env::args copies, and `find` ran after the copies that this process needs.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), start, length);
        std::ptr::write_bytes(start.add(length), 0, area.length - length);
    }
}

fn find() -> Option<Area> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in parentheses and may contain anything.
    let rest = stat.get(stat.rfind(')')? + 1..)?;
    let field = |number: usize| {
        rest.split_ascii_whitespace()
            .nth(number - 3)?
            .parse::<usize>()
            .ok()
    };
    let (start, end) = (field(48)?, field(49)?);
    // Trust, but verify: what lies there must be the arguments.
    let expected: usize = std::env::args_os().map(|arg: OsString| arg.len() + 1).sum();
    (start != 0 && end > start && end - start == expected).then(|| Area {
        start,
        length: end - start,
    })
}
