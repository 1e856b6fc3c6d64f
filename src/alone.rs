//! A process that is to be forked must have one thread: who else runs in it.

use std::thread::sleep;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::exit::{ExitCode, Failure};
use crate::sys::process::other_threads;

/// A thread that was joined is still there for a moment: it is looked for again so often, with a pause before each. Not
/// for so long: a process that was stopped in between has given it no time to go.
const LOOKS: u32 = 500;
const PAUSE: Duration = Duration::from_millis(1);
/// So many threads are named.
const NAMED: usize = 5;

/// Whether nobody but the author's `main` runs here, and that outside of a runtime. To be called before anything else.
///
/// # Errors
/// Somebody does: exit 70, with the names and the cure.
pub(crate) fn check() -> Result<(), Failure> {
    let threads = threads_left();
    let what = if !threads.is_empty() {
        format!(
            "while other threads run ({}): a process with threads cannot be forked",
            listed(&threads)
        )
    } else if Handle::try_current().is_ok() {
        "inside of a tokio runtime: every worker makes one of its own, after the fork".to_owned()
    } else {
        return Ok(());
    };
    Err(Failure::new(
        ExitCode::Software,
        format!(
            "payload::main was called {what}; make main a plain `fn main`, without #[tokio::main], that calls it first \
             of all, and build runtimes, pools and threads in `load`"
        ),
    ))
}

/// The names of the other threads that do not end by themselves.
pub(crate) fn threads_left() -> Vec<String> {
    // What cannot be seen is found by the fork, which looks again.
    look_again(|| other_threads().unwrap_or_default(), || sleep(PAUSE))
}

/// Until there are none, or those that are left stay.
fn look_again(mut look: impl FnMut() -> Vec<String>, mut pause: impl FnMut()) -> Vec<String> {
    let mut threads = look();
    for _ in 0..LOOKS {
        if threads.is_empty() {
            break;
        }
        pause();
        threads = look();
    }
    threads
}

/// Their names for a message; of many the first.
pub(crate) fn listed(threads: &[String]) -> String {
    let mut names: Vec<String> = threads.iter().map(|name| format!("'{name}'")).collect();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let mut names = names.join(", ");
    if more > 0 {
        names.push_str(&format!(" and {more} more"));
    }
    names
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// However long the pauses have become.
    #[test]
    fn a_thread_that_goes_is_waited_for_and_one_that_stays_is_not() {
        let (looks, pauses) = (Cell::new(0), Cell::new(0));
        let pause = || pauses.set(pauses.get() + 1);
        let goes = || {
            looks.set(looks.get() + 1);
            let is_there = looks.get() < LOOKS;
            is_there.then(|| "joined".to_owned()).into_iter().collect()
        };
        assert!(look_again(goes, pause).is_empty());
        assert_eq!((looks.get(), pauses.get()), (LOOKS, LOOKS - 1));
        pauses.set(0);
        assert_eq!(look_again(|| vec!["stays".to_owned()], pause), ["stays"]);
        assert_eq!(pauses.get(), LOOKS);
    }

    #[test]
    fn of_many_the_first_are_named() {
        let names = |count: usize| -> Vec<String> { (0..count).map(|n| format!("t{n}")).collect() };
        assert_eq!(listed(&names(1)), "'t0'");
        assert_eq!(listed(&names(7)), "'t0', 't1', 't2', 't3', 't4' and 2 more");
    }
}
