//! Holds every child of the probe's arbiter at its birth: with `PROBE_BIRTH` in the environment, the name of a file,
//! a process that is forked while that file is there waits for its end before it comes back from fork(2).

use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use nix::libc;

static HOLD: OnceLock<PathBuf> = OnceLock::new();

/// To be called first in `main`.
#[expect(unsafe_code, reason = "there is no other way into a child's birth")]
pub(crate) fn attend() {
    let Some(file) = std::env::var_os("PROBE_BIRTH") else {
        return;
    };
    HOLD.get_or_init(|| file.into());
    // SAFETY: the handler is a function for the rest of the program's life. What it does is allowed in the child of a
    // process with one thread, which is what the arbiter is.
    unsafe { libc::pthread_atfork(None, None, Some(wait)) };
}

extern "C" fn wait() {
    while HOLD.get().is_some_and(|file| file.exists()) {
        sleep(Duration::from_millis(5));
    }
}
