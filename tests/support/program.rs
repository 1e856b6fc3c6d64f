//! Programs that a test puts somewhere and then runs.
//!
//! execve(2) refuses a file that anybody has open for writing (ETXTBSY), and whatever one thread of a test writes, the
//! children that other threads start meanwhile have open until their own exec. So a process of its own does the writing.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Copies a program.
#[track_caller]
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("--").args([from, to]).status();
    let copied = status.is_ok_and(|status| status.success());
    assert!(copied, "copy {} to {}", from.display(), to.display());
}

/// Writes what is to be run, or only looks like it, with this mode.
#[track_caller]
pub(crate) fn write_program(path: &Path, content: &[u8], mode: u32) {
    let mut install = Command::new("install")
        .args(["-m", &format!("{mode:o}"), "--", "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("install(1)");
    let mut stdin = install.stdin.take().expect("its standard input");
    stdin.write_all(content).expect("it reads");
    drop(stdin);
    let status = install.wait().expect("install(1)");
    assert!(status.success(), "write {}", path.display());
}
