//! Taking variables out of the process's environment, so that no child inherits what was meant for this
//! process alone.

use std::ffi::OsString;
use std::{env, fs, io};

/// Unsets the variables and returns those that were set, in the order of `names`.
///
/// # Errors
/// More than one thread runs, or /proc cannot tell: another thread could read the environment in the same
/// moment, so nothing is changed.
pub(crate) fn take(names: &[&'static str]) -> io::Result<Vec<(&'static str, OsString)>> {
    let set: Vec<_> = names
        .iter()
        .filter_map(|name| env::var_os(name).map(|value| (*name, value)))
        .collect();
    if set.is_empty() {
        return Ok(set);
    }
    if thread_count()? != 1 {
        return Err(io::Error::other(
            "threads are running: payload must start before any thread, outside of #[tokio::main]",
        ));
    }
    for (name, _) in &set {
        unset(name);
    }
    Ok(set)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that may: its caller has counted the threads"
)]
fn unset(name: &str) {
    // SAFETY: the process has exactly one thread (`take` has counted, and only this one could start another),
    // so nobody reads or writes the environment in this moment.
    unsafe { env::remove_var(name) }
}

/// How many threads this process has.
///
/// # Errors
/// /proc/self/task cannot be read.
pub(crate) fn thread_count() -> io::Result<usize> {
    let tasks = fs::read_dir("/proc/self/task")
        .map_err(|error| io::Error::new(error.kind(), format!("read /proc/self/task: {error}")))?;
    Ok(tasks.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_touched_while_other_threads_run() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            let _ = wait.recv();
        });
        let before = env::var_os("PATH");
        let error = take(&["PATH"]).unwrap_err();
        assert!(
            error.to_string().contains("outside of #[tokio::main]"),
            "{error}"
        );
        assert_eq!(env::var_os("PATH"), before);
        drop(stop);
        other.join().unwrap();
    }

    #[test]
    fn variables_that_are_not_set_need_no_change() {
        assert_eq!(take(&["PAYLOAD_SURELY_NOT_SET"]).unwrap(), []);
    }
}
