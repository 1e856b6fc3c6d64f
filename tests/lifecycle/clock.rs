//! One monotonic clock: the shell looks at it (`src/sys/clock.rs`) and tells the core what time it is. By the wall clock
//! go no limits: `clippy.toml` allows it nowhere without a reason.

use std::fs;
use std::path::{Path, PathBuf};

/// What a file of the core may name of the standard library, and of this crate: values, none of which does anything.
const ALLOWED: &[&str] = &[
    "std::cmp::",
    "std::collections::",
    "std::fmt",
    "std::mem::",
    "std::time::Duration",
    "crate::arbiter::core",
    "crate::config::",
    "crate::exit::ExitCode",
    "crate::ipc::orders::",
    "crate::lease::",
    "crate::moment::Moment",
    "crate::status",
    "crate::worker::phase::Phase",
];

/// What it may not name, wherever it has that from.
const CLOCKS: &[&str] = &[
    "Instant",
    "SystemTime",
    "sys::clock",
    "nix::time",
    "tokio::",
];

/// The lines of the code that name something else. Comments name what they like.
fn outside(text: &str) -> Vec<&str> {
    let names = |line: &&str| {
        let code = line.split("//").next().unwrap_or_default();
        let paths = ["std::", "crate::"]
            .iter()
            .flat_map(|root| code.match_indices(root))
            .map(|(at, _)| &code[at..]);
        let mut paths = paths.filter(|path| !ALLOWED.iter().any(|known| path.starts_with(known)));
        paths.next().is_some() || CLOCKS.iter().any(|word| code.contains(word))
    };
    text.lines().filter(names).collect()
}

/// All but the tests, and the simulation, which is one.
fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy();
        if ["tests", "simulation"].contains(&&*stem) {
            continue;
        }
        if path.is_dir() {
            files(&path, into);
        } else {
            into.push(path);
        }
    }
}

#[test]
fn the_core_is_told_the_time_and_has_no_clock() {
    let mut core = Vec::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/arbiter/core");
    files(&folder, &mut core);
    assert!(core.iter().any(|file| file.ends_with("core/health.rs")));
    assert!(core.iter().any(|file| file.ends_with("lease/pass.rs")));
    let mut wrong = Vec::new();
    for file in core {
        let text = fs::read_to_string(&file).unwrap();
        // Tests in the file itself stand at its end.
        let (text, _) = text
            .split_once("#[cfg(test)]\nmod tests {")
            .unwrap_or((&text, ""));
        let lines = outside(text).into_iter();
        wrong.extend(lines.map(|line| format!("{}: {}", file.display(), line.trim())));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_the_core_may_not_name_is_found() {
    for wrong in [
        "use std::time::Instant;",
        "use std::time::{Duration, Instant};",
        "let now = SystemTime::now();",
        "use crate::sys::clock;",
        "use super::super::sys::clock;",
        "let text = std::fs::read_to_string(path);",
        "use tokio::time::sleep;",
    ] {
        assert_eq!(outside(wrong), [wrong]);
    }
    for right in ["use std::time::Duration;", "// Not by std::time::Instant."] {
        assert!(outside(right).is_empty(), "{right}");
    }
}
