//! A thread that is held, and answers no signal before it has waited for a while: as one that its machine does not let
//! run.

use std::mem::MaybeUninit;
use std::thread::sleep;
use std::time::Duration;

use nix::libc;

/// How long a signal waits.
const DEAF: Duration = Duration::from_millis(100);

/// Holds the thread for so long.
#[expect(unsafe_code, reason = "nobody else's library knows real-time signals")]
pub(crate) fn hold(then: impl FnOnce()) {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is filled in before it is read; only this thread's mask is changed.
    let all = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        let all = all.assume_init();
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        all
    };
    while !is_called() {
        sleep(Duration::from_millis(1));
    }
    sleep(DEAF);
    // SAFETY: as above.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const all, std::ptr::null_mut()) };
    then();
}

/// A signal waits for this thread.
#[expect(unsafe_code, reason = "as above")]
fn is_called() -> bool {
    let mut waiting = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is filled in before it is read.
    unsafe {
        libc::sigpending(waiting.as_mut_ptr());
        let waiting = waiting.assume_init();
        (1..=libc::SIGRTMAX()).any(|signal| libc::sigismember(&raw const waiting, signal) == 1)
    }
}
