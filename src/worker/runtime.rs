//! The worker's runtime: how it is made, that it beats, and how it ends.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::stages::Stages;
use super::wake::Wake;
use crate::config::Timeouts;

/// The slowest heartbeat; it is faster where a limit is short.
const SLOWEST_BEAT: Duration = Duration::from_secs(1);
const FASTEST_BEAT: Duration = Duration::from_millis(20);
/// So long it may take in any case, also when the time was up before: work that is over has to be seen to be.
const MOMENT: Duration = Duration::from_millis(500);
/// Who waits longer says so.
const LONG: Duration = Duration::from_secs(1);

/// To be called by the thread that the app is to run in. All threads of the runtime, those for blocking work too, draw
/// random numbers of their own.
pub(super) fn build(threads: u16) -> io::Result<(Runtime, Option<Wake>)> {
    seed_this_thread();
    if threads <= 1 {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().on_thread_start(seed_this_thread);
        return Ok((builder.build()?, None));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::from(threads))
        .thread_name("worker")
        .on_thread_start(seed_this_thread)
        .enable_all()
        .build()?;
    let wake = Wake::start(runtime.handle().clone())?;
    Ok((runtime, Some(wake)))
}

/// Seeds `fastrand` from the kernel. By itself it takes the time and the number of the thread: siblings number their
/// threads alike, and start at the same time.
fn seed_this_thread() {
    // std asks the kernel for keys, once in each thread.
    fastrand::seed(RandomState::new().hash_one(()));
}

pub(super) async fn heartbeat(stages: Arc<Stages>, every: Duration) {
    let mut interval = interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        stages.beat();
    }
}

/// Four beats in the shortest limit, so that one late beat alarms nobody.
pub(super) fn beat_interval(timeouts: &Timeouts) -> Duration {
    let limits = [
        timeouts.heartbeat_boot,
        timeouts.heartbeat_serving,
        timeouts.heartbeat_stopping,
    ];
    let shortest = limits
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(SLOWEST_BEAT * 4);
    (shortest / 4).clamp(FASTEST_BEAT, SLOWEST_BEAT)
}

/// Ends the runtime. Tasks are dropped where they wait, blocking work that has not begun is never begun, and what has
/// begun is awaited to the `deadline`, since nothing can cancel what holds a thread. Returns whether it is over; else it is
/// left behind, and ends with the process.
///
/// The runtime does not beat any more: `beat` is called instead, `every` so often. `None`: there is no deadline.
pub(super) fn end(
    runtime: Runtime,
    deadline: Option<Instant>,
    every: Duration,
    beat: impl Fn(),
) -> bool {
    let deadline = deadline.map(|deadline| deadline.max(Instant::now() + MOMENT));
    let left = || deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let (give, take) = channel::<Runtime>();
    let (ended, end) = channel::<()>();
    // The drop waits, for ever if need be. Nobody ever sends by `ended`: that it is gone is the news.
    let thread = Builder::new().name("ending".to_owned()).spawn(move || {
        seed_this_thread();
        let _ended = ended;
        drop(take.recv());
    });
    let Ok(thread) = thread else {
        // Without a thread for it nobody beats either.
        runtime.shutdown_timeout(left().unwrap_or(every));
        return left().is_some_and(|left| !left.is_zero());
    };
    // It is there to take it.
    let _ = give.send(runtime);
    let began = Instant::now();
    let mut told = false;
    loop {
        let left = left();
        match end.recv_timeout(left.map_or(every, |left| left.min(every))) {
            Err(RecvTimeoutError::Timeout) if left.is_some_and(|left| left.is_zero()) => {
                return false;
            }
            Err(RecvTimeoutError::Timeout) => {
                beat();
                if !told && began.elapsed() >= LONG {
                    told = true;
                    let left_seconds = left.map(|left| left.as_secs_f64());
                    tracing::info!(left_seconds, "the worker waits for blocking work to end");
                }
            }
            // A destructor's panic is logged, and no reason to go on waiting.
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                let _ = thread.join();
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::sync::mpsc::Sender;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    fn runtime() -> Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
    }

    /// Has begun when this returns, holds `held`, and ends when the sender is gone.
    fn block(runtime: &Runtime, held: impl Send + 'static) -> Sender<()> {
        let ((go, wait), (begin, begun)) = (channel(), channel());
        runtime.spawn_blocking(move || {
            let _held = held;
            drop(begin);
            let _: Result<(), _> = wait.recv();
        });
        let _: Result<(), _> = begun.recv();
        go
    }

    #[test]
    fn what_has_begun_is_awaited_to_its_end_and_beaten_for() {
        for deadline in [None, Some(Instant::now() + Duration::from_mins(10))] {
            let (runtime, held) = (runtime(), Arc::new(()));
            let go = std::cell::Cell::new(Some(block(&runtime, held.clone())));
            let beats = AtomicUsize::new(0);
            let over = end(runtime, deadline, SOON, || {
                if beats.fetch_add(1, Relaxed) == 3 {
                    go.take();
                }
            });
            assert!(over);
            assert!(beats.into_inner() > 3);
            assert_eq!(Arc::strong_count(&held), 1, "it has been dropped");
        }
    }

    #[test]
    fn what_does_not_end_is_left_behind_when_the_time_is_up() {
        for deadline in [Instant::now(), Instant::now() + MOMENT * 3 / 2] {
            let runtime = runtime();
            let _never = block(&runtime, ());
            assert!(!end(runtime, Some(deadline), SOON, || ()));
            assert!(Instant::now() >= deadline);
        }
    }

    #[test]
    fn with_nothing_to_wait_for_a_deadline_that_has_passed_is_kept() {
        let runtime = runtime();
        let held = Arc::new(());
        let task = held.clone();
        runtime.spawn(async move {
            let _task = task;
            std::future::pending::<()>().await;
        });
        assert!(end(runtime, Some(Instant::now()), SOON, || ()));
        assert_eq!(Arc::strong_count(&held), 1, "tasks are dropped");
    }
}
