//! One run of the author's code, so that whatever it does is an outcome.

use std::any::Any;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::coop::{has_budget_remaining, unconstrained};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::error::Fault;
use crate::exit::{BoxError, chain};

/// The author's code, ready to run.
pub(super) type Act<T> = Pin<Box<dyn Future<Output = super::Result<T>> + Send>>;

/// Runs `act` until it ends, its own limit has passed, or `cut` resolves; then it is dropped where it waits. It is
/// polled at least once, however late it is.
///
/// tokio gives each poll of a task a budget, and with none left its timers and channels say that they are not ready.
/// A step that always has something to do leaves none to those who wait beside it, so they do without: `cut`, and what
/// a caller selects this with (`unconstrained`).
pub(super) async fn run<T>(
    act: Act<T>,
    limit: Option<Duration>,
    cut: impl Future<Output = ()>,
) -> Result<T, Fault> {
    if !has_budget_remaining() {
        // The step before it has used it up, and it is to get somewhere with its one poll.
        yield_now().await;
    }
    let at = limit.and_then(|limit| Instant::now().checked_add(limit));
    tokio::select! {
        biased;
        outcome = Guarded(Some(act)) => outcome,
        () = sleep_until_some(at) => Err(Fault::TimedOut(limit.unwrap_or_default())),
        () = unconstrained(cut) => Err(Fault::CutOff),
    }
}

/// Never, for `None`. Whatever the task has done before in the same poll.
pub(super) async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => unconstrained(sleep_until(at)).await,
        None => pending().await,
    }
}

/// Runs plain code of the author's, such as a destructor.
pub(super) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|panic| Fault::Panic(panic_message(panic)))
}

/// What a panic said.
pub(crate) fn panic_message(panic: Box<dyn Any + Send>) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| {
        // Whatever it is, its drop may panic as well.
        std::mem::forget(panic);
        "no message".to_owned()
    })
}

/// What an error of the author's says. To say it and to drop it is his code too.
pub(super) fn fault(error: BoxError) -> Fault {
    let said = catch(|| chain(error.as_ref())).map_or_else(|panic| panic, Fault::Error);
    // What it said counts; the panic hook has reported the rest.
    let _ = catch(|| drop(error));
    said
}

/// A panic in a poll or in the drop of what is inside ends here.
struct Guarded<T>(Option<Act<T>>);

impl<T> Future for Guarded<T> {
    type Output = Result<T, Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(act) = self.0.as_mut() else {
            return Poll::Pending;
        };
        match catch(|| act.as_mut().poll(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => Poll::Ready(result.map_err(fault)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // The panic hook has reported it; a step that is already over has no other way to fail.
        let _ = catch(|| drop(self.0.take()));
    }
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    /// Panics when it is dropped.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("boom");
        }
    }

    #[test]
    fn what_a_panic_says_is_known_and_to_drop_it_is_no_danger() {
        let said = |code: fn()| catch(code).unwrap_err().to_string();
        assert_eq!(said(|| panic!("boom")), "panicked: boom");
        assert_eq!(said(|| panic!("boom {}", 1)), "panicked: boom 1");
        assert_eq!(said(|| panic_any(1)), "panicked: no message");
        assert_eq!(said(|| panic_any(Bomb)), "panicked: no message");
    }
}
